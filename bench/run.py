"""All benches one after the other, and the ratios between them: `make bench`.

    python -m bench.run                        everything, about ten minutes
    python -m bench.run --quick                one run of each, short loads: a smoke test, not a measurement
    python -m bench.run --only failover,resume
    python -m bench.run --json figures.json

Exits 1 when work was lost, doubled or wrong, never because of a figure."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from types import ModuleType

from bench import (
    apply,
    etcd,
    failover,
    footprint,
    latency,
    machine,
    raft_engine,
    resume,
    scale,
    throughput,
)
from bench.figures import Section
from bench.options import Options, add_arguments, guarded, options_of, write_json
from bench.ratios import ratios
from bench.table import print_section, print_summary

BENCHES: dict[str, ModuleType] = {
    bench.NAME: bench
    for bench in (throughput, latency, scale, failover, resume, footprint, apply, raft_engine, etcd)
}
QUICK_SECONDS = 2.0


async def run(names: Sequence[str], options: Options) -> list[Section]:
    """The named benches in their order, each printed when it is done; then the ratios."""
    sections: list[Section] = []
    for name in names:
        print(f"\n... {name} (load average {os.getloadavg()[0]:.2f})", end="", flush=True)
        began = time.monotonic()
        section = await guarded(name, BENCHES[name].measure, options)
        section.details["took_s"] = round(time.monotonic() - began, 1)
        print(f", {section.details['took_s']:.0f} s", end="")
        print_section(section)
        sections.append(section)
    compared = ratios(sections)
    print_section(compared)
    return [*sections, compared]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--only", metavar="NAMES", help=f"some of: {','.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="one run each, short loads")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(BENCHES)
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"--only: {', '.join(unknown)} is none of {', '.join(BENCHES)}")
    options = options_of(arguments)
    if arguments.quick:
        options = replace(options, runs=1, seconds=QUICK_SECONDS)
    facts = machine.facts()
    print(machine.sentence(facts), flush=True)
    sections = asyncio.run(run(names, options))
    print_summary(sections)
    if arguments.json:
        write_json(arguments.json, facts, sections, {"options": asdict(options)})
        print(f"\nwritten: {arguments.json}")
    sys.exit(1 if any(section.failures for section in sections) else 0)


if __name__ == "__main__":
    main()
