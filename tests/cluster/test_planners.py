"""Nodes of a run that add nodes to it: skills, and agents within what their files let them have done."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.client import Cluster, TaskFailed
from coterie.node.demo.llmserver.process import LlmServerProcess
from tests.cluster.test_agents import applied, calls

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PLANNED = "nodes: {plan: {agent: planner, input: Plan it}}\noutputs: '{{ plan.answer }}'"


def plans(**nodes: Any) -> dict[str, Any]:
    return calls({"name": "add_nodes", "arguments": {"nodes": nodes}})


async def test_a_skill_adds_nodes_to_its_run_and_a_cycle_is_refused(client: Cluster) -> None:
    flow = "inputs: [nodes]\nnodes: {plan: {skill: grow, retry: 1, input: {nodes: '{{ nodes }}'}}}"
    more: dict[str, dict[str, Any]] = {
        "a": {"skill": "echo", "input": "{{ plan }}", "depends_on": "plan"},
        "b": {"skill": "echo", "input": ["{{ a[0] }}", 7], "depends_on": "a"},
    }
    job = await client.run_workflow(flow, nodes=more)
    assert await job.wait(timeout=60) == {"b": ["a", 7]}
    more["a"]["depends_on"] = ["plan", "b"]
    job = await client.run_workflow(flow, nodes=more)
    with pytest.raises(TaskFailed, match=r"stands on itself: (a <- b <- a|b <- a <- b)"):
        await job.wait(timeout=60)
    alone = await client.submit_task(type="grow", payload={"nodes": more}, max_attempts=1)
    with pytest.raises(TaskFailed, match="NOT_IN_A_RUN"):
        await alone.wait(timeout=60)


async def test_an_agent_plans_for_its_colleagues_and_for_nobody_else(
    server: LlmServerProcess, client: Cluster
) -> None:
    await applied(client, "planner", loop={"add_nodes": True, "handoff": ["worker"]})
    await applied(client, "worker")
    await applied(client, "stranger")
    both = {"task": "compare", "with": "{{ first.answer }}"}
    server.script(
        {"when": {"contains": "Plan it"}, "answer": plans(x={"agent": "stranger", "input": "y"})},
        {"when": {"contains": "'stranger' is none of worker"}, "answer": plans(x={"skill": "echo"})},
        {"when": {"contains": "no skills"}, "answer": plans(x={"agent": "worker", "depends_on": "x"})},
        {
            "when": {"contains": "stands on itself"},
            "answer": plans(
                first={"agent": "worker", "input": "look", "depends_on": "plan"},
                second={"agent": "worker", "input": both, "depends_on": "first"},
            ),
        },
        {"when": {"contains": "Added: first, second."}, "answer": {"text": "planned"}},
        {"when": {"contains": "compare"}, "answer": {"text": "compared"}},
        {"when": {"contains": "You saw"}, "answer": {"text": "compared"}},
        {"answer": {"text": "You saw"}},
    )
    job = await client.run_workflow(PLANNED)
    assert await job.wait(timeout=90) == "planned"
    run = await client.workflows.get(job.id)
    assert {node.id: node.state for node in run.nodes} == dict.fromkeys(
        ("plan", "first", "second"), "SUCCEEDED"
    )
