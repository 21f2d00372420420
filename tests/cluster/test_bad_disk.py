"""Syncs that fail or hang on one node of a real cluster."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, new_cluster, until
from tests.cluster.test_failover import leader_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

# Python imports this before anything else; faults are switched on by files named after fault and node.
FAULTS = """
    import errno, os, time

    whole_sync = os.fdatasync

    def fdatasync(fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        switch = lambda fault: any(
            name.startswith(fault) and f"/{name[len(fault) + 1:]}/" in path for name in os.listdir(FOLDER)
        )
        if path.endswith("raft.journal") and switch("fail"):
            raise OSError(errno.EIO, "Input/output error")
        while path.endswith("raft.journal") and switch("hang"):
            time.sleep(0.01)
        whole_sync(fd)

    os.fdatasync = fdatasync
"""


class Faulty:
    """A cluster whose syncs fail or hang on demand."""

    def __init__(self, folder: Path) -> None:
        self.switches = folder / "switches"
        self.switches.mkdir()
        code = folder / "code"
        code.mkdir()
        text = f"FOLDER = {str(self.switches)!r}\n" + textwrap.dedent(FAULTS)
        (code / "sitecustomize.py").write_text(text, encoding="utf-8")
        self.cluster: LocalCluster = new_cluster(env={"PYTHONPATH": str(code)})

    def switch(self, fault: str, node_id: str) -> Path:
        path = self.switches / f"{fault}-{node_id}"
        path.touch()
        return path


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    made = Faulty(tmp_path)
    with made.cluster:
        yield made


async def test_a_failed_sync_ends_the_node_and_says_why(faulty: Faulty) -> None:
    cluster = faulty.cluster
    await cluster.wait_ready(READY_S)
    async with client_of(cluster) as client:
        victim = await leader_of(client)
        acked = [await client.submit_task(type="echo", payload=number) for number in range(5)]
        faulty.switch("fail", victim)
        began = time.monotonic()
        more = [await client.submit_task(type="echo", payload=number) for number in range(5)]

        async def ended() -> bool:
            return not cluster.alive(victim)

        await until(ended, "the node with the broken disk ends")
        print(f"ended within {time.monotonic() - began:.2f} s of the first submission")
        log = cluster.log_path(victim).read_text(encoding="utf-8")
        assert "raft.journal" in log and "Input/output error" in log and "fsync" in log
        for number, job in enumerate(acked + more):
            assert await job.wait(timeout=60) == number % 5


async def test_a_leader_whose_sync_hangs_is_replaced(faulty: Faulty) -> None:
    cluster = faulty.cluster
    await cluster.wait_ready(READY_S)
    others_first = list(cluster.node_ids)
    async with client_of(cluster) as client:
        victim = await leader_of(client)
        await (await client.submit_task(type="echo", payload=0)).wait(timeout=60)
        others_first.remove(victim)
        switch = faulty.switch("hang", victim)
        began = time.monotonic()
        async with client_of(cluster, *others_first) as elsewhere:
            job = await elsewhere.submit_task(type="echo", payload=1)
            print(f"accepted elsewhere {time.monotonic() - began:.2f} s after the sync began to hang")

            async def replaced() -> bool:
                return await leader_of(elsewhere) != victim

            await until(replaced, "another node leads")
            print(f"replaced {time.monotonic() - began:.2f} s after that")
            switch.unlink()
            assert await job.wait(timeout=60) == 1
        assert cluster.alive(victim)
        await cluster.wait_ready(READY_S)
