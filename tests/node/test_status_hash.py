"""The hash of the state in a status: of one moment, and without holding up the node."""

from __future__ import annotations

import asyncio
import threading

import pytest

from coterie.core.canonical import state_hash
from coterie.core.nouns import evolve
from coterie.core.state import ClusterState
from coterie.node import cluster_service

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
