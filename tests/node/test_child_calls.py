"""ctx.task and ctx.gather over the real calls and the real rules; only processes and sockets are left out."""

from __future__ import annotations

import asyncio
import gc
import json
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from coterie.core.commands import AdvanceClock, ExpireTask
from coterie.core.nouns import Data, ExpiryKind, TaskState, WaitReason
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.child_calls import ChildCalls
from coterie.node.decision_calls import HANDLERS
from coterie.node.large_json import LargeJson
from coterie.node.lines import Lines
from coterie.node.payloads import Payloads
from coterie.node.skillhost.nouns import Suspended
from coterie.skills import CallRefused, DeterminismError, SkillContext, TaskFailed
from coterie.skills.children import FanOut
from tests.node import family_bench
from tests.node.family_bench import PARENT, FamilyBench


def double(kind: str, payload: Any) -> Any:
    if payload in (3, 5):
        raise ValueError(f"{payload} is odd")
    return payload * 2


async def test_results_come_in_the_order_of_the_children() -> None:
    bench = FamilyBench(double)

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(*(ctx.task("map", number * 10) for number in range(10)), window=4)

    assert await bench.run(program) == [number * 20 for number in range(10)]
    assert bench.open_max == 4, "a window at a time"
    assert sorted(bench.began) == sorted(f"p~{number}" for number in range(1, 11)), "each once"
    assert bench.core.task("p").wait is None


async def test_one_child_may_be_awaited_alone_and_children_have_names() -> None:
    bench = FamilyBench(double)

    async def program(ctx: SkillContext) -> Any:
        first = await ctx.task("map", 1, name="first")
        return await ctx.task("map", first)

    assert await bench.run(program) == 4
    assert bench.began == ["p~first", "p~2"]


async def test_a_skill_is_called_as_a_tool() -> None:
    bench = FamilyBench(lambda kind, payload: {kind: payload})

    async def program(ctx: SkillContext) -> Any:
        return [await ctx.tool("map", {"x": 1}, name="look", timeout="5s"), await ctx.tool("map")]

    assert await bench.run(program) == [{"map": {"x": 1}}, {"map": {}}]
    assert bench.began == ["p~look", "p~2"]


async def test_a_failed_child_is_told_typed_and_its_siblings_are_cancelled() -> None:
    bench = FamilyBench(double)
    bench.core.assign = _all_but(bench, "p~1")  # type: ignore[method-assign]

    async def program(ctx: SkillContext) -> Any:
        with pytest.raises(TaskFailed) as failed:
            await ctx.gather(*(ctx.task("map", number) for number in (1, 3)))
        return failed.value

    with pytest.raises(Suspended):
        await bench.attempt(program)
    bench.end(bench.core.task("p~2"))
    assert bench.core.task("p").state is TaskState.PENDING, "woken by the first failure"
    bench.core.assign("p")
    error = await bench.attempt(program)
    assert (error.task_id, error.state, error.child_code) == ("p~2", "FAILED", "BROKEN")
    assert "3 is odd" in str(error) and error.code == "CHILD_FAILED"
    assert bench.core.task("p~1").state is TaskState.CANCELLED
    bench.lose()
    assert str(await bench.attempt(program)) == str(error), "the same at every replay"


def _all_but(bench: FamilyBench, name: str) -> Any:
    assign = bench.core.assign
    return lambda task_id="t1", node_id="n1": None if task_id == name else assign(task_id, node_id)


async def test_failures_may_be_collected() -> None:
    bench = FamilyBench(double)

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(*(ctx.task("map", n) for n in range(6)), on_error="collect", window=2)

    results = await bench.run(program)
    assert [result for result in results if not isinstance(result, TaskFailed)] == [0, 2, 4, 8]
    assert [at for at, result in enumerate(results) if isinstance(result, TaskFailed)] == [3, 5]


async def test_a_parent_that_is_lost_in_between_finds_its_children() -> None:
    bench = FamilyBench(double)

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(*(ctx.task("map", number * 2) for number in range(20)), window=7)

    for _ in range(3):
        with pytest.raises(Suspended):
            await bench.attempt(program)
        bench.end_children()
        bench.core.assign("p")
        bench.lose()
    assert await bench.run(program) == [number * 4 for number in range(20)]
    assert len(bench.began) == len(set(bench.began)) == 20, "no child twice"


