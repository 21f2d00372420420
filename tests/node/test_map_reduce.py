"""The shipped map-reduce skill over the real calls and rules; only processes and sockets are left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import pytest

from coterie.client import skip
from coterie.core.nouns import Priority, Task
from coterie.node.security.tickets import Tickets
from coterie.skills import CallRefused, NonRetryable, SkillContext, TaskFailed
from coterie.skills.errors import BadInput
from coterie.skills.map_reduce.handler import run
from tests.node.family_bench import FamilyBench


def child(kind: str, given: Any) -> Any:
    """Maps count words; reductions add up what they get."""
    if kind == "map":
        if given == "bad":
            raise ValueError("a bad document")
        return dict(Counter(str(given).split()))
    results = given["results"]
    if "key" in given:
        return sum(results)
    total: Counter[str] = Counter()
    for result in results:
        total.update(result)
    return {"total": dict(total), "of": len(results), "failed": given.get("failed", [])}["total"]


def seen_by_reduce(bench: FamilyBench, given: dict[str, Any]) -> Any:
    async def program(ctx: SkillContext) -> Any:
        return await run(ctx, given)

    return bench.run(program)


DOCUMENTS = ["a b", "b c", "c c d", "a"]


async def test_without_a_reduction_the_results_come_in_order() -> None:
    bench = FamilyBench(child)
    done = await seen_by_reduce(bench, {"map": "map", "documents": DOCUMENTS, "window": 3})
    assert done["result"] == [child("map", document) for document in DOCUMENTS]
    assert (done["documents"], done["failed"]) == (4, [])
    assert bench.progress[-1] == (100.0, "4 documents, 0 without result")
    assert (90.0, "4 of 4 mapped") in bench.progress


async def test_a_list_reduction_gets_the_results_in_the_order_of_the_documents() -> None:
    given: list[Any] = []
    bench = FamilyBench(lambda kind, what: child(kind, what) if kind == "map" else given.append(what))
    asked = {"map": "map", "reduce": "reduce", "documents": DOCUMENTS}
    await seen_by_reduce(bench, {**asked, "reduce_input": {"title": "T"}, "results_as": "documents"})
    assert given == [{"documents": [child("map", document) for document in DOCUMENTS], "title": "T"}]


async def test_a_keyed_reduction_runs_once_for_each_key() -> None:
    bench = FamilyBench(child)
    asked = {"map": "map", "reduce": "reduce", "reducer": "keyed", "documents": DOCUMENTS}
    assert (await seen_by_reduce(bench, asked))["result"] == {"a": 2, "b": 2, "c": 3, "d": 1}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 9, 10, 30])
async def test_a_tree_reduces_by_steps(count: int) -> None:
    reductions: list[int] = []

    def counting(kind: str, given: Any) -> Any:
        if kind == "map":
            return [given]
        reductions.append(len(given["results"]))
        return [number for result in given["results"] for number in result]

    bench = FamilyBench(counting)
    asked = {"map": "map", "reduce": "reduce", "reducer": "tree", "fan_in": 3}
    done = await seen_by_reduce(bench, {**asked, "documents": list(range(count))})
    assert done["result"] == list(range(count)), "in order"
    assert max(reductions) <= 3


async def test_failed_maps_end_everything_or_are_listed() -> None:
    documents = ["a", "bad", "b", "bad", "c"]
    bench = FamilyBench(child)
    with pytest.raises(NonRetryable) as ended:
        await seen_by_reduce(bench, {"map": "map", "documents": documents})
    assert ended.value.code == "TOO_MANY_FAILED" and "a bad document" in str(ended.value)
    bench = FamilyBench(child)
    skipping = {"map": "map", "documents": documents, "on_map_failure": "skip"}
    with pytest.raises(NonRetryable, match="2 of 5 maps failed, 1 may; 2 with BROKEN; the first: "):
        await seen_by_reduce(bench, {**skipping, "failures_max": 1})
    bench = FamilyBench(child)
    done = await seen_by_reduce(bench, {**skipping, "failures_max": 2, "reduce": "reduce"})
    assert done["result"] == {"a": 1, "b": 1, "c": 1}
    assert [(one["document"], one["task"], one["code"]) for one in done["failed"]] == [
        (1, "p~m1", "BROKEN"),
        (3, "p~m3", "BROKEN"),
    ]


async def test_what_is_left_out_may_stay_as_dead_letters() -> None:
    bench = FamilyBench(child)
    asked = {"map": "map", "documents": ["a", "bad"], "on_map_failure": "dead-letter"}
    done = await seen_by_reduce(bench, asked)
    assert done["result"] == [{"a": 1}] and done["failed"][0]["state"] == "DEAD_LETTERED"
    assert list(bench.core.state.dead_letters) == ["p~m1"]


async def test_a_reduction_runs_as_its_options_say() -> None:
    """With a priority of its own, on the coordinator if that is asked for."""
    seen: dict[str, Task] = {}

    def looking(kind: str, given: Any) -> Any:
        seen.update({task.type: task for task in bench.core.state.tasks.values()})
        return child(kind, given)

    bench = FamilyBench(looking)
    options = {"priority": "high", "constraints": {"require_node": "coordinator"}}
    asked = {"map": "map", "reduce": "reduce", "reduce_options": options, "documents": DOCUMENTS}
    await seen_by_reduce(bench, asked)
    wanted = {kind: (seen[kind].priority, seen[kind].constraints.require_coordinator) for kind in seen}
    assert wanted["reduce"] == (Priority.HIGH, True)
    assert wanted["map"] == (Priority.NORMAL, False)


async def test_a_failed_reduction_ends_everything() -> None:
    def broken(kind: str, given: Any) -> Any:
        if kind == "reduce":
            raise ValueError("cannot reduce")
        return 1

    asked = {"map": "map", "reduce": "reduce", "documents": [1, 2]}
    with pytest.raises(TaskFailed, match="cannot reduce"):
        await seen_by_reduce(FamilyBench(broken), asked)


async def test_documents_may_lie_in_blobs() -> None:
    bench = FamilyBench(child)
    lines = [b'"a b"\n"b"', b'"c"']
    batches = []
    for number, content in enumerate(lines):
        name = hashlib.sha256(content).hexdigest()
        bench.blobs[name] = content
        ticket = Tickets(lambda: bench.core.state).give(name)
        batches.append({"sha256": name, "size_bytes": len(content), "ticket": ticket, "count": 2 - number})
    done = await seen_by_reduce(bench, {"map": "map", "batches": batches})
    assert done["result"] == [{"a": 1, "b": 1}, {"b": 1}, {"c": 1}]
    batches[1]["count"] = 2
    again = FamilyBench(child)
    again.blobs = bench.blobs
    with pytest.raises(CallRefused, match=r"line: 1 is not in 0\.\.0"):
        await seen_by_reduce(again, {"map": "map", "batches": batches})
    batches[1]["ticket"] = batches[0]["ticket"]
    with pytest.raises(CallRefused, match="no blob"):
        await seen_by_reduce(again, {"map": "map", "batches": batches})


@pytest.mark.parametrize(("percent", "failures"), [(0.57, 57), (0.07, 7), (29, 2_900), (0.009, 0)])
def test_a_part_of_the_documents_is_exact(percent: float, failures: int) -> None:
    assert skip(percent=percent).of(10_000) == failures


BATCH = {"sha256": "x", "size_bytes": 1, "ticket": "t", "count": 2}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "an object"),
        ({"documents": [1]}, "map: '' is no text"),
        ({"map": "map", "docs": [1]}, "unknown key 'docs'"),
        ({"map": "map", "documents": [1], "batches": [{}]}, "one of the two"),
        ({"map": "map", "batches": [{"sha256": "x"}]}, "sha256, size_bytes, ticket and count"),
        ({"map": "map", "documents": [1], "reducer": "heap"}, "none of list, keyed, tree"),
        ({"map": "map", "documents": [1], "window": 0}, "window: 0"),
        ({"map": "map", "batches": [BATCH, {**BATCH, "count": -1}]}, "count: -1"),
        ({"map": "map", "batches": [{**BATCH, "count": 1.5}]}, "count: 1.5"),
        ({"map": "map", "batches": [{**BATCH, "count": float("inf")}]}, "count: inf"),
    ],
)
async def test_bad_input_is_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        await seen_by_reduce(FamilyBench(child), given)
