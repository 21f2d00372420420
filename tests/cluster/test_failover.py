"""Nodes die, stop, hang and come back while work goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from coterie.client import Cluster, Job
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def executions(witness: Path, task_id: str) -> list[tuple[int, int, int]]:
    """(step, attempt, pid) of every execution of the task's steps, in order."""
    lines = witness.read_text().splitlines() if witness.exists() else []
    rows = [line.split() for line in lines]
    return [(int(step), int(attempt), int(pid)) for task, step, attempt, pid in rows if task == task_id]


def assert_no_step_ran_again_after_completion(witness: Path, info: Any) -> None:
    """An execution by a later attempt than the one that completed the step would break the promise."""
    completed = {step.name: step.attempt for step in info.steps}
    for step, attempt, _ in executions(witness, info.id):
        assert attempt <= completed[f"step-{step}"], f"step {step} ran again in attempt {attempt}"


async def leader_of(client: Cluster) -> str:
    async def known() -> str:
        status = await client.get_status()
        return str(status.leader) if status.has_quorum else ""

    return str(await until(known, "a leader"))


async def running_on(job: Job) -> str:
    async def node() -> str:
        info = await job.get()
        return str(info.node) if info.state == "RUNNING" else ""

    return str(await until(node, "the task runs"))


async def has_steps(job: Job, count: int) -> None:
    async def enough() -> bool:
        return bool((await job.get()).step_count >= count)

    await until(enough, f"{count} steps are recorded")


def steps_payload(witness: Path, steps: int = 12, step_ms: int = 500, **more: Any) -> dict[str, Any]:
    return {"witness": str(witness), "steps": steps, "step_ms": step_ms, **more}


async def task_on(client: Cluster, node_id: str, witness: Path, **more: Any) -> Job:
    """A task of steps that runs on that node, and could run on any."""
    while True:
        job = await client.submit_task(type="steps", payload=steps_payload(witness, **more))
        if await running_on(job) == node_id:
            return job
        await job.cancel()


async def test_kill_9_of_the_leader_under_load_loses_nothing(fresh: LocalCluster) -> None:
    async with client_of(fresh) as client:
        leader = await leader_of(client)
        acked: list[Job] = []
        stop = asyncio.Event()

        async def submit(worker: int) -> None:
            number = 0
            while not stop.is_set():
                acked.append(await client.submit_task(type="echo", payload=[worker, number]))
                number += 1

        submitters = [asyncio.create_task(submit(n)) for n in range(8)]
        await until(lambda: _longer(acked, 200), "200 tasks are acked")
        fresh.kill_node(leader)
        before = len(acked)
        await until(lambda: _longer(acked, before + 200), "200 more are acked after the kill")
        fresh.start_node(leader)
        await until(lambda: _longer(acked, before + 400), "the restarted node does not disturb")
        stop.set()
        await asyncio.gather(*submitters)
        results = await asyncio.gather(*(job.wait(timeout=60) for job in acked))
        assert len({job.id for job in acked}) == len(acked)
        assert Counter(map(tuple, results)).most_common(1)[0][1] == 1
        await assert_each_has_one_result_everywhere(fresh, acked)


async def _longer(items: list[Job], count: int) -> bool:
    return len(items) >= count


async def assert_each_has_one_result_everywhere(cluster: LocalCluster, jobs: list[Job]) -> None:
    wanted = {job.id for job in jobs}
    for node_id in cluster.node_ids:
        async with client_of(cluster, node_id) as client:

            async def listed(client: Cluster = client) -> bool:
                found = [task async for task in client.list_tasks(page_size=1_000)]
                mine = Counter(task.id for task in found if task.id in wanted)
                assert all(count == 1 for count in mine.values())
                return len(mine) == len(wanted) and all(
                    task.state == "SUCCEEDED" for task in found if task.id in wanted
                )

            await until(listed, f"{node_id} lists every acked task as succeeded", timeout_s=60)