@pytest.mark.parametrize(
    ("name", "payload", "said"),
    [
        ("other", 1, "at position 0 .* asks for child 'other', an earlier one child 'a'"),
        ("a", 2, "asks for child 'a' with another type, payload or option"),
    ],
)
async def test_an_attempt_that_asks_for_other_children_is_told_where(
    name: str, payload: int, said: str
) -> None:
    bench = FamilyBench(double)

    async def program(ctx: SkillContext) -> Any:
        first = ctx.attempt == 1
        return await ctx.gather(ctx.task("map", 1 if first else payload, name="a" if first else name))

    with pytest.raises(Suspended):
        await bench.attempt(program)
    bench.end_children()
    bench.core.assign("p")
    with pytest.raises(DeterminismError, match=said):
        await bench.attempt(program)


async def test_what_the_cluster_does_not_take_is_refused_with_the_reason() -> None:
    bench = FamilyBench(double)
    for options, said in (
        ({"type": "mapp"}, "did you mean 'map'"),
        ({"type": "map", "prio": 1}, "unknown option 'prio'"),
        ({"type": "map", "timeout": "soon"}, "timeout"),
        ({"type": "map", "name": "x" * 65}, "is not 1 to 64"),
    ):
        with pytest.raises((CallRefused, ValueError), match=said):
            await bench.attempt(lambda ctx, options=options: ctx.gather(ctx.task(**options)))  # type: ignore[misc]
    assert PARENT not in bench.core.state.families


async def test_children_inherit_what_is_not_said() -> None:
    bench = FamilyBench(double)

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(
            ctx.task("map", 0), ctx.task("map", 0, priority="high", labels={"a": "b"}, deadline="5m")
        )

    with pytest.raises(Suspended):
        await bench.attempt(program)
    one, two = bench.core.task("p~1"), bench.core.task("p~2")
    assert (one.priority, one.tenant, one.parent_id) == (2, "default", "p")
    assert (two.priority, two.labels[0].key) == (3, "a") and two.deadline_at_ms


async def test_a_full_queue_makes_the_window_smaller_or_the_parent_wait_without_its_slot() -> None:
    bench = FamilyBench(double, pending_tasks_max=3)
    numbers = range(0, 40, 4)

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(*(ctx.task("map", number) for number in numbers), window=8)

    bench.core.do(_submit("x1"))
    bench.core.do(_submit("x2"))
    bench.core.do(_submit("x3"))
    with pytest.raises(Suspended):
        await bench.attempt(program)
    wait = bench.core.task("p").wait
    assert wait is not None and (wait.reason, wait.name) == (WaitReason.TIMER, "room:g1")
    for name in ("x1", "x2", "x3"):
        bench.core.assign(name)
    bench.core.now_ms = wait.until_ms
    bench.core.do(AdvanceClock(wait.until_ms))
    bench.core.do(ExpireTask(PARENT, 1, ExpiryKind.WAIT))
    bench.core.assign("p")
    assert await bench.run(program) == [number * 2 for number in numbers]
    assert bench.open_max <= 3


def _submit(name: str) -> Any:
    from tests.core.builders import submit_command

    return submit_command(name)


async def test_ten_thousand_children() -> None:
    bench = FamilyBench(lambda kind, payload: payload + 1)

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(*(ctx.task("map", number) for number in range(10_000)), window=1_000)

    assert await bench.run(program) == list(range(1, 10_001))
    assert bench.runs <= 24, "once per half a window"
    assert bench.open_max <= 1_000


async def test_a_parent_whose_children_end_soon_stays_for_them() -> None:
    calls = ChildCalls(Admission(AdmissionLimits()), linger_s=30).handlers()
    bench = FamilyBench(double, handlers={**calls, **HANDLERS})

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(*(ctx.task("map", number * 10) for number in range(6)), window=2)

    async def end() -> None:
        while len(bench.began) < 6:
            await asyncio.sleep(0)
            bench.end_children()

    result, _ = await asyncio.gather(bench.attempt(program), end())
    assert result == [number * 20 for number in range(6)] and bench.runs == 1


