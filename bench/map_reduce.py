"""map_reduce: documents a second, from the call to the result, without a fault.

Each document is a task of a skill that returns its input; the results come back in their order."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from bench import machine
from bench.figures import Section, WorkNotDone
from bench.nodes import CpuBooks, client_of, ready, running
from bench.options import Options, add_arguments, guarded, options_of, write_json
from bench.table import print_section
from coterie.client import Cluster, MapReduceResult, start_map_reduce
from coterie.client.map_reduce import WINDOW

NAME = "map_reduce"
DOCUMENTS = 2_000
WARM_UP = 100
END_S = 600.0


async def measure(options: Options, documents: int = DOCUMENTS, windows: tuple[int, ...] = ()) -> Section:
    """`runs` times for each window, on one cluster."""
    section = Section(NAME, f"map_reduce, {options.nodes} nodes x {options.capacity} slots, fsync")
    async with running(options) as cluster:
        leader = await ready(cluster)
        async with client_of(cluster) as client:
            await _rate(client, WARM_UP, WINDOW)
            for window in windows or (WINDOW,):
                cpu = CpuBooks(cluster)
                ran = [await _rate(client, documents, window) for _ in range(options.runs)]
                title = f"{documents:,} documents, window {window}"
                section.add(f"w{window}.per_s", title, "documents/s", [rate for rate, _ in ran])
                nodes, skills = cpu.used_s()
                each = 1_000 / (documents * options.runs)
                others = (sum(nodes.values()) - nodes[leader]) / max(1, len(nodes) - 1)
                section.notes.append(
                    f"window {window}: the parent ran {ran[-1][1]} times; CPU ms for each document: "
                    f"leader {nodes[leader] * each:.2f}, each follower {others * each:.2f}, "
                    f"skill processes {skills * each:.2f}"
                )
    section.notes.append("Every result is compared with its document.")
    return section


async def _rate(client: Cluster, count: int, window: int) -> tuple[float, int]:
    """Documents a second, and in how many attempts the parent did it."""
    began = time.perf_counter()
    job = await start_map_reduce(client, range(count), map="echo", window=window)
    result = MapReduceResult.of(await job.wait(timeout=END_S))
    took = time.perf_counter() - began
    if result != MapReduceResult(list(range(count)), count):
        raise WorkNotDone(f"{count} documents gave {str(result)[:200]}")
    return count / took, (await job.get()).attempt


def main() -> None:
    """`python -m bench.map_reduce`."""
    parser = argparse.ArgumentParser(prog="python -m bench.map_reduce", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--window", type=int, action="append", help="repeatable")
    arguments = parser.parse_args()
    options, windows = options_of(arguments), tuple(arguments.window or ())
    facts = machine.facts()
    print(machine.sentence(facts), flush=True)
    measured = guarded(NAME, lambda given: measure(given, arguments.documents, windows), options)
    section = asyncio.run(measured)
    print_section(section)
    if arguments.json:
        write_json(arguments.json, facts, [section], {})
    sys.exit(1 if section.failures else 0)


if __name__ == "__main__":
    main()
