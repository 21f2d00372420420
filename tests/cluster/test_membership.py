"""Nodes come, go, move and start over, as operators do it, on real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coterie.client import NotFound
from coterie.node.localcluster import LocalCluster
from coterie.raft.journal import NAME as JOURNAL
from tests.cluster.conftest import READY_S, client_of, until
from tests.cluster.growing import GrowingCluster
from tests.cluster.test_failover import assert_no_step_ran_again_after_completion, steps_payload

pytestmark = pytest.mark.cluster

EXIT_REFUSED = 4


@pytest.fixture
async def growing() -> AsyncIterator[GrowingCluster]:
    with GrowingCluster() as cluster:
        await cluster.wait_ready(READY_S)
        yield cluster


async def works(cluster: GrowingCluster, node_id: str) -> None:
    """A task that is meant for that node runs there."""
    async with cluster.client() as client:
        job = await client.submit_task(node_id, type="echo", payload=node_id)
        assert await job.wait(timeout=60) == node_id
        assert (await job.get()).node == node_id


async def test_a_node_is_added_works_and_is_removed(growing: GrowingCluster, tmp_path: Path) -> None:
    """The leader leaves in the end: it hands its work and its place over, and its process says so."""
    async with growing.client("node-1", "node-2", "node-3") as client:
        await growing.add("node-4")
        await growing.until_role(client, "node-4", "VOTER")
        await works(growing, "node-4")
        listed = await growing.cli("node", "list")
        assert listed["voters"] == 4
        assert "4 voters survive the loss of 1, as 3 would" in listed["warnings"][0]

        leader = (await client.get_status()).leader
        payload = steps_payload(tmp_path / "witness", steps=15, step_ms=100)
        jobs = [await client.submit_task(type="steps", payload=payload) for _ in range(12)]
        removed = await growing.cli("node", "remove", leader, "--deadline", "20s")
        assert removed == {"ok": True, "removed": leader}
        code, said = await growing.ended(leader)
        assert code == EXIT_REFUSED and "removed" in said, said
        growing.start_node(leader)
        code, said = await growing.ended(leader)
        assert code == EXIT_REFUSED and "removed" in said, said
        growing.forget(leader)
    async with growing.client() as client:
        await growing.wait_ready(READY_S)
        nodes = {node.id: node for node in await client.list_nodes()}
        assert sorted(nodes) == sorted(growing.node_ids)
        assert leader not in (await client.get_status()).leader
        for job in jobs:
            await client.job(job.id).wait(timeout=60)
            info = await client.job(job.id).get(include_steps=True)
            assert_no_step_ran_again_after_completion(tmp_path / "witness", info)
        with pytest.raises(NotFound):
            await client.remove_node(leader)


async def test_large_payloads_outlive_the_nodes_that_held_them(growing: GrowingCluster) -> None:
    """All three that took the blob leave, one after the other."""
    content = "x" * 1_000_000
    async with growing.client() as client:
        job = await client.submit_task(type="echo", payload=content)
        assert await job.wait(timeout=60) == content
        for number in (4, 5, 6):
            old, new = f"node-{number - 3}", f"node-{number}"
            await growing.add(new)
            await growing.until_role(client, new, "VOTER")
            await growing.cli("node", "remove", old)
            await growing.ended(old)
            growing.forget(old)
    async with growing.client() as client:
        assert await client.job(job.id).wait(timeout=60) == content


async def test_a_wiped_disk_is_refused_and_comes_back_by_resync(growing: GrowingCluster) -> None:
    victim = "node-1"  # whom the others dial
    growing.kill_node(victim)
    growing.wipe(victim)
    growing.start_node(victim)
    code, said = await growing.ended(victim)
    assert code == EXIT_REFUSED
    assert "wiped or replaced" in said and f"coterie node resync --config FILE --id {victim}" in said, said
    await growing.resync(victim)
    async with growing.client("node-2", "node-3") as client:
        await growing.until_role(client, victim, "VOTER")
    await works(growing, victim)


async def test_a_damaged_journal_names_the_remedy_which_works(growing: GrowingCluster) -> None:
    victim = "node-3"  # who dials the others
    async with growing.client() as client:
        await asyncio.gather(*(client.submit_task(type="echo", payload="x" * 1_000) for _ in range(50)))
    growing.kill_node(victim)
    journal = growing.data(victim) / "raft" / JOURNAL
    raw = bytearray(journal.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    journal.write_bytes(raw)
    growing.start_node(victim)
    code, said = await growing.ended(victim)
    assert code == 2 and "damaged" in said and "coterie node resync" in said, said
    found = await growing.resync(victim)
    assert victim in found["old_data"]
    async with growing.client("node-1", "node-2") as client:
        await growing.until_role(client, victim, "VOTER")
    await growing.wait_ready(READY_S)


async def test_a_node_that_moves_says_so_itself(growing: GrowingCluster) -> None:
    growing.terminate_node("node-1")
    before = growing.addresses["node-1"]
    address = growing.move("node-1")
    assert address != before
    growing.start_node("node-1")
    await growing.wait_ready(READY_S)

    async def moved() -> bool:
        listed = await growing.cli("node", "list")
        return any((node["id"], node["address"]) == ("node-1", address) for node in listed["nodes"])

    await until(moved, "the others know the new address")
    await works(growing, "node-1")


async def test_a_node_that_was_away_while_all_others_moved_is_found(growing: GrowingCluster) -> None:
    """Its log and its file say where they were, and it is the one that dials."""
    growing.kill_node("node-3")
    old_file = growing.config_path.read_text()
    for node_id in ("node-1", "node-2"):
        growing.terminate_node(node_id)
        growing.move(node_id)
        growing.start_node(node_id)
        await growing.wait_ready(READY_S)
    new_file = growing.config_path.read_text()
    growing.config_path.write_text(old_file)
    growing.start_node("node-3")
    await asyncio.sleep(3)
    growing.config_path.write_text(new_file)
    await growing.wait_ready(READY_S)
    await works(growing, "node-3")


async def test_more_nodes_than_voters_run_work_and_take_the_place_of_a_lost_one() -> None:
    membership = {"maxVoters": 3, "replaceVoterAfter": "1s"}
    with GrowingCluster({"cluster": {"membership": membership}}) as growing:
        await growing.wait_ready(READY_S)
        async with growing.client("node-1", "node-2", "node-3") as client:
            address = growing.prepare("node-4")
            growing.start_node("node-4")  # it waits
            await asyncio.sleep(1.0)
            assert growing.alive("node-4") and len(await client.list_nodes()) == 3
            await growing.cli("node", "add", "node-4", "--address", address)
            await growing.until_role(client, "node-4", "RUNNER")
            await works(growing, "node-4")
            leader = (await client.get_status()).leader
            victim = next(node_id for node_id in ("node-1", "node-2", "node-3") if node_id != leader)
            growing.kill_node(victim)
            await growing.until_role(client, "node-4", "VOTER")
            await growing.until_role(client, victim, "RUNNER", "DOWN")
            growing.start_node(victim)
            await growing.until_role(client, victim, "RUNNER")


async def test_what_cannot_be_is_refused_with_a_reason(shared: LocalCluster) -> None:
    """Nothing of this changes the members."""
    async with client_of(shared) as client:
        before = {node.id: (node.role, node.address) for node in await client.list_nodes()}
        for call, word in (
            (client.add_node("node-1", "127.0.0.1:1"), "node move"),
            (client.add_node("no_id", "127.0.0.1:1"), "not a node id"),
            (client.add_node("node-9", "0.0.0.0:1"), "cannot be dialled"),
            (client.add_node("node-9", "127.0.0.1"), "cannot be dialled"),
            (client.remove_node("node-9"), "node-9"),
            (client.promote_node("node-9"), "node-9"),
            (client.move_node("node-9", "127.0.0.1:1"), "node-9"),
        ):
            with pytest.raises(Exception, match=word):
                await call
        await client.add_node("node-1", shared.addresses["node-1"])
        await client.promote_node("node-1")
        assert {node.id: (node.role, node.address) for node in await client.list_nodes()} == before
