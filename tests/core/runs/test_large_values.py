"""Values that are too large hold no entry for long, however many nodes ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.graph import values
from coterie.core.graph.refs import UNWEIGHED_MAX
from coterie.core.graph.values import VALUE_BYTES_MAX
from coterie.core.nouns import Data
from coterie.raft import codec
from tests.core.runs.world import RUN, World, echo

LARGE = {f"k{number:05}": number for number in range(15_000)}  # some 240 KB
MANY = 40  # of which in one document make 10 MB
ONE = UNWEIGHED_MAX * VALUE_BYTES_MAX  # that one node may write in vain
NODES = 6


class Coder:
    """Counts the bytes that the state machine writes and reads as JSON."""

    def __init__(self, encode: Callable[[Any], str], decode: Callable[[str], Any]) -> None:
        self._encode, self._decode = encode, decode
        self.bytes = 0

    def encode(self, value: Any) -> str:
        text = self._encode(value)
        self.bytes += len(text)
        return text

    def decode(self, text: str) -> Any:
        self.bytes += len(text)
        return self._decode(text)


@pytest.fixture
def coder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Coder]:
    found = Coder(values._ENCODER.encode, values._DECODER.decode)
    monkeypatch.setattr(values, "_ENCODER", found)
    monkeypatch.setattr(values, "_DECODER", found)
    yield found


def asking(**node: Any) -> World:
    """A run in which many nodes are begun when one has ended."""
    world = World()
    nodes = [{**echo(f"n{number}", "plan"), **node} for number in range(NODES)]
    more: dict[str, Any] = {"open_inputs": True, "on_failure": "continue", "outputs": "over"}
    world.run(echo("plan"), *nodes, given={"x": LARGE}, **more)
    return world


REDUCE = {"type": "reduce", "skill": "", "over": ["{{ x }}"] * MANY}
TOO_LARGE: list[dict[str, Any]] = [
    {"input": ["{{ x }}"] * MANY},
    {"input": {f"{number}": "{{ x }}{{ x }}" for number in range(MANY)}},
    {"input": ["{{ x }}"] * UNWEIGHED_MAX},
    {**REDUCE, "reducer": "list"},
]


@pytest.mark.parametrize("node", TOO_LARGE)
def test_few_nodes_fail_of_too_large_values_in_one_entry(node: dict[str, Any], coder: Coder) -> None:
    world, entries = asking(**node), 0
    coder.bytes = 0
    world.give("plan", 1)
    while RUN in world.state.runs:
        assert coder.bytes <= 4 * ONE
        coder.bytes = 0
        entries += world.pass_time_once()
    assert entries >= NODES // 4 > 0
    rows = world.table()
    del rows["plan"]
    assert {row["code"] for row in rows.values()} == {"VALUE_TOO_LARGE"} and len(rows) == NODES


def test_what_is_written_to_be_counted_counts(coder: Coder) -> None:
    world, entries = asking(**{**REDUCE, "reducer": "vote"}), 0
    coder.bytes = 0
    world.give("plan", 1)
    while RUN in world.state.runs:
        assert coder.bytes <= 3 * ONE
        coder.bytes = 0
        entries += world.pass_time_once()
    assert entries >= NODES // 2 > 0 and set(world.states().values()) == {"SUCCEEDED"}


@pytest.mark.parametrize("into", ["input", "list", "outputs"])
def test_of_many_results_no_more_is_read_than_shows_that_they_are_too_many(into: str, coder: Coder) -> None:
    world, parts = World(), [f"d{number}" for number in range(20)]
    after = [echo("all", *parts)] if into == "input" else []
    if into == "list":
        world.run({**echo("all"), "type": "map", "over": parts})
        names = [f"{RUN}~all~{number}" for number in range(20)]
    else:
        world.run(*map(echo, parts), *after)
        names = parts
    for name in names[:-1]:
        world.give(name, LARGE)
    coder.bytes = 0
    world.give(names[-1], LARGE)
    assert coder.bytes <= 3 * VALUE_BYTES_MAX
    error = world.ended().error
    assert error is not None and error.code == "VALUE_TOO_LARGE"


def test_results_that_are_written_with_blanks_may_be_many() -> None:
    world, parts = World(), [f"d{number}" for number in range(8)]
    world.run(*map(echo, parts), echo("all", *parts))
    for part in parts:
        world.give(part, Data(b"[1]" + b" " * 250_000))
    assert world.payload("all") == {part: [1] for part in parts}


def test_a_node_that_is_restored_between_two_portions_goes_on_alike() -> None:
    there, back = asking(**TOO_LARGE[0]), asking(**TOO_LARGE[0])
    for world in (there, back):
        world.give("plan", 1)
    while RUN in there.state.runs:
        back.state = codec.decode_state(list(codec.encode_state(back.state.copy())))
        for world in (there, back):
            world.pass_time_once()
        assert state_hash(there.state) == state_hash(back.state)
    assert there.states() == back.states()