async def test_kill_9_of_a_worker_in_mid_step_resumes_elsewhere(fresh: LocalCluster, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    async with client_of(fresh) as client:
        leader = await leader_of(client)
        victim = next(node_id for node_id in fresh.node_ids if node_id != leader)
        job = await task_on(client, victim, witness)
        await has_steps(job, 3)
        fresh.kill_node(victim)
        result = await job.wait(timeout=60)
        info = await job.get(include_steps=True)
    assert result["squares"] == [n * n for n in range(12)]
    assert (info.attempt, info.losses, info.node != victim) == (2, 1, True)
    assert_no_step_ran_again_after_completion(witness, info)
    repeated = [s for s, n in Counter(s for s, _, _ in executions(witness, job.id)).items() if n > 1]
    assert len(repeated) <= 1, "only the step in the air may run twice"


async def test_kill_9_of_the_leader_resumes_its_own_tasks_from_their_checkpoint(
    fresh: LocalCluster, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    async with client_of(fresh) as client:
        leader = await leader_of(client)
        job = await task_on(client, leader, witness, checkpoint=True)
        await has_steps(job, 4)
        fresh.kill_node(leader)
        result = await job.wait(timeout=60)
        info = await job.get(include_steps=True)
    assert result["first"] >= 3, "the second attempt began at its checkpoint"
    assert_no_step_ran_again_after_completion(witness, info)


async def test_kill_9_of_all_nodes_keeps_everything(fresh: LocalCluster, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    async with client_of(fresh) as client:
        done = [await client.submit_task(type="echo", payload=n) for n in range(100)]
        for job in done:
            await job.wait(timeout=30)
        running = await client.submit_task(type="steps", payload=steps_payload(witness))
        queued = await client.submit_task(type="echo", payload="later", start_delay="3s")
        await has_steps(running, 3)
        for node_id in fresh.node_ids:
            fresh.kill_node(node_id)
        fresh.start()
        await fresh.wait_ready(READY_S)
        assert (await running.wait(timeout=60))["squares"] == [n * n for n in range(12)]
        assert await queued.wait(timeout=60) == "later"
        info = await running.get(include_steps=True)
        assert_no_step_ran_again_after_completion(witness, info)
        assert [await job.wait(timeout=30) for job in done] == list(range(100))
        await assert_each_has_one_result_everywhere(fresh, [*done, running, queued])


async def test_a_stopped_node_loses_its_work_and_wakes_up_as_a_harmless_zombie(
    fresh: LocalCluster, tmp_path: Path
) -> None:
    """SIGSTOP of the node past its lease: its skills are killed although it cannot act; after SIGCONT nothing
    it says about them counts."""
    witness = tmp_path / "witness"
    async with client_of(fresh) as client:
        leader = await leader_of(client)
        victim = next(node_id for node_id in fresh.node_ids if node_id != leader)
        job = await task_on(client, victim, witness, steps=20)
        await has_steps(job, 3)
        fresh.pause_node(victim)

        async def resumed() -> bool:
            info = await job.get()
            return bool(info.attempt == 2 and info.state in ("RUNNING", "SUCCEEDED"))

        await until(resumed, "the task runs elsewhere")
        first_of_second = _first_line_of_attempt(witness, job.id, 2)
        fresh.resume_node(victim)
        result = await job.wait(timeout=60)
        info = await job.get(include_steps=True)
        assert result["attempt"] == 2
        assert_no_step_ran_again_after_completion(witness, info)
        rows = executions(witness, job.id)
        if first_of_second is not None:
            later = [row for row in rows[first_of_second:] if row[1] == 1]
            assert not later, "the first attempt's process lived on after its tasks were given away"

        async def back() -> bool:
            return bool((await client.get_status()).active_nodes == 3)

        await until(back, "the zombie is a member again")


def _first_line_of_attempt(witness: Path, task_id: str, attempt: int) -> int | None:
    rows = executions(witness, task_id)
    return next((at for at, row in enumerate(rows) if row[1] == attempt), None)


async def test_a_watch_survives_the_death_of_the_node_that_serves_it(
    fresh: LocalCluster, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    async with client_of(fresh) as client:
        job = await client.submit_task(type="steps", payload=steps_payload(witness, steps=15))
        sequences, types = [], []
        async for event in job.watch():
            sequences.append(event.sequence)
            types.append(event.type)
            if types.count("step") in (3, 8) and event.type == "step":
                victim = await leader_of(client)
                fresh.kill_node(victim)
                await asyncio.sleep(0)
                fresh.start_node(victim)
        assert sequences == list(range(1, len(sequences) + 1))
        assert types.count("step") == 15
        assert types[-1] == "succeeded"


async def test_a_duplicate_submit_across_a_leader_kill_makes_one_task(fresh: LocalCluster) -> None:
    async with client_of(fresh) as client:
        leader = await leader_of(client)
        first = [
            asyncio.create_task(client.submit_task(type="echo", payload=n, request_id=f"r{n}"))
            for n in range(50)
        ]
        fresh.kill_node(leader)
        jobs = await asyncio.gather(*first)
        again = [await client.submit_task(type="echo", payload=n, request_id=f"r{n}") for n in range(50)]
        assert [job.id for job in again] == [job.id for job in jobs]
        assert [await job.wait(timeout=60) for job in jobs] == list(range(50))


async def test_without_a_majority_nothing_is_acked_and_nothing_is_lost(fresh: LocalCluster) -> None:
    async with client_of(fresh) as client:
        leader = await leader_of(client)
        others = [node_id for node_id in fresh.node_ids if node_id != leader]
        for node_id in others:
            fresh.kill_node(node_id)

        async def no_quorum() -> bool:
            async with client_of(fresh, leader) as alone:
                return not (await alone.get_status(stale=True)).has_quorum

        await until(no_quorum, "the last node knows that it is alone")
        waiting = asyncio.create_task(client.submit_task(type="echo", payload="patience"))
        done, _ = await asyncio.wait([waiting], timeout=2)
        assert not done, "a task was acked by a minority"
        fresh.start_node(others[0])
        job = await waiting
        assert await job.wait(timeout=60) == "patience"


async def test_drain_moves_work_and_leadership_and_undrain_brings_them_back(
    fresh: LocalCluster, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    async with client_of(fresh) as client:
        leader = await leader_of(client)
        job = await task_on(client, leader, witness, steps=40, step_ms=100)
        await has_steps(job, 2)
        await client.drain_node(leader)

        async def drained() -> bool:
            nodes = {node.id: node for node in await client.list_nodes()}
            return nodes[leader].state == "DRAINED" and (await client.get_status()).leader != leader

        await until(drained, "the node is empty and leads no more")
        for _ in range(20):
            echo = await client.submit_task(type="echo", payload=1)
            await echo.wait(timeout=30)
            assert (await echo.get()).node != leader
        await job.wait(timeout=60)
        info = await job.get(include_steps=True)
        assert (info.losses, info.failures) == (0, 0), "a drain is nobody's fault"
        assert_no_step_ran_again_after_completion(witness, info)
        await client.undrain_node(leader)

        async def active() -> bool:
            return bool((await client.get_status()).active_nodes == 3)

        await until(active, "the node takes work again")


async def test_a_node_stopped_politely_gives_its_work_back_at_once(
    fresh: LocalCluster, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    async with client_of(fresh) as client:
        leader = await leader_of(client)
        job = await task_on(client, leader, witness)
        await has_steps(job, 2)
        assert fresh.terminate_node(leader) == 0
        await job.wait(timeout=60)
        info = await job.get(include_steps=True)
        assert info.losses == 0
        assert_no_step_ran_again_after_completion(witness, info)
