"""Workflows on real nodes: through the client, over leaders and nodes that die by kill -9."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coterie.client import Cluster, FailedPrecondition, InvalidRequest, NotFound, TaskFailed, Workflow
from coterie.node.localcluster import LocalCluster
from coterie.skills.bundle import collect, pack, revision_of
from tests.cluster.conftest import READY_S, client_of, new_cluster, until
from tests.cluster.test_failover import assert_no_step_ran_again_after_completion, leader_of, steps_payload

PUBLISHED = Path(__file__).parents[2] / "cluster-config" / "skills"
CODE = """
try:
    open("/etc/passwd").read()
    stolen = "everything"
except OSError as error:
    stolen = type(error).__name__
result = {"sum": sum(rows), "stolen": stolen}
"""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def nodes() -> Any:
    """Three nodes for all of this file: who kills one starts it again."""
    with new_cluster() as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def client(nodes: LocalCluster) -> AsyncIterator[Cluster]:
    async with client_of(nodes) as opened:
        yield opened


def tickets() -> Workflow:
    """A branch, a map with a declared reducer, an approval; built in Python."""
    flow = Workflow(
        "tickets", inputs=["ticket", "numbers"], outputs={"sum": "{{ total }}", "said": "{{ answer }}"}
    )
    read = flow.task("read", skill="echo", input=flow.ref("ticket"))
    high = flow.condition("high", "read.score > 5", after=read)
    each = flow.add("each", over=flow.ref("numbers"), skill="echo", input="{{ item }}", after=high.when(True))
    flow.add("total", over=each.output, reduce="sum", after=each)
    flow.task("file", skill="echo", after=high.when(False))
    ok = flow.add("ok", type="approval", after=read)

    @flow.node(skill="echo")
    def answer(read: Any) -> Any:
        return {"text": read["text"]}

    answer.after(ok.when(True))
    return flow


async def test_a_run_is_a_task_with_nodes(client: Cluster) -> None:
    plan = await client.workflows.plan(tickets())
    assert plan.problems == () and plan.needs == ("ticket", "numbers")
    text = "{{ read }} __import__('os').abort()"
    job = await client.run_workflow(tickets(), ticket={"score": 9, "text": text}, numbers=[1, 2, 3])

    async def asked() -> bool:
        run = await client.workflows.get(job.id)
        return run.node("ok").state == "WAITING" and run.node("total").done

    await until(asked, "the approval is waited for")
    await job.signal("approval.ok", {"approved": True, "by": "me"})
    assert await job.wait(timeout="30s") == {"sum": 6, "said": {"text": text}}
    run = await client.workflows.get(job.id, graph=True)
    assert run.node("file").state == "SKIPPED" and run.node("each").tasks == 3
    assert run.task.state == "SUCCEEDED" and run.graph["name"] == "tickets" and "flowchart" in run.mermaid
    assert [event.type async for event in job.watch()][-1] == "succeeded"


async def test_everything_wrong_is_said_before_anything_begins(client: Cluster) -> None:
    tasks = [
        {"id": "task_1", "skill": "echo", "dependencies": ["task_3"]},
        {"id": "task_2", "skill": "ecko", "dependencies": ["task_1"]},
        {"id": "task_3", "skill": "echo", "dependencies": ["task_2"]},
    ]
    with pytest.raises(InvalidRequest) as caught:
        await client.run_workflow(json.dumps({"tasks": tasks}))
    assert caught.value.reason == "CYCLE" and "task_1 <- task_3 <- task_2 <- task_1" in str(caught.value)
    assert "did you mean 'echo'" in str(caught.value)
    with pytest.raises(InvalidRequest, match="topic"):
        await client.run_workflow("inputs: [topic]\nnodes: {a: {skill: echo}}")


async def test_a_run_goes_on_while_nodes_are_killed(
    nodes: LocalCluster, client: Cluster, tmp_path: Path
) -> None:
    """No node of the workflow runs twice after it was done, and none is lost."""
    flow = Workflow("long", max_parallel=4)
    last = flow.task("begin", skill="echo", input=0)
    for stage in range(4):
        files = [str(tmp_path / f"{stage}-{at}") for at in range(3)]
        many = [
            flow.task(f"s{stage}-{at}", skill="steps", input=steps_payload(Path(file), 3, 50))
            for at, file in enumerate(files)
        ]
        last >> many
        last = flow.task(f"join-{stage}", skill="echo", input=stage, after=many)
    job = await client.run_workflow(flow)
    for _ in range(2):
        old = await leader_of(client)
        nodes.kill_node(old)
        await asyncio.sleep(1.0)
        nodes.start_node(old)
        await nodes.wait_ready(READY_S)
    assert await job.wait(timeout="120s") == {"join-3": 3}
    run = await client.workflows.get(job.id)
    assert {node.state for node in run.nodes} == {"SUCCEEDED"}
    for stage in range(4):
        for at in range(3):
            child = await client.job(f"{job.id}~s{stage}-{at}~0").get(include_steps=True)
            assert_no_step_ran_again_after_completion(tmp_path / f"{stage}-{at}", child)
            assert len(child.steps) == 3


async def test_a_failed_run_is_repeated_from_where_it_failed(client: Cluster) -> None:
    flow = Workflow("retry", inputs=["x"])
    first = flow.task("first", skill="echo", input=flow.ref("x"))
    check = flow.condition("check", "first.good", after=first)
    wrong = flow.task("wrong", skill="echo", input="{{ first.missing }}", after=check)
    del wrong
    job = await client.run_workflow(flow, x={"good": True})
    with pytest.raises(TaskFailed, match="missing"):
        await job.wait(timeout="30s")
    again = await client.workflows.retry(job.id)
    with pytest.raises(TaskFailed):
        await again.wait(timeout="30s")
    run = await client.workflows.get(again.id)
    assert run.node("first").tasks == 0 and "earlier run" in run.node("first").message
    fresh = await client.workflows.retry(job.id, from_node="first")
    with pytest.raises(TaskFailed):
        await fresh.wait(timeout="30s")
    assert (await client.workflows.get(fresh.id)).node("first").tasks == 1
    with pytest.raises(InvalidRequest, match="from_node"):
        await client.workflows.retry(job.id, from_node="nobody")
    echo = await client.submit_task(type="echo", payload=1)
    with pytest.raises(FailedPrecondition):
        await client.workflows.get(echo.id)


async def test_nodes_are_added_to_a_run_that_is_live(client: Cluster) -> None:
    job = await client.run_workflow("nodes: {plan: {skill: echo, input: 2}, hold: {signal: go}}")
    await client.workflows.add_nodes(
        job.id, "nodes: {more: {skill: echo, input: '{{ plan }}', depends_on: plan}}"
    )
    with pytest.raises(InvalidRequest, match="nobody"):
        await client.workflows.add_nodes(job.id, "nodes: {x: {skill: echo, depends_on: nobody}}")
    with pytest.raises(InvalidRequest, match=r"no node has a skill 'ecko'.*'nobody', which no node is"):
        await client.workflows.add_nodes(job.id, "nodes: {x: {skill: ecko, depends_on: nobody}}")
    await job.signal("go", "on")
    assert await job.wait(timeout="30s") == {"hold": "on", "more": 2}


async def test_workflows_are_kept_under_names_and_used_inside_others(client: Cluster) -> None:
    inner = "inputs: [n]\nnodes: {only: {skill: echo, input: '{{ n }}'}}\noutputs: '{{ only }}'"
    assert (await client.workflows.apply("inner", inner)).revision == 1
    assert (await client.workflows.apply("inner", inner)).revision == 1
    outer = "nodes: {sub: {workflow: inner, input: {n: 7}}}"
    job = await client.run_workflow(outer)
    assert await job.wait(timeout="30s") == {"sub": 7}
    job = await client.run_workflow("nodes: {hold: {signal: go}}")
    with pytest.raises(InvalidRequest, match=r"no workflow 'iner' is applied; known: inner$"):
        await client.workflows.add_nodes(job.id, "nodes: {sub: {workflow: iner, input: {n: 7}}}")
    await client.workflows.add_nodes(job.id, "nodes: {sub: {workflow: inner, input: {n: 7}}}")
    await job.signal("go", "on")
    assert await job.wait(timeout="30s") == {"hold": "on", "sub": 7}
    kept = await client.workflows.run(kept="inner", inputs={"n": 8})
    assert await kept.wait(timeout="30s") == 8
    assert [one.name for one in await client.workflows.list()] == ["inner"]
    assert (await client.workflows.show("inner")).text == inner
    await client.workflows.remove("inner")
    with pytest.raises(NotFound):
        await client.workflows.show("inner")


async def test_a_cancelled_run_takes_its_tasks_along(client: Cluster) -> None:
    job = await client.run_workflow("nodes: {hang: {skill: hang}, b: {skill: echo, depends_on: hang}}")

    async def runs() -> bool:
        return (await client.workflows.get(job.id)).node("hang").live == 1

    await until(runs, "the node is begun")
    await job.cancel("enough")
    child = client.job(f"{job.id}~hang~0")

    async def gone() -> bool:
        return (await job.get()).done and (await child.get()).done

    await until(gone, "both have ended")
    run = await client.workflows.get(job.id)
    assert run.task.state == "CANCELLED"
    assert {node.id: node.state for node in run.nodes} == {"hang": "CANCELLED", "b": "SKIPPED"}


async def test_code_runs_only_where_it_was_published_and_behind_walls(client: Cluster) -> None:
    source = {"count": {"type": "code", "input": {"code": CODE, "rows": [1, 2, 3]}}}
    flow = json.dumps({"nodes": source})
    with pytest.raises(InvalidRequest, match="code nodes are not enabled"):
        await client.run_workflow(flow)
    bundle = pack(collect(PUBLISHED / "code"))
    await client.skills.publish("code", bundle)
    await client.skills.approve("code", revision_of(bundle))
    await client.skills.route("code", revision_of(bundle))
    job = await client.run_workflow(flow)
    assert await job.wait(timeout="60s") == {"count": {"sum": 6, "stolen": "PermissionError"}}
    wrong = json.dumps({"nodes": {"count": {"type": "code", "input": {"code": "1/0"}}}})
    with pytest.raises(TaskFailed, match="ZeroDivisionError"):
        await (await client.run_workflow(wrong)).wait(timeout="60s")


async def test_what_a_run_is_given_and_the_agents_it_names_are_looked_at_before_it_begins(
    client: Cluster,
) -> None:
    flow = "inputs: {topic: rafts, size: 3}\nnodes: {a: {skill: echo, input: '{{ topic }}'}}"
    with pytest.raises(InvalidRequest, match="topik: is no input of the workflow; did you mean 'topic'"):
        await client.run_workflow(flow, topik="boats")
    await client.agents.apply({"config.yaml": "agent: {id: clerk, aliases: [scribe]}"})
    known = "nodes: {a: {agent: scribe, input: go}, b: {skill: echo, depends_on: a}}"
    assert not (await client.workflows.plan(known)).problems

    async def wrong() -> Any:  # a node that has heard of no agent yet finds none unknown
        return (await client.workflows.plan(known.replace("scribe", "clark"))).problems

    found = await until(wrong, "the node that is asked knows the agent")
    assert [(one.code, one.where) for one in found] == [("UNKNOWN_AGENT", "a")]
    assert "did you mean 'clerk'" in found[0].text
