"""Goals on real nodes: routed by rules, planned by a scripted model, carried out while nodes are killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.client import Cluster, InvalidRequest, Job, TaskFailed
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, llm_options, new_cluster, until
from tests.cluster.test_failover import running_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

RULES = [
    {"name": "sums", "pattern": "(?i)add up", "skill": "add-up", "priority": 9, "input": {"results": [1, 2]}},
    {"name": "models", "pattern": "(训练|模型)", "agents": ["trainer"], "priority": 10, "timeout": 3600},
    {"name": "also_models", "pattern": "模型", "agents": ["designer"], "priority": 10},
    {
        "name": "both",
        "pattern": "(?i)end to end",
        "workflow": [
            {"agent": "designer", "step": 1, "task": "draw it"},
            {"agent": "trainer", "step": 2, "task": "train it", "depends_on": "step-1", "timeout": 60},
        ],
        "priority": 15,
        "aggregate": "list",
    },
    {"name": "default", "pattern": ".*", "agents": None, "priority": 1},
]
PLAN = {
    "tasks": [
        {
            "id": "a",
            "description": "find {{ goal }} facts",
            "capabilities": ["training models"],
            "dependencies": [],
        },
        {
            "id": "b",
            "description": "sum",
            "skill": "add-up",
            "input": {"results": [4, 5]},
            "dependencies": [],
        },
        {"id": "c", "description": "__import__('os').system('true')", "dependencies": ["a", "b"]},
    ],
    "aggregate": "llm",
}
INTENT = {"intent": "a report", "simple": False, "capabilities": ["reporting"]}


def of_step(place: str) -> dict[str, Any]:
    """The rule of the model server that fits one of the prompts."""
    said = {
        "intent": "You receive requests",
        "plan": "You make plans",
        "repair": "This plan cannot be run",
        "edges": "Correct the dependencies",
        "answer": "You tell somebody",
    }
    return {"anywhere": said[place]}


@pytest.fixture(scope="module")
def nodes(server: LlmServerProcess, key_file: Path) -> Iterator[LocalCluster]:
    options = {**llm_options(server, key_file), "routing_rules": RULES, "goals": {"model": "background"}}
    with new_cluster(options=options) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        asyncio.run(_with_agents(cluster))
        yield cluster


async def _with_agents(nodes: LocalCluster) -> None:
    async with client_of(nodes) as client:
        for name, can in (("trainer", "model_training"), ("designer", "system_design")):
            agent = {"id": name, "capabilities": [can], "model": {"provider": "background", "name": "m"}}
            await client.agents.apply({"config.yaml": yaml.safe_dump({"agent": agent})})


def planned(server: LlmServerProcess, *more: dict[str, Any], plan: Any = PLAN, plan_ms: int = 0) -> None:
    server.script(
        *more,
        {"when": of_step("intent"), "answer": {"json": INTENT}},
        {"when": of_step("plan"), "answer": {"json": plan}, "chunk_ms": plan_ms},
        {"when": of_step("answer"), "answer": {"text": "All is well."}},
    )


def billed(server: LlmServerProcess, job: Job) -> Counter[str]:
    """How often each question of the goal and of the tasks of its run was paid."""
    names = [bill["request_id"].split("/") for bill in server.bills]
    return Counter(
        f"{task.removeprefix(job.id)}/{step}" for task, step, _ in names if task.startswith(job.id)
    )


async def test_a_rule_decides_and_no_model_is_asked_how(server: LlmServerProcess, client: Cluster) -> None:
    found = await client.goals.route("please add up")
    assert (found.rule, found.target, found.names) == ("sums", "skill", ("add-up",))
    assert found.matched == (("sums", 9), ("default", 1)) and not found.ambiguous
    job = await client.goals.submit("please add up")
    result = await job.wait(timeout=60)
    assert (result["answer"]["sum"], result["complete"], result["route"]["rule"]) == (3, True, "sums")
    assert not billed(server, job)


async def test_equal_rules_are_told_and_the_first_counts(client: Cluster) -> None:
    result = await (await client.goals.submit("训练一个模型")).wait(timeout=60)
    assert result["route"]["ambiguous"] == ["models", "also_models"]
    assert result["plan"]["tasks"] == [
        {"id": "task", "type": "agent", "agents": ["trainer"], "depends_on": []}
    ]
    assert "训练一个模型" in result["answer"]


async def test_steps_of_a_rule_see_the_request_and_each_other(client: Cluster) -> None:
    result = await (await client.goals.submit("End to end: {{ run.id }}")).wait(timeout=60)
    assert result["counts"] == {"total": 2, "succeeded": 2} and result["aggregate"] == "list"
    assert "{{ run.id }}" in result["answer"][0] and "step-1" in result["answer"][0]


async def test_killed_in_the_middle_it_goes_on_and_pays_for_each_answer_once(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    planned(server, plan_ms=150)  # before each of some fifty pieces
    job = await client.goals.submit("Report on all of it", context={"year": 2026})

    async def planning() -> bool:
        return billed(server, job)["/decompose"] > 0

    await until(planning, "the plan is being made")
    await asyncio.sleep(2.5)  # the cluster knows the provider's name for it
    killed = await running_on(job)
    nodes.kill_node(killed)
    result = await job.wait(timeout=90)
    nodes.start_node(killed)
    assert result["answer"] == "All is well." and result["complete"]
    assert result["counts"] == {"total": 3, "succeeded": 3}
    by = {row["task"]: row["by"] for row in result["results"]}
    assert by == {"a": "trainer", "b": "add-up", "c": "llm"}
    award = result["selection"][0]
    assert (award["winner"], award["strategy"]) == ("trainer", "contract-net")
    assert [bid["agent_id"] for bid in award["bids"]] == ["trainer", "designer"]
    paid = billed(server, job)
    assert set(paid) == {"/intent", "/decompose", "/answer", ".run~a~0/think1", ".run~c~0/llm"}
    assert set(paid.values()) == {1}
    assert "__import__('os').system('true')" in result["results"][2]["result"], "data stays what it was"


async def test_a_plan_that_is_known_is_not_paid_again(server: LlmServerProcess, client: Cluster) -> None:
    planned(server)
    first = await client.goals.submit(" Report on the cach\u00e9")
    await first.wait(timeout=60)
    again = await client.goals.submit("Report on the cache\u0301\n")
    result = await again.wait(timeout=60)
    assert result["cached"] is True and result["plan"]["tasks"]
    assert {"/intent", "/decompose"}.isdisjoint(billed(server, again))


async def test_a_plan_whose_run_failed_is_not_given_again(server: LlmServerProcess, client: Cluster) -> None:
    bad = [
        {"id": "a", "description": "sum", "skill": "add-up", "input": {"results": "x"}, "dependencies": []}
    ]
    planned(server, plan={"tasks": bad})
    with pytest.raises(TaskFailed, match="GOAL_FAILED"):
        await (await client.goals.submit("Sum it up")).wait(timeout=60)
    planned(server)
    job = await client.goals.submit("Sum it up")
    result = await job.wait(timeout=60)
    assert result["complete"] and result["cached"] is False
    assert billed(server, job)["/intent"] == billed(server, job)["/decompose"] == 1


async def test_one_repair_and_what_it_changed(server: LlmServerProcess, client: Cluster) -> None:
    cycle = {
        "tasks": [
            {"id": f"task_{n}", "description": f"part {n}", "dependencies": [f"task_{behind}"]}
            for n, behind in ((1, 3), (2, 1), (3, 2))
        ]
    }
    mended = {"tasks": [{**cycle["tasks"][0], "dependencies": []}, *cycle["tasks"][1:]], "aggregate": "list"}
    planned(server, {"when": of_step("repair"), "answer": {"json": mended}}, plan=cycle)
    result = await (await client.goals.submit("Mend my plan")).wait(timeout=60)
    assert result["complete"] and result["counts"]["succeeded"] == 3
    problem = result["repair"]["problems"][0]
    assert (problem["code"], problem["cycle"]) == ("CYCLE", ["task_1", "task_3", "task_2", "task_1"])
    assert result["repair"]["changes"] == [
        {"task": "task_1", "before": {"dependencies": ["task_3"]}, "after": {"dependencies": []}}
    ]
    planned(server, {"when": of_step("repair"), "answer": {"json": cycle}}, plan=cycle)
    with pytest.raises(TaskFailed, match="CYCLE"):
        await (await client.goals.submit("Mend it in vain")).wait(timeout=60)


async def test_a_workflow_with_a_cycle_is_mended_when_that_is_asked_for(
    server: LlmServerProcess, client: Cluster
) -> None:
    nodes = [
        {"id": f"task_{n}", "skill": "echo", "input": f"part {n}", "depends_on": f"task_{behind}"}
        for n, behind in ((1, 3), (2, 1), (3, 2))
    ]
    text = yaml.safe_dump({"nodes": nodes})
    with pytest.raises(InvalidRequest, match="stands on itself"):
        await client.workflows.run(text)
    change = {"changes": [{"node": "task_1", "depends_on": [], "why": "it is the first"}]}
    server.script({"when": of_step("edges"), "answer": {"json": change}})
    result = await (await client.goals.mend(text)).wait(timeout=60)
    assert result["complete"] and result["counts"] == {"total": 3, "succeeded": 3}
    assert result["repair"]["changes"] == [
        {"task": "task_1", "before": "task_3", "after": [], "why": "it is the first"}
    ]


async def test_what_failed_is_told(server: LlmServerProcess, client: Cluster) -> None:
    tasks = [
        {"id": "good", "description": "tell", "dependencies": []},
        {"id": "bad", "description": "sum", "skill": "add-up", "input": {"results": "x"}, "dependencies": []},
        {"id": "after", "description": "tell more", "dependencies": ["bad"]},
    ]
    planned(server, plan={"tasks": tasks, "aggregate": "llm"})
    result = await (await client.goals.submit("Half of it")).wait(timeout=60)
    assert not result["complete"] and result["counts"]["succeeded"] == 1
    assert {one["task"]: one["state"] for one in result["failures"]} == {"bad": "FAILED", "after": "SKIPPED"}
    assert result["answer"].startswith("All is well.") and "1 of 3 tasks succeeded" in result["answer"]


async def test_bids_are_shown_and_a_bad_request_is_refused_at_once(client: Cluster) -> None:
    match = await client.agents.match("design of the system", strategy="score")
    assert (match.winner, match.bids[0].fit) == ("designer", 1000)
    assert "system_design" in match.bids[0].matched
    assert match.bids[1].declined
    with pytest.raises(InvalidRequest, match="no routing rule 'nope'") as refused:
        await client.goals.submit(" ", rule="nope")
    assert "goal" in str(refused.value)
