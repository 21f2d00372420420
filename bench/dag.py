"""Workflows: a wide one, a large one and a long one, from RunWorkflow to the result, every node a real task.

Wide is 1 -> 198 -> 1. Large is 10,000 nodes in 100 layers of 100, each standing on one of the layer before.
Long is a chain of 1,000. Nodes are a skill that returns its input; disks sync before anything counts."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import machine, proc
from bench.figures import Aim, Section, WorkNotDone
from bench.nodes import CpuBooks, client_of, ready, running
from bench.options import Options, add_arguments, guarded, options_of, write_json
from bench.table import print_section
from coterie.client import Cluster
from coterie.node.localcluster import LocalCluster
from coterie.node.workflows import Known, load

NAME = "dag"
WIDE, LAYERS, LAYER, LONG = 198, 100, 100, 1_000
WIDE_AIM, CHECK_AIM, LARGE_AIM = Aim("<", 0.15), Aim("<", 2.0), Aim("<", 15.0)
WARM_UP = 2
SLOTS = 70  # of a node: all of the wide layer may run at once
END_S = 300.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A workflow to be run. `text` is what a client sends; `wanted` what the run must give."""

    key: str
    title: str
    text: str
    wanted: Any
    nodes: int
    aim: Aim | None = None


def wide() -> Shape:
    """One node, 198 that stand on it, one that stands on all of them."""
    nodes: dict[str, Any] = {"begin": {"skill": "echo", "input": 0}}
    for at in range(WIDE):
        nodes[f"n{at}"] = {"skill": "echo", "input": at, "depends_on": "begin"}
    nodes["end"] = {"skill": "echo", "input": "done", "depends_on": [f"n{at}" for at in range(WIDE)]}
    return Shape("wide", f"1 -> {WIDE} -> 1", _text(nodes), {"end": "done"}, WIDE + 2, WIDE_AIM)


def large() -> Shape:
    """Layers: node 7 of a layer stands on node 7 and node 8 of the layer before."""
    nodes: dict[str, Any] = {}
    for layer in range(LAYERS):
        for at in range(LAYER):
            before = [f"l{layer - 1}-{at}", f"l{layer - 1}-{(at + 1) % LAYER}"] if layer else []
            nodes[f"l{layer}-{at}"] = {"skill": "echo", "input": at, "depends_on": before}
    title = f"{LAYERS * LAYER:,} nodes, {LAYERS} layers of {LAYER}"
    wanted = {f"l{LAYERS - 1}-{at}": at for at in range(LAYER)}
    return Shape("large", title, _text(nodes), wanted, LAYERS * LAYER, LARGE_AIM)


def long() -> Shape:
    """A chain: each node gets what the one before it gave."""
    nodes: dict[str, Any] = {"c0": {"skill": "echo", "input": 7}}
    for at in range(1, LONG):
        nodes[f"c{at}"] = {"skill": "echo", "input": f"{{{{ c{at - 1} }}}}", "depends_on": f"c{at - 1}"}
    return Shape("long", f"chain of {LONG:,}", _text(nodes), {f"c{LONG - 1}": 7}, LONG)


def _text(nodes: dict[str, Any]) -> str:
    return json.dumps({"inputs": [], "nodes": nodes})


SHAPES: dict[str, Callable[[], Shape]] = {"wide": wide, "large": large, "long": long}


async def measure(options: Options, wanted: tuple[str, ...] = tuple(SHAPES)) -> Section:
    """Each shape `runs` times on one cluster; the large one once."""
    section = Section(NAME, f"Workflows, {options.nodes} nodes x {options.capacity} slots, fsync")
    shapes = [SHAPES[key]() for key in wanted]
    for shape in shapes:
        section.add(
            f"{shape.key}.check",
            f"{shape.title}: read and checked",
            "s",
            [_checked(shape) for _ in range(options.runs)],
            CHECK_AIM if shape.key == "large" else None,
        )
    async with running(options) as cluster:
        await ready(cluster)
        async with client_of(cluster) as client:
            for shape in shapes:
                await _measured(section, cluster, client, shape, options)
    section.notes.append("The result of every run and the end of each node are compared with what is meant.")
    return section


async def _measured(
    section: Section, cluster: LocalCluster, client: Cluster, shape: Shape, options: Options
) -> None:
    small = shape.nodes < 5_000
    for _ in range(WARM_UP if small else 0):
        await _ran(client, shape)
    leader, before, cpu = await ready(cluster), _rss(cluster), CpuBooks(cluster)
    samples = [await _ran(client, shape) for _ in range(options.runs if small else 1)]
    nodes, skills = cpu.used_s()
    per_task = 1_000 / (shape.nodes * len(samples))
    followers = (sum(nodes.values()) - nodes[leader]) / max(1, len(nodes) - 1)
    section.add(shape.key, f"{shape.title}: from the call to the result", "s", samples, shape.aim)
    section.notes.append(
        f"{shape.title}: RSS of the largest node {before:.0f} -> {_rss(cluster):.0f} MiB; CPU ms for each of "
        f"its nodes: leader {nodes[leader] * per_task:.2f}, each follower {followers * per_task:.2f}, "
        f"skill processes {skills * per_task:.2f}"
    )


def _checked(shape: Shape) -> float:
    began = time.perf_counter()
    loaded = load(shape.text, Known(skills={"echo"}))
    took = time.perf_counter() - began
    if loaded.problems or len(loaded.graph.nodes) != shape.nodes:
        raise WorkNotDone(f"{shape.title}: {loaded.problems[:3]}")
    return took


async def _ran(client: Cluster, shape: Shape) -> float:
    began = time.perf_counter()
    job = await client.run_workflow(shape.text)
    result = await job.wait(timeout=END_S)
    took = time.perf_counter() - began
    if result != shape.wanted:
        raise WorkNotDone(f"{shape.title} gave {str(result)[:200]}")
    run = await client.workflows.get(job.id)
    states = {node.state for node in run.nodes}
    if states != {"SUCCEEDED"} or len(run.nodes) != shape.nodes:
        raise WorkNotDone(f"{shape.title}: {len(run.nodes)} nodes ended as {states}")
    return took


def _rss(cluster: LocalCluster) -> float:
    return max(proc.rss_mib(pid) for pid in map(cluster.pid, cluster.node_ids))


def main() -> None:
    """`python -m bench.dag`: all shapes, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m bench.dag", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="only these; repeatable")
    parser.set_defaults(runs=5, capacity=SLOTS)
    arguments = parser.parse_args()
    options, shapes = options_of(arguments), tuple(arguments.shape or SHAPES)
    facts = machine.facts()
    print(machine.sentence(facts), flush=True)
    section = asyncio.run(guarded(NAME, lambda given: measure(given, shapes), options))
    print_section(section)
    if arguments.json:
        write_json(arguments.json, facts, [section], {})
    sys.exit(1 if section.failures else 0)


if __name__ == "__main__":
    main()
