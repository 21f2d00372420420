"""A goal from its words to its answer: routed, planned, repaired, mended, cut short by lost nodes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import yaml

from coterie.core.nouns import Constraints, TaskState, evolve
from coterie.node.config.goal_settings import RoutingRule
from coterie.skills.goal.approval import PlanTooLarge, to_be_approved
from coterie.skills.goal.handler import GoalFailed
from coterie.skills.goal.planning import BadPlan
from tests.node.family_bench import PARENT
from tests.node.goal_bench import GoalBench

WANTED = {"intent": "a report", "simple": False, "capabilities": ["reports"]}
NASTY = "{{ run.id }} __import__('os').system('id')"


def task(task_id: str, *behind: str, **more: Any) -> dict[str, Any]:
    return {"id": task_id, "description": f"do {task_id}", "dependencies": list(behind), **more}


def cycle() -> list[dict[str, Any]]:
    return [task("task_1", "task_3"), task("task_2", "task_1"), task("task_3", "task_2")]


def model(plan: Any, repaired: Any = None, text: str = "All is well.", wanted: Any = WANTED) -> Any:
    answers = {"intent": wanted, "decompose": plan, "repair": repaired, "answer": text}
    return lambda step, messages: answers[step]


def worker(kind: str, payload: Any) -> Any:
    if "fail" in json.dumps(payload):
        raise ValueError("it is broken")
    if kind == "agent":
        answer = f"did: {payload['prompt']}"
        return {"answer": answer, "data": None, "agent": "a", "finish": "answer", "usage": {}}
    return payload


async def test_a_plan_is_made_run_and_told() -> None:
    plan = {
        "tasks": [task("a", agent="trainer"), task("b", "a", skill="echo", input={"x": {"result_of": "a"}})]
    }
    bench = GoalBench(model({**plan, "aggregate": "llm"}), worker).with_agent("trainer", "training")
    result = await bench.goal(goal="Report", context={"year": 2026})
    assert (result["answer"], result["complete"], result["aggregate"]) == ("All is well.", True, "llm")
    assert result["counts"] == {"total": 2, "succeeded": 2} and result["failures"] == []
    assert [(row["task"], row["by"], row["last"]) for row in result["results"]] == [
        ("a", "trainer", False),
        ("b", "echo", True),
    ]
    assert result["results"][1]["result"]["x"]["answer"] == "did: do a", "the whole result of an agent's run"
    assert result["usage"] == {"tokens_in": 30, "tokens_out": 6, "micro_usd": 3}
    assert [step for step, _ in bench.model.asked] == ["intent", "decompose", "answer"]
    assert bench.calls.gauges() == {'goal_plans_total{source="model"}': 1.0, "goal_plan_cache_hit_ratio": 0.0}


async def test_questions_are_kept_for_a_day_and_repairs_are_not() -> None:
    bench = GoalBench(
        model({"tasks": cycle()}, {"tasks": [task("a")]}), worker, model="main", cache_ttl_ms=86_400_000
    )
    await bench.goal(goal="Report")
    kept = {
        step: options.get("cache_ttl_ms")
        for (step, _), options in zip(bench.model.asked, bench.model.options, strict=True)
    }
    assert kept == {"intent": 86_400_000, "decompose": 86_400_000, "repair": None}
    assert {options["model"] for options in bench.model.options} == {"main"}


async def test_a_lost_node_costs_no_second_answer() -> None:
    """It is lost after every answer of the model and of the node in turn, and comes to the same end."""
    plan = {"tasks": [task("a"), task("b")], "aggregate": "llm"}
    quiet = await GoalBench(model(plan), worker).goal(goal="Report")
    bench = GoalBench(model(plan), worker)
    lost: list[str] = []
    handlers = dict(bench.handlers)

    def losing(name: str) -> Any:
        async def call(run: Any, args: Any) -> Any:
            answer = await handlers[name](run, args)
            step = args.get("key", name)
            if step != "goals.wait" and step not in lost:
                lost.append(step)
                raise Lost
            return answer

        return call

    bench.handlers = {name: losing(name) for name in handlers}
    for _ in range(14):
        try:
            await bench.goal(goal="Report")
            break
        except Exception as error:
            assert isinstance(error.__cause__ or error, Lost) or "Lost" in str(error), error
            bench.lose()
    bench.handlers = handlers
    calls = ("begin", "intent", "decompose", "draft", "run", "ended", "answer")
    assert [step.removeprefix("goals.") for step in lost] == list(calls)
    assert await bench.goal(goal="Report") == quiet
    assert [step for step, _ in bench.model.asked] == ["intent", "decompose", "answer"]


class Lost(Exception):
    """The node is gone."""


async def test_one_repair_round_with_all_problems_and_what_it_changed() -> None:
    mended = {"tasks": [task("task_1"), *cycle()[1:]], "aggregate": "list"}
    bench = GoalBench(model({"tasks": cycle()}, mended), worker)
    result = await bench.goal(goal="Report")
    assert result["complete"] and result["counts"] == {"total": 3, "succeeded": 3}
    assert result["repair"]["problems"][0]["cycle"] == ["task_1", "task_3", "task_2", "task_1"]
    assert result["repair"]["changes"] == [
        {"task": "task_1", "before": {"dependencies": ["task_3"]}, "after": {"dependencies": []}}
    ]
    shown = dict(bench.model.asked)["repair"][-1]["content"]
    assert "task_1 <- task_3 <- task_2 <- task_1" in shown


async def test_a_plan_that_stays_wrong_ends_the_goal_with_its_problems() -> None:
    bench = GoalBench(model({"tasks": cycle()}, {"tasks": cycle()}), worker)
    with pytest.raises(BadPlan, match="CYCLE: task_1: stands on itself"):
        await bench.goal(goal="Report")
    assert [step for step, _ in bench.model.asked] == ["intent", "decompose", "repair"], "one repair"
    assert bench.core.task("p").state is TaskState.RUNNING and len(bench.core.state.tasks) == 1, "nothing ran"


async def test_a_simple_request_needs_no_plan_and_no_second_text() -> None:
    wanted = {**WANTED, "simple": True, "capabilities": ["training"]}
    bench = GoalBench(model(None, wanted=wanted), worker).with_agent("trainer", "training")
    result = await bench.goal(goal=f"Train it {NASTY}")
    assert result["answer"] == f"did: Train it {NASTY}" and result["selection"][0]["winner"] == "trainer"
    assert [step for step, _ in bench.model.asked] == ["intent"]


async def test_partial_failures_are_told_and_the_rest_goes_on() -> None:
    plan = {
        "tasks": [task("good"), task("bad", description="fail"), task("after", "bad")],
        "aggregate": "llm",
    }
    result = await GoalBench(model(plan), worker).goal(goal="Report")
    assert not result["complete"]
    assert result["counts"] == {"total": 3, "succeeded": 1, "failed": 1, "skipped": 1}
    assert [(one["task"], one["state"], one["code"]) for one in result["failures"]] == [
        ("bad", "FAILED", "BROKEN"),
        ("after", "SKIPPED", result["failures"][1]["code"]),
    ]
    assert result["answer"].startswith(
        "All is well.\n\n(1 of 3 tasks succeeded; without a result: bad FAILED (BROKEN"
    )


async def test_a_goal_of_which_nothing_succeeded_fails() -> None:
    with pytest.raises(GoalFailed, match="0 of 1 tasks succeeded; without a result: a FAILED"):
        await GoalBench(model({"tasks": [task("a", description="fail")]}), worker).goal(goal="Report")


@pytest.mark.parametrize(
    ("aggregate", "answer", "noted"),
    [
        ("list", [{"n": 1}, {"m": 2}], False),
        ("merge", {"n": 1, "m": 2}, False),
        ("count", 2, False),
        ("vote", {"n": 1}, False),
        ("sum", [{"n": 1}, {"m": 2}], True),
    ],
)
async def test_reducers_need_no_model(aggregate: str, answer: Any, noted: bool) -> None:
    tasks = [task("a", skill="echo", input={"n": 1}), task("b", skill="echo", input={"m": 2})]
    bench = GoalBench(model({"tasks": tasks, "aggregate": "llm"}), worker)
    result = await bench.goal(goal="Report", aggregate=aggregate)
    assert (result["answer"], "note" in result) == (answer, noted)
    assert [step for step, _ in bench.model.asked] == ["intent", "decompose"]


async def test_what_a_model_and_a_person_wrote_is_data_all_the_way() -> None:
    tasks = [
        task("a", description=NASTY),
        task("b", skill="echo", input={"text": NASTY, "list": [NASTY]}),
        task("c", "a", agent="trainer", description=NASTY),
    ]
    seen: list[Any] = []

    def look(kind: str, payload: Any) -> Any:
        seen.append((kind, payload))
        return worker(kind, payload)

    bench = GoalBench(model({"tasks": tasks, "aggregate": "llm"}, text=NASTY), look).with_agent(
        "trainer", "x"
    )
    result = await bench.goal(goal=NASTY, context={"note": NASTY})
    given = dict(seen)
    assert given["llm"]["prompt"] == NASTY and given["llm"]["context"]["goal"] == NASTY
    assert given["echo"] == {"text": NASTY, "list": [NASTY]}
    assert given["agent"]["prompt"] == NASTY and given["agent"]["context"]["goal"] == NASTY
    assert given["agent"]["context"]["results"]["a"]["prompt"] == NASTY
    assert result["answer"] == NASTY
    for _, messages in bench.model.asked:
        assert messages[0]["role"] == "system" and NASTY not in messages[0]["content"]
        assert json.dumps(NASTY)[1:-1] in messages[1]["content"], "quoted as JSON"


async def test_rules_decide_without_a_model() -> None:
    rules = (
        RoutingRule("one", "sum", skill="echo", input=json.dumps({"text": "{{ goal }}"}), priority=2),
        RoutingRule("two", "s", agents=("trainer",), priority=2),
        RoutingRule("kept", "kept", workflow="nightly", priority=3),
    )
    bench = GoalBench(worker, worker, rules=rules).with_agent("trainer", "x")
    result = await bench.goal(goal="a sum")
    assert result["answer"] == {"text": "a sum"} and result["route"]["ambiguous"] == ["one", "two"]
    result = (
        await GoalBench(worker, worker, rules=rules).with_agent("trainer", "x").goal(goal="a sum", rule="two")
    )
    assert result["answer"] == "did: a sum" and result["route"]["rule"] == "two"
    with pytest.raises(BadPlan, match="routing rule kept: UNKNOWN_WORKFLOW: nightly"):
        await GoalBench(worker, worker, rules=rules).goal(goal="the kept one")


async def test_a_workflow_with_a_cycle_is_mended_and_the_change_told() -> None:
    nodes = [
        {"id": f"task_{n}", "skill": "echo", "input": {"n": n}, "depends_on": f"task_{behind}"}
        for n, behind in ((1, 3), (2, 1), (3, 2))
    ]
    change = {"changes": [{"node": "task_1", "depends_on": [], "why": "it is the first"}]}
    bench = GoalBench(lambda step, messages: change, worker)
    result = await bench.goal(workflow=yaml.safe_dump({"nodes": nodes}))
    assert result["complete"] and result["answer"] == [{"n": 3}]
    assert result["repair"]["problems"][0]["cycle"] == ["task_1", "task_3", "task_2", "task_1"]
    assert result["repair"]["changes"] == [
        {"task": "task_1", "before": "task_3", "after": [], "why": "it is the first"}
    ]
    whole = GoalBench(lambda step, messages: 1 / 0, worker)
    fine = yaml.safe_dump({"nodes": [{**nodes[0], "depends_on": []}]})
    assert "repair" not in await whole.goal(workflow=fine) and not whole.model.asked


async def test_a_plan_may_be_looked_at_alone() -> None:
    bench = GoalBench(model({"tasks": [task("a"), task("b", "a")]}), worker)
    result = await bench.goal(goal="Report", plan_only=True)
    assert [one["id"] for one in result["plan"]["tasks"]] == ["a", "b"] and "answer" not in result
    assert len(bench.core.state.tasks) == 1, "nothing ran"


async def test_what_binds_the_goal_binds_its_tasks() -> None:
    """The agent whose permissions and budgets count, the session, the place; not the skill's revision."""
    bound: list[Any] = []
    bench = GoalBench(model({"tasks": [task("a", skill="echo", input={"n": 1})]}), worker)
    limits = Constraints(prefer_zone="z", session="s", skill_version="7")
    goal = evolve(bench.core.task("p"), agent="trainer", constraints=limits)
    bench.core.state.tasks[goal.task_id] = goal
    end = bench.end_children

    def look() -> None:
        tasks = bench.core.state.tasks.values()
        bound.extend((one.agent, one.constraints) for one in tasks if one.task_id != "p")
        end()

    bench.end_children = look  # type: ignore[method-assign]
    await bench.goal(goal="Report")
    assert bound == [("trainer", Constraints(prefer_zone="z", session="s"))] * 2, "the run and its task"


