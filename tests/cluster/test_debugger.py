"""Histories and forks on real nodes: what was paid for before a fork is not paid again, whoever dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from coterie.client import Cluster, InvalidRequest, NotFound, Workflow
from coterie.client.errors import OutOfRange
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, new_cluster
from tests.cluster.test_failover import leader_of
from tests.node.debugger.mermaid import check

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def server() -> Iterator[LlmServerProcess]:
    with LlmServerProcess() as process:
        yield process


@pytest.fixture(scope="module")
def nodes(server: LlmServerProcess) -> Iterator[LocalCluster]:
    provider = {"baseUrl": server.url, "model": "m", "price": {"in": 1.0, "out": 2.0}}
    with new_cluster(options={"llm": {"default": "main", "providers": {"main": provider}}}) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


def letters() -> Workflow:
    """Two calls of a model, one after the other, and a letter from both."""
    flow = Workflow("letters", inputs=["who", "tone"], outputs="{{ letter }}")
    facts = flow.add("facts", type="llm", input={"prompt": "Facts about {{ who }}"})
    draft = flow.add("draft", type="llm", input={"prompt": "Write {{ facts }}"}, after=facts)
    text = {"to": "{{ who }}", "tone": "{{ tone }}", "text": "{{ draft }}"}
    flow.task("letter", skill="echo", input=text, after=draft)
    return flow


def billed(server: LlmServerProcess) -> Counter[str]:
    """Calls by the task that made them."""
    return Counter(bill["request_id"].split("/")[0] for bill in server.bills)


async def test_a_fork_pays_nothing_before_its_point_twice(
    nodes: LocalCluster, server: LlmServerProcess
) -> None:
    async with client_of(nodes) as client:
        job = await client.run_workflow(letters(), who="Ann", tone="kind")
        first = await job.wait(timeout="60s")
        paid = billed(server)
        assert paid.keys() == {f"{job.id}~facts~0", f"{job.id}~draft~0"}
        killed = await leader_of(client)
        nodes.kill_node(killed)
        fork = await client.debugger.fork(job.id, "letter", {"tone": "stern"})
        assert await fork.wait(timeout="60s") == {**first, "tone": "stern"}
        again = await client.debugger.fork(job.id, "draft", {"who": "Bob"}, request_id="once")
        assert (await client.debugger.fork(job.id, "draft", {"who": "Bob"}, request_id="once")).id == again.id
        assert (await again.wait(timeout="60s"))["to"] == "Bob"
        nodes.start_node(killed)
        more = billed(server) - paid
        assert more.keys() == {f"{again.id}~draft~0"}, "nothing before a point, and nothing of the first run"
        await told(client, job.id, again.id)
        await refused(client, job.id)
        await back(client, again.id)
        await nodes.wait_ready(READY_S)


async def told(client: Cluster, source: str, fork: str) -> None:
    """Lineage and costs, in every form."""
    info = await client.job(fork).get()
    assert info.forked_from == f"{source}@draft" and not info.retry_of
    history = await client.debugger.history(fork, format="text")
    assert f"forked from {source}@draft" in history.drawing and history.calls_paid >= 1
    assert (await client.debugger.history(source)).calls_paid >= 2
    assert history.micro_usd > 0 and len(history.tasks) == 3
    for form in ("mermaid", "gantt"):
        form_: Any = form
        assert check((await client.debugger.history(fork, format=form_)).drawing)
    story = await client.debugger.story(fork)
    assert f"forked from task {source} at draft" in story and "took over 1 result: facts" in story


async def back(client: Cluster, fork: str) -> None:
    """Earlier states of the run, and of the cluster; its history replayed."""
    events = (await client.debugger.history(fork)).timeline
    drafted = next(one for one in events if one.task == fork and one.type == "step" and one.detail == "draft")
    then = await client.debugger.state(drafted.index - 1, fork)
    assert then.task is not None and then.task.state == "WAITING"
    assert {node.id: node.state for node in then.nodes} == {
        "facts": "SUCCEEDED",
        "draft": "RUNNING",
        "letter": "PENDING",
    }
    later = await client.debugger.state(drafted.index, fork)
    assert later.task is not None and [step.name for step in later.task.steps] == ["facts", "draft"]
    cluster = await client.debugger.state(drafted.index - 1)
    assert cluster.tasks_by_state["WAITING"] == 1 and len(cluster.cluster) == 3
    assert (await client.debugger.state()).index >= drafted.index
    with pytest.raises(OutOfRange, match="lies ahead"):
        await client.debugger.state(10**9)
    with pytest.raises(NotFound):
        await client.debugger.state(events[0].index - 1, fork)
    assert "as it was recorded" in (await client.debugger.history(fork, format="replay")).drawing


async def refused(client: Cluster, source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.debugger.fork(source, "nowhere", {"tone": 7, "nobody": 1})
    assert sorted(field for field, _ in caught.value.violations) == ["at", "set.nobody", "set.tone"]
