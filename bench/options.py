"""The command line of the benches, and how each is run alone."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.figures import Section, WorkNotDone
from bench.table import print_section

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be chosen. `runs`: how often each figure is taken; `seconds`: how long a steady load lasts."""

    runs: int = 3
    seconds: float = 8.0
    nodes: int = 3
    capacity: int = 16
    tls: bool = True


Measure = Callable[[Options], Awaitable[Section]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options every bench takes."""
    usual = Options()
    parser.add_argument(
        "--runs", type=_at_least_one, default=usual.runs, help="how often each figure is taken"
    )
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="how long a steady load lasts")
    parser.add_argument("--nodes", type=_at_least_one, default=usual.nodes, help="nodes of the cluster")
    parser.add_argument(
        "--capacity", type=_at_least_one, default=usual.capacity, help="skill slots of a node"
    )
    parser.add_argument("--no-tls", action="store_true", help="plain text instead of mutual TLS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE as JSON")


def options_of(arguments: argparse.Namespace) -> Options:
    """The options from a parsed command line."""
    return Options(
        runs=arguments.runs,
        seconds=arguments.seconds,
        nodes=arguments.nodes,
        capacity=arguments.capacity,
        tls=not arguments.no_tls,
    )


async def guarded(name: str, measure: Measure, options: Options) -> Section:
    """The section of a bench; undone work becomes its failure, so that the other benches still run."""
    try:
        return await measure(options)
    except WorkNotDone as error:
        return Section(name, f"{name}: the work was not done", failures=[str(error)])


def write_json(path: Path, facts: dict[str, Any], sections: Sequence[Section], more: dict[str, Any]) -> None:
    """One document with the machine, the options and every sample."""
    document = {"machine": facts, **more, "sections": [section.as_json() for section in sections]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def run_alone(name: str, measure: Measure) -> None:
    """What `python -m bench.<name>` does. Exits 1 when the work was not done, 0 otherwise."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}")
    add_arguments(parser)
    arguments = parser.parse_args()
    options = options_of(arguments)
    facts = machine.facts()
    print(machine.sentence(facts), flush=True)
    section = asyncio.run(guarded(name, measure, options))
    print_section(section)
    if arguments.json:
        write_json(arguments.json, facts, [section], {})
    sys.exit(1 if section.failures else 0)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number