async def test_a_goal_that_is_tried_again_has_its_own_run_and_pays_no_answer_twice() -> None:
    """Another task with the steps of the first: what it had learnt stays, what had failed is done again."""
    plan = {"tasks": [task("a", description="fail")], "aggregate": "llm"}
    first = GoalBench(model(plan), worker)
    with pytest.raises(GoalFailed):
        await first.goal(goal="Report")
    again = GoalBench(model(plan), lambda kind, payload: "done")
    again.core.state.steps[PARENT] = first.core.state.steps[PARENT]
    result = await again.goal(goal="Report")
    assert (result["answer"], result["complete"]) == ("done", True)
    assert not again.model.asked


@pytest.mark.parametrize(
    ("operator", "request_says", "asked"),
    [(True, None, True), (True, False, True), (True, True, True), (False, True, True), (False, None, False)],
)
async def test_nobody_switches_off_the_approval_that_the_operator_wants(
    operator: bool, request_says: bool | None, asked: bool
) -> None:
    bench = GoalBench(model({"tasks": [task("a")]}), worker, approve=operator)
    shown: list[Any] = []

    async def ask(run: Any, args: Any) -> dict[str, Any]:
        shown.append(json.loads(args["call"]))
        return {"verdict": "APPROVED", "by": ["ann"], "comments": []}

    bench.handlers = {**bench.handlers, "approvals.ask": ask}
    assert (await bench.goal(goal="Report", approve=request_says))["complete"]
    assert bool(shown) is asked


