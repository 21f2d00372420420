"""Values that are too large hold no entry for long, however many nodes ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import CancelTask, PauseTask
from coterie.core.graph import values
from coterie.core.graph.refs import UNWEIGHED_MAX
from coterie.core.graph.values import VALUE_BYTES_MAX
from coterie.core.nouns import Data
from coterie.core.runs import walk
from coterie.raft import codec
from tests.core.runs.world import RUN, World, echo

LARGE = {f"k{number:05}": number for number in range(15_000)}  # some 240 KB
MANY = 40  # of which in one document make 10 MB
ONE = UNWEIGHED_MAX * VALUE_BYTES_MAX  # that one node may write in vain
NODES = 6
LITTLE = 5_000  # KiB


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


def asking(count: int = NODES, **node: Any) -> World:
    """A run in which many nodes are begun when one has ended."""
    world = World()
    nodes = [{**echo(f"n{number}", "plan"), **node} for number in range(count)]
    more: dict[str, Any] = {"open_inputs": True, "on_failure": "continue", "outputs": "over"}
    world.run(echo("plan"), *nodes, given={"x": LARGE, "half": "\ud800"}, **more)
    return world


REDUCE: dict[str, Any] = {"type": "reduce", "skill": "", "over": ["{{ x }}"] * MANY}
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


TEXTS = ["{{ x }}" * 4] * 2  # 2 MB, of values that are not weighed
IN_VAIN: list[tuple[dict[str, Any], str]] = [
    ({"input": [*TEXTS, "{{ x.gone }}"]}, "MISSING_VALUE"),
    ({"input": [*TEXTS[:1], "{{ half }}"]}, "NOT_JSON"),
    ({**REDUCE, "over": TEXTS, "reducer": "sum"}, "TYPE_ERROR"),
]


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry does less, so that less has to be done."""
    monkeypatch.setattr(walk, "WORK_MAX", LITTLE)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize(("node", "code"), IN_VAIN)
def test_what_is_written_counts_whatever_comes_of_it(node: dict[str, Any], code: str, coder: Coder) -> None:
    worlds = there, back = asking(10, **node), asking(10, **node)
    for world in worlds:
        coder.bytes = 0
        world.give("plan", 1)
        assert coder.bytes <= ONE
    while RUN in there.state.runs:
        restore(back)
        for world in worlds:
            coder.bytes = 0
            assert world.pass_time_once() and coder.bytes <= ONE
        assert state_hash(there.state) == state_hash(back.state)
    rows = there.table()
    del rows["plan"]
    assert {row["code"] for row in rows.values()} == {code} and len(rows) == 10


def undoing(**submit: Any) -> tuple[World, list[str]]:
    """A run whose compensations will fail, all but the last."""
    world, names = World(), [f"d{number}" for number in range(10)]
    wasted = {"input": IN_VAIN[0][0]["input"]}
    undos = [
        {"id": f"u{name}", "type": "compensate", "skill": "echo", "compensates": name, **wasted}
        for name in names
    ]
    undos[0]["input"] = {"was": "{{ d0 }}"}
    nodes = [*map(echo, names), echo("bad", *names), *undos]
    world.run(*nodes, given={"x": LARGE}, more=submit, open_inputs=True, on_failure="compensate")
    for name in names:
        world.give(name, 1)
    return world, names


def spoil(world: World) -> None:
    world.fail("bad")


def cancel_paused(world: World) -> None:
    world.do(PauseTask(RUN, ""))
    world.do(CancelTask(RUN, "enough"))


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("end", [spoil, cancel_paused])
def test_few_compensations_fail_in_one_entry(end: Callable[[World], None], coder: Coder) -> None:
    (there, names), (back, _) = undoing(), undoing()
    for world in (there, back):
        coder.bytes = 0
        end(world)
        assert coder.bytes <= ONE
    while not there.open():
        restore(back)
        for world in (there, back):
            coder.bytes = 0
            assert world.pass_time_once() and coder.bytes <= ONE
        assert state_hash(there.state) == state_hash(back.state)
    assert there.payload("ud0") == {"was": 1}
    there.give("ud0")
    rows = there.table()
    assert {rows[f"u{name}"]["code"] for name in names[1:]} == {"MISSING_VALUE"}


@pytest.mark.usefixtures("little")
def test_what_is_undone_because_its_time_is_over_waits_for_no_pause() -> None:
    world, _ = undoing(deadline_after_ms=1_000)
    world.now_ms += 2_000
    assert world.pass_time_once() and not world.open()
    world.do(PauseTask(RUN, ""))
    world.pass_time(1_000)
    assert world.open() == [f"{RUN}~ud0~0"]


@pytest.mark.usefixtures("little")
def test_what_conditions_read_counts(coder: Coder) -> None:
    """On a node that remembers it too, or it would have done less than one that was restored."""

    def waiting() -> World:
        world, many = World(), range(60)
        made = [echo(f"a{number}") for number in many]
        read = [echo(f"b{number}", f"a{number}", "go", when=f"a{number}.k00001 == 1") for number in many]
        world.run(echo("go"), *made, *read, max_parallel=200)
        for number in many:
            world.give(f"a{number}", LARGE)
        return world

    there, back = waiting(), waiting()
    coder.bytes = 0
    there.give("go", 1)
    assert coder.bytes <= ONE
    back.give("go", 1)
    while len(there.open()) < 60:
        restore(back)
        for world in (there, back):
            coder.bytes = 0
            assert world.pass_time_once() and coder.bytes <= ONE
        assert state_hash(there.state) == state_hash(back.state)


def test_a_result_that_is_no_json_is_read_once_in_a_run(coder: Coder) -> None:
    world, raw = World(), b"[1" + b" " * 200_000
    nodes = [echo(f"n{number}", "plan", when="size(plan) > 0") for number in range(50)]
    world.run(echo("plan"), *nodes, on_failure="continue", outputs="over")
    coder.bytes = 0
    world.give("plan", Data(raw))
    assert coder.bytes < 2 * len(raw)
    assert {row.get("code") for row in world.table().values()} == {None, "NOT_JSON"}


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


@pytest.mark.usefixtures("little")
def test_results_that_are_written_with_blanks_count_for_each_who_reads_them(coder: Coder) -> None:
    """Also on a node that was restored, which reads what the others have read before."""
    worlds, parts, blank = (World(), World()), [f"d{number}" for number in range(8)], b"[1]" + b" " * 250_000
    for world in worlds:
        world.run(*map(echo, parts), *(echo(f"n{number}", *parts) for number in range(12)))
        for part in parts[:-1]:
            world.give(part, Data(blank))
        coder.bytes = 0
        world.give(parts[-1], Data(blank))
        assert coder.bytes <= ONE
    there, back = worlds
    while len(there.open()) < 12:
        restore(back)
        for world in worlds:
            coder.bytes = 0
            assert world.pass_time_once() and coder.bytes <= ONE
        assert state_hash(there.state) == state_hash(back.state)


def restore(world: World) -> None:
    world.state = codec.decode_state(list(codec.encode_state(world.state.copy())))


def test_a_node_that_is_restored_between_two_portions_goes_on_alike() -> None:
    there, back = asking(**TOO_LARGE[0]), asking(**TOO_LARGE[0])
    for world in (there, back):
        world.give("plan", 1)
    while RUN in there.state.runs:
        restore(back)
        for world in (there, back):
            world.pass_time_once()
        assert state_hash(there.state) == state_hash(back.state)
    assert there.states() == back.states()
