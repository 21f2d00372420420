"""What ended long ago and what nothing refers to goes from the disks of real nodes; what is in use stays."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.client import NotFound
from coterie.core.nouns import Policy
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, new_cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

LARGE = "x" * 300_000


def blobs(cluster: LocalCluster) -> Iterator[Path]:
    """The files of stored blobs, of all nodes."""
    return cluster.base_dir.glob("data/*/blobs/[0-9a-f][0-9a-f]/*")


def two_days_pass(cluster: LocalCluster) -> None:
    """For the blobs."""
    long_ago = time.time() - 2 * 86_400
    for path in blobs(cluster):
        os.utime(path, (long_ago, long_ago))


async def test_blobs_and_history_go_when_their_time_is_over(tmp_path: Path) -> None:
    with new_cluster(options={"storage": {"historyRetention": "1s"}}) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            witness = str(tmp_path / "witness")
            waiting = await client.submit_task(
                type="wait", payload={"witness": witness, "signals": ["go"], "pad": LARGE + "waiting"}
            )
            done = await client.submit_task(type="echo", payload=LARGE + "done")
            assert await done.wait(timeout=60) == LARGE + "done"
            names = {path.name for path in blobs(cluster)}
            # The state itself keeps the newest ones, for answers without a look at the disk.
            newer = await client.submit_tasks([{"type": "echo"}] * (Policy().finished_tasks_kept_max + 1))

            async def history_is_gone() -> bool:
                try:
                    await done.get()
                except NotFound:
                    return True
                return False

            async def one_blob_is_left() -> bool:
                two_days_pass(cluster)  # a read may have fetched one again
                return len({path.name for path in blobs(cluster)}) == 1

            await newer[-1].wait(timeout=100)
            await until(history_is_gone, "the history of the finished task to go", 100, pause_s=0.5)
            await until(one_blob_is_left, "the blob nobody needs to go", pause_s=0.5)
            assert len(names) > 1
            await waiting.signal("go")
            assert (await waiting.wait(timeout=60))["told"] == [None]