async def test_who_approves_sees_every_value_that_the_plan_is_given() -> None:
    tasks = [task("a", skill="echo", input={"text": NASTY, "long": "{{" + "😀" * 19_000})]
    bench = GoalBench(model({"tasks": tasks}), worker)
    shown: list[Any] = []

    async def ask(run: Any, args: Any) -> dict[str, Any]:
        shown.append(json.loads(args["call"]))
        return {"verdict": "REJECTED", "by": ["ann"], "comments": ["no"]}

    bench.handlers = {**bench.handlers, "approvals.ask": ask}
    with pytest.raises(BadPlan, match="said no"):
        await bench.goal(goal="Report", context={"year": 2026}, approve=True)
    inputs = shown[0]["inputs"]
    assert (shown[0]["goal"], inputs["context"], inputs["given"][0]) == ("Report", {"year": 2026}, NASTY)
    cut = inputs["given"][1]
    assert (len(cut["beginning"]), cut["characters"], len(cut["sha256"])) == (16_000, 19_002, 64)


def test_a_plan_that_nobody_can_be_shown_is_refused_with_its_size() -> None:
    nodes = [{"id": f"n{place}", "input": {"list": list(range(4_000))}} for place in range(4)]
    draft = {"native": {"nodes": nodes}, "inputs": {}, "tasks": []}
    with pytest.raises(PlanTooLarge, match=r"takes \d+ bytes, and a person can be shown 65536"):
        to_be_approved("Report", draft)


