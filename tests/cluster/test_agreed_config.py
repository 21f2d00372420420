"""`coterie config` on real nodes: what is agreed on holds at once on all, and outlives their deaths."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.client import Aborted, InvalidRequest, QueueFull
from tests.cluster.conftest import READY_S
from tests.cluster.growing import GrowingCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PENDING = "distribution.taskQueue.maxPending"


async def test_the_configuration_is_changed_while_nodes_run_and_die(tmp_path: Path) -> None:
    with GrowingCluster({"security": {"auth": "required"}}) as cluster:
        await cluster.wait_ready(READY_S)
        file = tmp_path / "less.yaml"
        file.write_text("cluster: {name: other}\ndistribution: {taskQueue: {maxPending: 2}}", "utf-8")
        told = await cluster.cli("config", "diff", str(file))
        assert told["changes"][PENDING] == {"before": 10_000, "after": 2}
        assert (told["applied"], told["revision"], told["of_each_node"]) == (False, 1, ["cluster.name"])
        done = await cluster.cli("config", "apply", str(file), "--note", "less")
        assert (done["applied"], done["revision"]) == (True, 2)
        await refused_to_fill(cluster)
        async with cluster.client() as client:
            leader = (await client.get_status()).leader
            cluster.kill_node(leader)
            assert (await client.config.get()).full[PENDING] == 2
            cluster.start_node(leader)  # its file says nothing of it
            with pytest.raises(InvalidRequest, match=r"did you mean hash\?"):
                await client.config.apply({"distribution": {"strategy": "hsah"}})
            with pytest.raises(Aborted, match="revision 2"):
                await client.config.apply({"distribution": {"strategy": "hash"}}, expected_revision=1)
            back = await client.config.roll_back(1, note="enough")
            assert back.changes == {PENDING: (2, 10_000)}
            newest, before, first = await client.config.history()
            said = [(one.revision, one.by, one.note) for one in (newest, before)]
            assert said == [(3, "user:admin", "enough"), (2, "user:admin", "less")]
            assert first.by.startswith("node:")
            noted = [one async for one in client.audit.entries() if one.method.startswith("Config/")]
            assert [(one.method, one.principal, one.code) for one in noted] == [
                ("Config/ApplyConfig", "user:admin", "OK"),
                ("Config/RollBackConfig", "user:admin", "OK"),
            ]


async def refused_to_fill(cluster: GrowingCluster) -> None:
    """On each node, as soon as it has been changed on one."""
    async with cluster.client() as client:
        kept = [await client.submit_task(type="echo", start_delay="1h") for _ in range(2)]
        for node_id in cluster.node_ids:
            async with cluster.client(node_id) as one:
                with pytest.raises(QueueFull):
                    await one.submit_task(type="echo")
        for job in kept:
            await job.cancel()
