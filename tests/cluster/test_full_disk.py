"""All disks of a cluster run full under work: nothing is lost, nobody dies, and it goes on by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.client import ResourceExhausted
from coterie.node.localcluster import LocalCluster
from coterie.raft.disk import RealFile
from tests.cluster.conftest import READY_S, client_of, new_cluster, until
from tests.cluster.test_failover import has_steps, leader_of, steps_payload

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
DISK = "size=128m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the data of all nodes."""
    folder = tmp_path / "base" / "data"
    with mounted(folder):
        yield folder


@pytest.fixture
def small_disks(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the data of each node."""
    folder = tmp_path / "base" / "data"
    with mounted(folder / "node-1"), mounted(folder / "node-2"), mounted(folder / "node-3"):
        yield folder


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            if file.write(bytes(1 << 16)) < 1 << 16:
                break
    return path


def test_room_that_was_reserved_outlives_the_process_where_there_is_no_more(small_disk: Path) -> None:
    """The next process asks for as much as the one before, beginning at what that has written."""
    former = RealFile(str(small_disk / "log"), os.O_RDWR | os.O_CREAT)
    former.append(bytes(5_000))
    assert former.reserve(1 << 20) == 1 << 20
    former.append(bytes(300_000))
    former.close()
    fill(small_disk)
    present = RealFile(str(small_disk / "log"), os.O_RDWR)
    assert present.reserve(1 << 20) == 1 << 19
    with (small_disk / "another").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        file.write(bytes(1 << 20))  # what had been given up would be taken
    present.append(bytes(1 << 19))
    present.close()


async def test_full_disks_stop_new_work_only_and_only_while_they_are_full(
    small_disk: Path, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    with new_cluster(base_dir=small_disk.parent) as cluster:
        await cluster.wait_ready(READY_S)
        pids = {node_id: cluster.pid(node_id) for node_id in cluster.node_ids}
        async with client_of(cluster) as client:
            running = await client.submit_task(
                type="steps", payload=steps_payload(witness, steps=40, step_ms=100)
            )
            await has_steps(running, 2)
            ballast = fill(small_disk)

            async def refused() -> bool:
                try:
                    await client.submit_task(type="echo", payload="x")
                except ResourceExhausted as error:
                    assert error.reason == "DISK_FULL"
                    assert error.retry_after
                    return True
                return False

            await until(refused, "new work is refused")
            await running.wait(timeout=60)
            assert (await running.get()).state == "SUCCEEDED"
            assert (await running.get()).step_count == 40
            ballast.unlink()
            began = time.monotonic()

            async def accepted() -> bool:
                return not await refused()

            await until(accepted, "new work is taken again", timeout_s=20)
            print(f"taken again after {time.monotonic() - began:.1f} s")
            job = await client.submit_task(type="echo", payload="y")
            assert await job.wait(timeout=30) is not None
        assert {node_id: cluster.pid(node_id) for node_id in cluster.node_ids} == pids
        _restart_on_a_full_disk(cluster, small_disk)
        await cluster.wait_ready(READY_S)


async def test_a_leader_with_a_full_disk_gives_way_and_comes_back(small_disks: Path) -> None:
    with new_cluster(base_dir=small_disks.parent) as cluster:
        await cluster.wait_ready(READY_S)
        pids = {node_id: cluster.pid(node_id) for node_id in cluster.node_ids}
        async with client_of(cluster) as client:
            full = await leader_of(client)
            ballast = fill(small_disks / full)

            async def moved() -> bool:
                return await leader_of(client) != full

            await until(moved, "the leadership moves to a node with room")
            jobs = [await client.submit_task(type="echo", payload=number) for number in range(50)]
            for number, job in enumerate(jobs):
                assert await job.wait(timeout=60) == number
            async with client_of(cluster, full) as direct:
                assert (await direct.job(jobs[-1].id).get()).state == "SUCCEEDED"  # reads go on there
            ballast.unlink()
            for stopped in [node_id for node_id in cluster.node_ids if node_id != full][:1]:
                cluster.kill_node(stopped)  # so that nothing is committed without the disk that was full
            job = await client.submit_task(type="echo", payload="after")
            assert await job.wait(timeout=60) == "after"
        assert cluster.pid(full) == pids[full]


def _restart_on_a_full_disk(cluster: LocalCluster, folder: Path) -> None:
    fill(folder)
    for node_id in cluster.node_ids:
        cluster.kill_node(node_id)
    for node_id in cluster.node_ids:
        cluster.start_node(node_id)