async def test_a_kept_plan_that_is_wrong_is_asked_for_anew_before_it_is_repaired() -> None:
    answers = {"intent": WANTED, "decompose": {"tasks": cycle()}, "decompose-anew": {"tasks": [task("a")]}}
    bench = GoalBench(lambda step, messages: answers[step], worker, cache_ttl_ms=86_400_000)
    bench.model.cached.add("decompose")
    result = await bench.goal(goal="Report")
    assert result["complete"] and result["cached"] is False and "repair" not in result
    assert [step for step, _ in bench.model.asked] == ["intent", "decompose", "decompose-anew"]
    assert "cache_ttl_ms" not in bench.model.options[2]
    assert bench.model.asked[2][1] == bench.model.asked[1][1], "the same question"


async def test_an_answer_in_another_form_is_sent_back_past_the_cache() -> None:
    answers = {"intent": "no JSON", "intent.repair1": WANTED, "decompose": {"tasks": [task("a")]}}
    bench = GoalBench(lambda step, messages: answers[step], worker, cache_ttl_ms=86_400_000)
    assert (await bench.goal(goal="Report"))["complete"]
    kept = [options.get("cache_ttl_ms") for options in bench.model.options]
    assert kept == [86_400_000, None, 86_400_000]


PLANS: dict[str, Any] = {
    "good": {"tasks": [task("a")]},
    "one task fails": {"tasks": [task("a"), task("b", description="fail")], "aggregate": "list"},
    "all fail": {"tasks": [task("a", description="fail")]},
    "cycle": {"tasks": cycle()},
}


@pytest.mark.parametrize(
    ("plan", "repaired", "kept"),
    [
        ("good", None, True),
        ("one task fails", None, False),
        ("all fail", None, False),
        ("cycle", "good", False),
        ("cycle", "cycle", False),
    ],
)
async def test_a_plan_stays_known_only_where_it_led_to_a_whole_answer(
    plan: str, repaired: str | None, kept: bool
) -> None:
    says = model(PLANS[plan], repaired and PLANS[repaired])
    bench = GoalBench(says, worker, cache_ttl_ms=86_400_000)
    with contextlib.suppress(GoalFailed, BadPlan):
        await bench.goal(goal="Report")
    assert sorted(bench.core.state.llm.cache) == (["key of decompose", "key of intent"] if kept else [])


async def test_a_plan_that_a_person_refused_is_not_shown_to_them_again() -> None:
    bench = GoalBench(model({"tasks": [task("a")]}), worker, approve=True, cache_ttl_ms=86_400_000)

    async def ask(run: Any, args: Any) -> dict[str, Any]:
        return {"verdict": "REJECTED", "by": ["ann"], "comments": ["no"]}

    bench.handlers = {**bench.handlers, "approvals.ask": ask}
    with pytest.raises(BadPlan, match="said no"):
        await bench.goal(goal="Report")
    assert not bench.core.state.llm.cache
