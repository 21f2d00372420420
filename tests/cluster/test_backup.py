"""A backup of a cluster at work, and a new cluster made of it beside what is left of the old one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coterie.client import Cluster, Event, InvalidRequest, Job
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, new_cluster
from tests.cluster.twins import Load, command, restored, twin

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
LARGE = {"text": "x" * 700_000}  # above what travels in the log
BEFORE, AFTER, STEPS = 40, 20, 50


@dataclass
class Old:
    """What was going on when the backup was made: in its very moment, before, and after."""

    slow: Job
    large: Job
    before: list[Job]
    after: list[Job]
    token: str


async def backed_up(client: Cluster, path: Path) -> Old:
    witness = str(path.with_suffix(".witness"))
    steps = {"witness": witness, "steps": STEPS, "step_ms": 250}
    slow = await client.submit_task(type="steps", payload=steps)
    large = await client.submit_task(type="echo", payload=LARGE, start_delay="1h", request_id="large")
    token = ""
    async for event in slow.watch():
        token = event.resume_token or token
        if event.type == "step":
            break
    load = Load(client)

    async def meanwhile() -> list[Job]:
        await load.reach(BEFORE)
        before = list(load.acked)
        await client.create_backup(path)
        await load.reach(len(load.acked) + AFTER)
        return before

    before = await load.run(meanwhile())
    return Old(slow, large, before, load.acked[-AFTER:], token)


async def test_a_backup_under_load_becomes_a_cluster_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    with new_cluster() as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            old = await backed_up(client, path)
        for node_id in ("node-1", "node-2"):
            cluster.kill_node(node_id)  # the third lives on, under its old name and address
        code, said = await command("backup", "verify", str(path))
        assert code == 0, said
        assert (said["lost_blobs"], said["history"]) == ([], True)
        new = twin(cluster, tmp_path / "new")
        told = await restored(new, path)
        assert (told["cluster_id"], told["index"]) == (said["cluster_id"], said["index"])
        try:
            await check(new, cluster, old)
        finally:
            new.stop()


async def check(new: LocalCluster, remains: LocalCluster, old: Old) -> None:
    for node_id in ("node-1", "node-2"):
        new.start_node(node_id)
    await new.wait_ready(READY_S)
    async with client_of(new, "node-1", "node-2") as client:
        for job in old.before:
            await client.job(job.id).wait(timeout=60)
        slow, large = client.job(old.slow.id), client.job(old.large.id)
        with pytest.raises(InvalidRequest, match="before it was restored from a backup"):
            async for _ in slow.watch(resume_token=old.token):
                pass
        again = await client.submit_task(type="echo", payload=LARGE, start_delay="1h", request_id="large")
        assert again.id == large.id
        assert [event.type async for event in to_restored(slow)][-1] == "restored"
        status = await client.get_status()
        assert {node.id for node in status.nodes if node.state == "ACTIVE"} == {"node-1", "node-2"}
        known = {task.id async for task in client.list_tasks()}
        assert not {job.id for job in old.after} <= known, "the backup is of a moment, not of later"
        remains.kill_node("node-3")
        new.start_node("node-3")
        await new.wait_ready(READY_S)
        done = await slow.wait(timeout=60)
        assert done["squares"] == [number * number for number in range(STEPS)]


async def to_restored(job: Job) -> AsyncIterator[Event]:
    async for event in job.watch():
        yield event
        if event.type == "restored":
            return