async def test_a_parent_whose_children_take_their_time_goes() -> None:
    calls = ChildCalls(Admission(AdmissionLimits()), linger_s=0.02).handlers()
    bench = FamilyBench(double, handlers={**calls, **HANDLERS})

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(ctx.task("map", 1))

    with pytest.raises(Suspended):
        await bench.attempt(program)
    assert bench.core.task("p").state is TaskState.WAITING


async def test_a_payload_takes_each_result_once_and_no_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = FamilyBench(lambda kind, payload: "x" * 100)

    async def program(ctx: SkillContext) -> Any:
        await ctx.gather(*(ctx.task("map", number) for number in range(4)))
        loaded: list[str] = []
        for indexes in ([0] * 1_000, [0, 1], [0, 1, 2, 3], [4], [float("inf")]):
            results = {"group": "g1", "indexes": indexes}
            child = {"name": f"sum{len(loaded)}", "type": "map", "options": {}, "results": results}
            try:
                await ctx._link.call("children.spawn", {"group": "g2", "children": [child]})
            except CallRefused as error:
                loaded.append(error.code)
            else:
                loaded.append("taken")
        return loaded

    monkeypatch.setattr("coterie.node.payloads.JOINED_BYTES_MAX", 300, raising=False)
    assert await bench.run(program) == ["BAD_CHILD", "taken", "BAD_CHILD", "BAD_CHILD", "BAD_CHILD"]


@pytest.mark.parametrize("show", ["results", "keys"])
async def test_each_result_is_loaded_once_and_no_more_of_them_than_an_answer_takes(
    monkeypatch: pytest.MonkeyPatch, show: Literal["results", "keys"]
) -> None:
    bench, loaded = FamilyBench(lambda kind, payload: {"x": "y" * payload}), list[int]()
    load, at_once = family_bench._Link.load, set[int]()

    async def counted(link: Any, data: Data) -> bytes:
        loaded.append(len(data.inline))
        at_once.add(len(loaded))
        await asyncio.sleep(0)
        in_memory.append(sum(loaded[number - 1] for number in at_once))
        at_once.discard(min(at_once))
        return await load(link, data)

    async def program(ctx: SkillContext) -> Any:
        fan = FanOut(ctx._link, "g", 50)
        await fan.run(
            lambda place: ctx.task("map", 1_000 if place % 10 == 9 else 100, name=f"c{place}").asked()
        )
        return [len(json.loads(end["result"])) async for end in fan.ends(show)]

    in_memory: list[int] = []
    monkeypatch.setattr("coterie.node.child_calls.ENDS_BYTES_MAX", 400)
    monkeypatch.setattr(family_bench._Link, "load", counted)
    assert await bench.run(program) == [1] * 50
    assert len(loaded) == 50
    assert max(in_memory) == max(loaded) > 400, "a large one alone, small ones up to the limit"


async def test_a_run_has_the_payloads_of_one_call_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, under_way, most = FamilyBench(double), 0, 0
    keep = family_bench._Link.keep

    async def slow(link: Any, content: bytes) -> Data:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return await keep(link, content)

    async def program(ctx: SkillContext) -> Any:
        groups = [[ctx.task("map", 10 * number) for number in range(4)] for _ in range(5)]
        return await asyncio.gather(*(ctx.gather(*children) for children in groups))

    monkeypatch.setattr(family_bench._Link, "keep", slow)
    with pytest.raises(Suspended):
        await bench.attempt(program)
    assert most == 1


async def test_of_several_batches_one_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    class Loads:
        task = SimpleNamespace(tenant="t")
        state = None

        async def load(self, data: Data) -> bytes:
            loaded.append(data.sha256)
            return b"one\ntwo"

    monkeypatch.setattr("coterie.node.security.tickets.Tickets.check", lambda *args: None)
    before, payloads = batches(), Payloads(cast(Any, Loads()), LargeJson())
    source = {"size_bytes": 7, "ticket": "", "line": 1}
    for name in "aabbc":
        assert await payloads.content({"line": {**source, "sha256": name}}) == b"two"
    assert loaded == ["a", "b", "c"]
    assert batches() - before == 1


def batches() -> int:
    return sum(isinstance(one, Lines) for one in gc.get_objects())
