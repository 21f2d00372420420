"""The hash of the state in a status: of one moment, and without holding up the node."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.nouns import evolve
from coterie.core.state import ClusterState
from coterie.node import cluster_service
from coterie.node.clock import Clock
from coterie.node.loads import LoadBook
from coterie.v1 import cluster_pb2

PATIENCE_S = 20.0


async def test_the_loop_goes_on_and_changes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    state, changed = ClusterState(), threading.Event()
    before = state_hash(state)

    def slowly(image: ClusterState) -> str:
        assert changed.wait(PATIENCE_S), "the loop stood still"
        return state_hash(image)

    monkeypatch.setattr(cluster_service, "state_hash", slowly)
    hashing = asyncio.create_task(cluster_service.hash_of(state), name="hash")
    await asyncio.sleep(0)
    state.meta = evolve(state.meta, finished_total=7)
    changed.set()
    assert await hashing == before != state_hash(state)


async def test_one_hash_is_made_at_a_time_each_of_the_state_it_is_told_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever may look at the status could stop a node with some dozens of calls, else."""
    state, clock, making, most = ClusterState(), Clock(), threading.Semaphore(1), list[bool]()

    def counted(image: ClusterState) -> str:
        most.append(making.acquire(blocking=False))
        threading.Event().wait(0.002)
        making.release()
        return str(image.meta.finished_total)

    async def changing() -> None:
        while True:
            state.meta = evolve(state.meta, finished_total=state.meta.finished_total + 1)
            await asyncio.sleep(0)

    engine = SimpleNamespace(leader="n1", is_leader=True, has_quorum=True, members=())
    engine.term = engine.commit_index = engine.applied_index = 1
    parts: Any = SimpleNamespace(me="n1", state=lambda: state, engine=engine, clock=clock)
    parts.proposer, parts.policy, parts.book, parts.suspect_ms = None, None, LoadBook(clock, 1_000), 500
    monkeypatch.setattr(cluster_service, "state_hash", counted)
    service: Any = cluster_service.ClusterService(parts)
    request = cluster_pb2.GetStatusRequest(include_state_hash=True)
    beside = asyncio.create_task(changing())
    told = await asyncio.gather(*(service.GetStatus(request, None) for _ in range(6)))
    beside.cancel()
    assert most == [True] * 6
    assert [one.state_hash for one in told] == [str(one.tasks_finished_total) for one in told]
