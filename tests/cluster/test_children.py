"""Parents and children on real nodes, while nodes are killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coterie.client import Cluster, TaskFailed, TaskInfo, TaskTimedOut
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import client_of, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def done(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_family_outlives_the_nodes_that_run_it(fresh: LocalCluster, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    async with client_of(fresh) as client:
        given = {"children": 40, "witness": str(seen), "ms": 40, "window": 8}
        job = await client.submit_task(type="family", payload=given)
        for number in (1, 2, 3):
            already = len(done(seen))

            async def further(already: int = already) -> bool:
                return len(done(seen)) >= min(already + 6, 40)

            await until(further, "some children end")
            fresh.kill_node(f"node-{number}")
            fresh.start_node(f"node-{number}")
            await fresh.wait_ready(60.0)
        assert await job.wait(timeout=90) == sum(n * n for n in range(40))
        assert set(done(seen)) == {f"{job.id}~{n}" for n in range(1, 41)}
        info = await job.get()
        assert info.attempt > 1 and info.failures == 0


async def test_a_failed_child_fails_its_parent_and_ends_its_siblings(
    shared: LocalCluster, tmp_path: Path
) -> None:
    async with client_of(shared) as client:
        given = {"children": 6, "witness": str(tmp_path / "seen"), "ms": 60_000, "broken": [3]}
        job = await client.submit_task(type="family", payload=given)
        with pytest.raises(TaskFailed) as failed:
            await job.wait(timeout=60)
        error = failed.value.task.error
        assert error is not None and error.code == "CHILD_FAILED" and "number 3 is broken" in error.message
        assert failed.value.task.failures == 1, "a later attempt would find the same"

        async def ended() -> bool:
            return {(await child(client, job.id, n)).state for n in (1, 2)} == {"CANCELLED"}

        await until(ended, "the siblings to be cancelled where they run")


async def test_the_timeout_of_a_skill_on_the_nodes_disks_counts_wherever_its_task_comes_from(
    shared: LocalCluster,
) -> None:
    async with client_of(shared) as client:
        alone = await client.submit_task(type="brief", payload={}, max_attempts=1)
        parent = await client.submit_task(type="brief", payload={"child": True}, timeout="90s")
        run = await client.run_workflow("nodes: {a: {skill: brief, input: {}, retry: 1}}")
        for job in (alone, parent, run):
            with pytest.raises((TaskTimedOut, TaskFailed)):
                await job.wait(timeout=60)
        for task_id in (alone.id, f"{parent.id}~late", f"{run.id}~a~0"):
            error = (await client.job(task_id).get()).error
            assert error is not None and error.code == "ATTEMPT_TIMEOUT", task_id


async def test_a_waiting_parent_holds_no_slot_and_takes_its_children_along_when_cancelled(
    shared: LocalCluster, tmp_path: Path
) -> None:
    async with client_of(shared) as client:
        given = {"children": 3, "witness": str(tmp_path / "seen"), "ms": 60_000, "deep": 2}
        job = await client.submit_task(type="family", payload=given)

        async def waits() -> bool:
            grown = [await job.get(), *[await child(client, job.id, n) for n in (1, 2)]]
            return all((info.state, info.wait_reason) == ("WAITING", "CHILD") for info in grown)

        async def asked() -> bool:
            return (await job.get()).state == "WAITING"

        await until(asked, "the parent waits")
        await until(waits, "parents wait for their children")
        await job.cancel("enough")
        grandchild = client.job(f"{job.id}~1~1")

        async def gone() -> bool:
            return (await grandchild.get()).state == "CANCELLED"

        await until(gone, "grandchildren are cancelled")


async def child(client: Cluster, parent: str, number: int) -> TaskInfo:
    async def there() -> TaskInfo | None:
        try:
            return await client.job(f"{parent}~{number}").get()
        except Exception:
            return None

    found = await until(there, f"child {number}")
    assert isinstance(found, TaskInfo)
    await asyncio.sleep(0)
    return found
