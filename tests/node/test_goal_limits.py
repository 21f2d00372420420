"""What is too large or no JSON is refused before anything is paid; what was paid is not lost to its size."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from coterie.core.bidding import Candidate, Selection
from coterie.node.config.goal_settings import RoutingRule
from coterie.node.goals import calls, outcome
from coterie.node.goals.outcome import ANSWER_BYTES_MAX, _bounded
from coterie.node.goals.plans import by_plan, by_rule, wants_of
from coterie.node.goals.service import _faults, _payload
from coterie.node.goals.staff import Staff
from coterie.node.workflows.aside import HERE_MAX
from coterie.skills import CallRefused
from coterie.skills.goal.planning import BadPlan
from coterie.v1 import workflows_pb2
from tests.node.goal_bench import GoalBench
from tests.node.test_goal_flow import model, task, worker

LARGE = "x" * 300_000


@pytest.mark.parametrize("asked", [{"goal": "Report", "context": LARGE}])
async def test_too_large_inputs_are_refused_before_a_model_is_asked(asked: dict[str, Any]) -> None:
    bench = GoalBench(model({"tasks": [task("a")]}), worker)
    with pytest.raises(CallRefused, match="the limit is 262144"):
        await bench.goal(**asked)
    assert not bench.model.asked
    with pytest.raises(CallRefused, match="the limit is 262144"):
        await bench.goal(workflow="nodes: [{id: a, skill: echo, depends_on: a}]", inputs={"text": LARGE})
    assert not bench.model.asked


@pytest.mark.parametrize("text", ["NaN", '{"a": 1e999}', '"\\ud800"', "[", json.dumps(LARGE)])
def test_a_context_that_cannot_travel_is_a_fault_of_the_request(text: str) -> None:
    request = workflows_pb2.SubmitGoalRequest(goal="Report", context=text)
    wrong = _faults(request, ())
    _payload(request, wrong)
    assert [one.field for one in wrong] == ["context"]


async def test_halves_of_characters_are_refused_and_not_tried_again() -> None:
    bench = GoalBench(model({"tasks": [task("a")]}), worker)
    with pytest.raises(CallRefused, match="cannot be written as JSON"):
        await bench.goal(goal="Report", context="\ud800")


@pytest.mark.parametrize("nodes", [3, "x", {"a": 1}, [3], None])
async def test_a_workflow_whose_nodes_are_no_list_is_a_bad_plan(nodes: Any) -> None:
    bench = GoalBench(model({"tasks": []}), worker)
    with pytest.raises(BadPlan):
        await bench.goal(workflow=json.dumps({"nodes": nodes}))
    assert not bench.model.asked


@pytest.mark.parametrize(("behind", "edges"), [(1, ["step-1"]), ([1], ["step-1"]), (None, []), ("a", ["a"])])
def test_steps_of_a_rule_stand_on_steps_by_id_or_number(behind: Any, edges: list[str]) -> None:
    steps = [{"step": 1, "skill": "llm"}, {"step": 2, "skill": "llm", "depends_on": behind}]
    rule = RoutingRule("r", ".*", steps=json.dumps(steps))
    draft = by_rule(rule, "g", None, Staff(("llm",), [], Selection.SCORE), lambda name: name)
    assert draft.native["nodes"][1]["depends_on"] == edges


@pytest.mark.parametrize("said", [LARGE, '\u00e9"\n' * 200_000, ["x" * 1_000] * 2_000])
async def test_an_answer_that_is_too_large_is_cut_and_that_is_told(said: Any) -> None:
    bench = GoalBench(model({"tasks": [task("a", skill="echo", input={"n": 1})]}), lambda kind, given: said)
    result = await bench.goal(goal="Report", aggregate="concat" if isinstance(said, str) else "list")
    assert result["complete"] and "the answer takes" in result["note"]
    assert 1_000 < len(json.dumps(result["answer"], ensure_ascii=False).encode()) < ANSWER_BYTES_MAX + 100


@pytest.mark.parametrize(
    ("one", "all_of_them", "read"), [(10_000, 100_000, 2), (100, 100_000, 1), (10_000, 194, 1)]
)
async def test_results_that_are_too_large_are_not_read(
    monkeypatch: pytest.MonkeyPatch, one: int, all_of_them: int, read: int
) -> None:
    monkeypatch.setattr(outcome, "VALUE_BYTES_MAX", one)
    monkeypatch.setattr(outcome, "VALUES_BYTES_MAX", all_of_them)
    plan = {"tasks": [task(name, skill="echo", input={"n": n}) for name, n in (("a", 1), ("b", 190))]}
    bench = GoalBench(model(plan), lambda kind, given: "x" * given["n"])
    result = await bench.goal(goal="Report", aggregate="list")
    assert result["answer"] == ["x", "x" * 190 if read == 2 else {"bytes": 192}]
    assert ("b: 192 bytes, not read" in result.get("note", "")) == (read == 1)


async def test_the_last_results_are_read_first_and_all_that_was_not_read_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcome, "VALUES_BYTES_MAX", 300)
    early = [task(f"a{n}", skill="echo", input={"n": 100}) for n in range(15)]
    last = task("z", skill="echo", input={"n": 250}, dependencies=[f"a{n}" for n in range(15)])
    bench = GoalBench(model({"tasks": [*early, last]}), lambda kind, given: "x" * given["n"])
    result = await bench.goal(goal="Report", aggregate="list")
    assert result["answer"] == ["x" * 250]
    assert result["note"].endswith("and 5 more")


def test_many_rows_stay_within_their_bytes_and_failures_stay() -> None:
    good = [{"task": f"t{n}", "state": "SUCCEEDED", "result": "x" * 8_000} for n in range(3_000)]
    bad = {"task": "bad", "state": "FAILED", "message": "m" * 8_000}
    rows, notes = _bounded([*good, bad])
    assert len(rows) == 1_000 and rows[-1]["task"] == "bad" and "2001 of 3001 rows" in notes[0]
    assert len(json.dumps(rows)) < 600_000


@pytest.mark.parametrize("wrong", [{"native": 3}, {"native": {}, "timeout_ms": "soon"}, {}])
async def test_what_a_skill_orders_wrongly_is_refused_for_good(wrong: dict[str, Any]) -> None:
    bench = GoalBench(model({"tasks": []}), worker)

    async def order(ctx: Any) -> Any:
        return await ctx._link.call("goals.run", wrong)

    with pytest.raises(CallRefused, match="native: an object is expected"):
        await bench.run(order)


@pytest.mark.parametrize("text", ['{"tasks": [{"id": "a", "input": {"n": NaN}}]}', '{"tasks": ["\\ud800"]}'])
async def test_a_plan_that_is_no_json_is_sent_back_to_the_model(text: str) -> None:
    good = {"tasks": [task("a")]}
    said = {"intent": {"intent": "x", "simple": False}, "decompose": text, "decompose.repair1": good}
    bench = GoalBench(lambda step, messages: said[step], worker)
    assert (await bench.goal(goal="Report"))["complete"]
    assert [step for step, _ in bench.model.asked] == ["intent", "decompose", "decompose.repair1"]


async def test_bids_for_much_are_taken_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = GoalBench(model({"tasks": [task("a", capabilities=["x"])]}), worker)
    threads: list[threading.Thread] = []

    def planned(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return by_plan(*given)

    monkeypatch.setattr(calls, "by_plan", planned)
    await bench.goal(goal="Report")
    monkeypatch.setattr("coterie.node.workflows.aside.HERE_MAX", -1)
    bench = GoalBench(model({"tasks": [task("a", capabilities=["x"])]}), worker)
    await bench.goal(goal="Report")
    assert threads[0] is threading.main_thread() and threads[1] is not threading.main_thread()
    many = Staff((), [Candidate(f"a{number}") for number in range(100)], Selection.SCORE)
    assert many.effort(30, 90) > HERE_MAX > many.effort(1, 3)


@pytest.mark.parametrize("wanted", [["x"] * 65, ["x" * 1_001], "x", [1]])
def test_a_task_wants_no_more_than_can_be_bid_for(wanted: Any) -> None:
    draft = by_plan({"tasks": [task("a", capabilities=wanted)]}, "g", None, Staff((), [], Selection.SCORE), 9)
    assert ["capabilities: is a list of at most 64" in one.text for one in draft.problems] == [True]
    assert wants_of({"tasks": [task("a", capabilities=wanted), task("b", capabilities=["x", "y"])]}, 9) == (
        1,
        2,
    )
    assert wants_of({"tasks": 1}, 9) == wants_of(None, 9) == (0, 0)
