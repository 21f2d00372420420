"""A signal looks at those it is for, however many wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from coterie.core.commands import SignalTask
from coterie.core.graph.model import GraphNode
from coterie.core.nouns import Data
from coterie.core.runs import instant
from coterie.core.runs.walk import Walk
from tests.core.runs.world import RUN, World, echo

MANY = 300


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The nodes that were looked at."""
    found: list[str] = []
    look = instant.look_for_signal

    def counting(walk: Walk, node: GraphNode) -> None:
        found.append(node.node_id)
        look(walk, node)

    monkeypatch.setattr(instant, "look_for_signal", counting)
    yield found


def wait(name: str, signal: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "wait", "signal": signal, **more}


def tell(world: World, signal: str, value: int) -> None:
    world.do(SignalTask(RUN, signal, Data(str(value).encode())))


def test_those_that_wait_for_another_signal_are_not_looked_at(looks: list[str]) -> None:
    world = World()
    world.run(*(wait(f"w{number}", "other") for number in range(MANY)), wait("last", "go"))
    looks.clear()
    tell(world, "none", 1)
    assert looks == []
    tell(world, "go", 2)
    assert looks == ["last"]


def test_of_those_that_wait_for_it_as_many_are_looked_at_as_were_told(looks: list[str]) -> None:
    world = World()
    world.run(
        {"id": "c", "type": "condition", "expr": "true"},
        *(wait(f"w{number}", "go", depends_on=["t"] if number == 0 else []) for number in range(MANY)),
        {"id": "t", "type": "timer", "duration_ms": 1_000},
    )
    world.pass_time(2_000)
    looks.clear()
    for value in range(MANY):
        tell(world, "go", value)
    assert looks == [*(f"w{number}" for number in range(1, MANY)), "w0"], "who has waited longest is first"
    assert world.result()["w0"] == MANY - 1


def test_a_timer_has_no_signal_of_the_name_of_an_approval() -> None:
    world = World()
    timers = [{"id": name, "type": "timer", "duration_ms": ms} for name, ms in (("t", 100_000), ("s", 1_000))]
    world.run(*timers, wait("w", "approval.t", depends_on=["s"]), echo("a", "w"))
    world.pass_time(2_000)
    tell(world, "approval.t", 7)
    assert world.open() == ["r~a~0"]
