"""Effects and approvals on real nodes: killed in the middle of a call, decided by people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.client import Cluster, FailedPrecondition, Job, TaskFailed, TaskInfo
from coterie.client.decisions import Approval
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import client_of, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def in_state(job: Job, state: str, reason: str) -> TaskInfo:
    async def there() -> TaskInfo | None:
        info = await job.get()
        return info if (info.state, info.wait_reason) == (state, reason) else None

    found = await until(there, f"{job.id} is {state} {reason}")
    assert isinstance(found, TaskInfo)
    return found


async def killed_in_the_air(nodes: LocalCluster, client: Cluster, job: Job, seen: Path) -> None:
    """Kill the node that runs the effect while it is under way."""

    async def called() -> bool:
        return bool(lines(seen))

    await until(called, "the effect has begun")
    node = (await job.get()).node
    nodes.kill_node(node)
    nodes.start_node(node)


async def test_an_effect_in_the_air_is_retried_asked_about_or_failed(
    fresh: LocalCluster, tmp_path: Path
) -> None:
    async with client_of(fresh) as client:
        jobs: dict[str, Job] = {}
        for policy in ("retry", "ask", "fail"):
            seen = tmp_path / policy
            given: dict[str, Any] = {"witness": str(seen), "ms": 8_000, "on_unknown": policy}
            jobs[policy] = await client.submit_task(type="effects", payload=given, max_attempts=1)
            await killed_in_the_air(fresh, client, jobs[policy], seen)
            await fresh.wait_ready(60.0)
        assert await jobs["retry"].wait(timeout=60) == "sent"
        first, second = lines(tmp_path / "retry")
        assert first.split()[0] == second.split()[0] == f"{jobs['retry'].id}-mail"
        assert int(first.split()[1]) < int(second.split()[1]), "the fence grows"
        with pytest.raises(TaskFailed) as failed:
            await jobs["fail"].wait(timeout=60)
        assert failed.value.task.error is not None and failed.value.task.error.code == "IN_DOUBT"
        assert len(lines(tmp_path / "fail")) == 1, "not called again"
        await in_state(jobs["ask"], "WAITING", "IN_DOUBT")
        doubts = await client.effects.doubts()
        assert [(doubt.task, doubt.resolution) for doubt in doubts] == [
            (jobs["ask"].id, ""),
            (jobs["fail"].id, "ABANDONED"),
            (jobs["retry"].id, "RETRIED"),
        ]
        await client.effects.done(jobs["ask"].id, "send", "I saw it", "looked", principal="ann")
        assert await jobs["ask"].wait(timeout=60) == "I saw it"
        assert len(lines(tmp_path / "ask")) == 1
        with pytest.raises(FailedPrecondition):
            await client.effects.retry(jobs["ask"].id, "send")


async def test_people_approve_one_call(shared: LocalCluster, tmp_path: Path) -> None:
    async with client_of(shared) as client:
        given = {"witness": str(tmp_path / "seen"), "call": {"to": "ann", "amount": 7}, "approvers": 2}
        job = await client.submit_task(type="effects", payload=given)
        other = await client.submit_task(type="effects", payload={**given, "call": {"to": "bob"}})
        await in_state(job, "WAITING", "APPROVAL")
        await in_state(other, "WAITING", "APPROVAL")
        asked = await question(client, job)
        assert (asked.call, asked.needed, asked.verdict) == ({"to": "ann", "amount": 7}, 2, "PENDING")
        await client.approvals.approve(asked, "fine", principal="carl")
        again = await client.approvals.approve(asked, "fine", principal="carl")
        assert len(again.votes) == 1 and again.verdict == "PENDING"
        assert (await job.get()).state == "WAITING"
        assert (await client.approvals.approve(asked, principal="dora")).verdict == "APPROVED"
        await client.approvals.reject(await question(client, other), "no", principal="carl")
        assert await job.wait(timeout=30) == "sent"
        assert await other.wait(timeout=30) == "not allowed"
        told = [json.loads(event.detail) async for event in job.watch() if event.type == "emitted"]
        assert told == [{"event": "decided", "data": {"by": ["carl", "dora"]}}]
        assert await client.approvals.list(decided=True) == [], "they go with their tasks"


async def question(client: Cluster, job: Job) -> Approval:
    [asked] = await client.approvals.list(task=job.id)
    return asked
