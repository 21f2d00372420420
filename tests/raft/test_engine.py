"""The engine on a real event loop: three nodes in one process, real files, real fsync."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from coterie.core.ports import Engine, NoQuorum, NotCommitted
from coterie.raft.engine import RaftEngine
from coterie.raft.errors import (
    TransferFailed,
)
from coterie.raft.snapshot import NAME as SNAPSHOT
from tests.raft.inprocess import Cluster, ListMachine, running

TIMEOUT_S = 20.0


def test_it_is_an_engine(tmp_path: Path) -> None:
    engine: Engine = RaftEngine(
        Cluster(tmp_path, 1).options("n1"), ListMachine(), on_fatal=lambda error: None
    )
    assert (engine.leader, engine.is_leader, engine.has_quorum) == ("", False, False)
    assert engine.quorum_contact_at() == float("-inf")


async def test_every_node_takes_proposals_and_reads(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        results = await asyncio.gather(
            *(
                cluster.engines[node].propose(f"{node} {number}".encode(), TIMEOUT_S)
                for node in cluster.ids
                for number in range(50)
            )
        )
        assert sorted(committed.index for committed in results) == sorted({c.index for c in results})
        await cluster.same_state()
        top = max(committed.index for committed in results)
        for node in cluster.ids:
            assert await cluster.engines[node].read_barrier(TIMEOUT_S) >= top
            assert cluster.machines[node].indexes == sorted(cluster.machines[node].indexes)


async def test_a_single_node(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as cluster:
        committed = await cluster.engines["n1"].propose(b"x", TIMEOUT_S)
        assert committed.result == 1
        assert await cluster.engines["n1"].read_barrier(TIMEOUT_S) == committed.index
        await cluster.stop()
        await cluster.start()
        assert (await cluster.engines["n1"].propose(b"y", TIMEOUT_S)).result == 2


async def test_work_goes_on_when_the_leader_is_lost_and_it_catches_up(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        acked: list[bytes] = []

        async def work(node: str, number: int) -> None:
            body = f"{node} {number}".encode()
            while True:
                try:
                    await cluster.engines[node].propose(body, 1.0)
                except NotCommitted:
                    continue
                acked.append(body)
                return

        leader = await cluster.leader()
        others = [node for node in cluster.ids if node != leader]
        jobs = [asyncio.create_task(work(node, number)) for node in others for number in range(100)]
        await cluster.until(lambda: len(acked) > 20, "some work")
        await cluster.stop(leader)
        await asyncio.gather(*jobs)
        await cluster.start(leader)
        await cluster.same_state()
        for machine in cluster.machines.values():
            assert sorted(set(machine.entries)) == sorted(set(acked))
        assert len(acked) == 200


async def test_everything_is_there_after_all_were_stopped(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        for number in range(30):
            await cluster.engines["n2"].propose(b"%d" % number, TIMEOUT_S)
        await cluster.stop()
        await cluster.start()
        await cluster.engines["n1"].propose(b"last", TIMEOUT_S)
        await cluster.same_state()
        assert cluster.machines["n3"].entries == [b"%d" % number for number in range(30)] + [b"last"]


async def test_snapshots_cut_the_logs_after_the_hook_and_bring_back_a_late_node(tmp_path: Path) -> None:
    settings = {"snapshot_every_entries": 50, "snapshot_keep_entries": 5, "snapshot_chunk_bytes": 500}
    async with running(tmp_path, **settings) as cluster:
        late = (await cluster.followers())[0]
        await cluster.stop(late)
        node = next(iter(cluster.engines))
        for number in range(300):
            await cluster.engines[node].propose(b"%d" % number + bytes(100), TIMEOUT_S)
        await cluster.until(lambda: {name for name, _ in cluster.hooked} >= set(cluster.engines), "snapshots")
        await cluster.until(lambda: (tmp_path / node / SNAPSHOT).exists(), "a snapshot file")
        await cluster.start(late)
        await cluster.same_state()
        assert cluster.machines[late].restored_at
        assert len(cluster.machines[late].entries) == 300
        await cluster.stop()
        await cluster.start()
        await cluster.engines[late].read_barrier(TIMEOUT_S)
        assert len(cluster.machines[late].entries) == 300


async def test_a_hook_that_fails_is_tried_again_and_delays_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.raft.engine.HOOK_RETRY_S", 0.01)
    calls: list[int] = []

    async def hook(index: int) -> None:
        calls.append(index)
        assert not (tmp_path / "n1" / SNAPSHOT).exists()
        if len(calls) < 3:
            raise RuntimeError("the ledger is busy")

    cluster = Cluster(tmp_path, 1)
    engine = RaftEngine(
        cluster.options("n1"), ListMachine(), on_fatal=lambda error: None, before_compaction=hook
    )
    await engine.start()
    try:
        await engine.propose(b"x", TIMEOUT_S)
        engine.request_snapshot()
        cluster.engines["n1"] = engine
        await cluster.until(lambda: (tmp_path / "n1" / SNAPSHOT).exists(), "a snapshot")
        assert len(calls) == 3
    finally:
        await engine.stop()


async def test_leadership_moves_on_request_from_any_node(tmp_path: Path) -> None:
    async with running(tmp_path, election_timeout_ms=2_000) as cluster:
        leader = await cluster.leader()
        target = next(node for node in cluster.ids if node != leader)
        third = next(node for node in cluster.ids if node not in (leader, target))
        assert await cluster.engines[third].transfer_leadership(target, TIMEOUT_S) == target
        assert await cluster.leader() == target
        assert await cluster.engines[target].transfer_leadership("", TIMEOUT_S) != target
        with pytest.raises(TransferFailed, match="no voter"):
            await cluster.engines[leader].transfer_leadership("n9", TIMEOUT_S)


async def test_an_isolated_leader_answers_no_read_and_gives_up_leading(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        engine = cluster.engines[leader]
        assert engine.quorum_contact_at() > float("-inf")
        cluster.isolate(leader)
        with pytest.raises(NoQuorum):
            await engine.read_barrier(0.5)
        await cluster.until(lambda: not engine.is_leader, "the leader to step down")
        assert not engine.has_quorum
        with pytest.raises(NotCommitted):
            await engine.propose(b"x", 0.2)
        cluster.heal()
        await cluster.leader()


async def test_a_node_that_cannot_be_heard_raises_no_terms(tmp_path: Path) -> None:
    async with running(tmp_path, election_timeout_ms=600) as cluster:
        leader = await cluster.leader()
        deaf = next(node for node in cluster.ids if node != leader)
        hearing = [node for node in cluster.ids if node != deaf]
        term = cluster.engines[deaf].term
        for other in hearing:
            cluster.cut_one_way(other, deaf)
        await cluster.until(lambda: not cluster.engines[deaf].has_quorum, "the deaf node to miss its leader")
        for number in range(200):
            with suppress(NotCommitted):  # those that hear each other may choose anew, on a busy machine
                leader = await cluster.leader(*hearing)
                await cluster.engines[leader].propose(b"%d" % number, TIMEOUT_S)
            await asyncio.sleep(0.01)  # time for several elections, were there any
        assert cluster.engines[deaf].term == term


async def test_the_bell_rings_and_a_broken_listener_harms_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        rung: list[int] = []

        def listener() -> None:
            rung.append(cluster.engines[leader].applied_index)
            raise RuntimeError("not my day")

        cluster.engines[leader].on_change = listener
        committed = await cluster.engines[leader].propose(b"x", TIMEOUT_S)
        before = list(rung)
        await asyncio.sleep(0)
        assert committed.index not in before  # whoever waits for it comes first
        assert committed.index in rung


async def test_who_cancels_does_not_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        cluster.isolate(leader)
        task = asyncio.create_task(cluster.engines[leader].propose(b"x", TIMEOUT_S))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cluster.heal()


async def test_stopping_answers_everybody(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        cluster.isolate(leader)
        engine = cluster.engines[leader]
        waiting = [
            asyncio.create_task(engine.propose(b"x", TIMEOUT_S)),
            asyncio.create_task(engine.read_barrier(TIMEOUT_S)),
            asyncio.create_task(engine.transfer_leadership("", TIMEOUT_S)),
        ]
        await asyncio.sleep(0)
        await cluster.stop(leader)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, NotCommitted) for answer in answers), answers
        with pytest.raises(NoQuorum):
            await engine.propose(b"x", TIMEOUT_S)


async def test_large_entries_pass(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        body = bytes(4 << 20)
        for node in cluster.ids:
            await cluster.engines[node].propose(body, TIMEOUT_S)
        await cluster.same_state()
        assert [len(entry) for entry in cluster.machines["n1"].entries] == [4 << 20] * 3


async def test_large_states_are_written_without_an_election(tmp_path: Path) -> None:
    async with running(tmp_path, election_timeout_ms=1_000) as cluster:
        leader = await cluster.leader()
        for number in range(20):
            await cluster.engines[leader].propose(bytes([number]) * (1 << 20), TIMEOUT_S)
        term = cluster.engines[leader].term
        for engine in cluster.engines.values():
            engine.request_snapshot()
        await cluster.until(lambda: len(cluster.hooked) == 3, "three snapshots")
        await cluster.engines[leader].propose(b"x", TIMEOUT_S)
        assert cluster.engines[leader].term == term
