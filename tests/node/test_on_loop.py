"""Whoever scrapes a node sees what its loop changes as the loop sees it, and waits for no loop for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.core.state import ClusterState
from coterie.node import on_loop
from coterie.node.clock import Clock
from coterie.node.metrics import NodeMetrics
from coterie.node.on_loop import LoopSilent, OnLoop
from coterie.node.vitals import bind_gauges, ready_beside
from coterie.raft.room import Room


class Part:
    """A part of a node that notes which threads look at it."""

    def __init__(self, looked: list[int], **values: object) -> None:
        self._looked, self._values = looked, values

    def __getattr__(self, name: str) -> object:
        self._looked.append(threading.get_ident())
        return self._values[name]


def node(looked: list[int]) -> Any:
    def gauges() -> dict[str, float]:
        looked.append(threading.get_ident())
        return {"asked_for": 7.0}

    standing: dict[str, object] = {"term": 3, "commit_index": 9, "applied_index": 9, "members": ()}
    standing |= {
        "is_leader": True,
        "has_quorum": True,
        "sync_p99_s": 0.25,
        "room": Room.OK,
        "free_bytes": 1.0,
    }
    return SimpleNamespace(
        metrics=NodeMetrics(),
        clock=Clock(),
        state=ClusterState,
        engine=Part(looked, **standing),
        hub=Part(looked, counts=lambda: (1, 2)),
        worker=Part(looked, running=0),
        settings=SimpleNamespace(capacity=4),
        ledger=Part(looked, backlog=0, gaps=(), rows_lost=0),
        blobs=Part(looked, total_bytes=0),
        outside=SimpleNamespace(gauges=gauges),
        goals=SimpleNamespace(gauges=dict),
        agent_watch=SimpleNamespace(families=list),
        tls=None,
    )


async def test_a_scrape_looks_at_a_node_in_the_thread_of_its_loop() -> None:
    """The engine's window of syncs was cut in the thread of the scrape while the loop went through it, and
    the loop's error stopped the node."""
    looked: list[int] = []
    app = node(looked)
    bind_gauges(app)
    text = (await asyncio.to_thread(app.metrics.render)).decode()
    for line in (
        "raft_fsync_p99_seconds 0.25",
        "watching_calls 2.0",
        "asked_for 7.0",
        'breakers{state="OPEN"}',
    ):
        assert f"\n{line}" in text
    assert await asyncio.to_thread(ready_beside(app)) == (True, "0 entries behind")
    assert set(looked) == {threading.get_ident()}


async def test_what_goes_wrong_on_the_loop_is_raised_in_the_thread_that_asked() -> None:
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(OnLoop(asyncio.get_running_loop()), lambda: 1 // 0)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that does nothing."""
    monkeypatch.setattr(on_loop, "WAIT_S", 0.01)
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_a_loop_that_does_not_answer_is_given_up(silent: asyncio.AbstractEventLoop) -> None:
    called: list[int] = []
    ask = OnLoop(silent)
    with pytest.raises(LoopSilent, match=r"has not answered for 0\.01 s"):
        ask(lambda: called.append(1))
    silent.call_soon(silent.stop)
    silent.run_forever()
    assert called == [], "nobody waits for it any more"
    silent.close()
    with pytest.raises(LoopSilent, match="has ended"):
        ask(lambda: called.append(2))


def test_a_scrape_does_without_the_gauges_of_a_loop_that_does_not_answer(
    silent: asyncio.AbstractEventLoop,
) -> None:
    metrics = NodeMetrics()
    metrics.on_loop = OnLoop(silent)
    metrics.bind(lambda: {"raft_term": 5.0})
    metrics.bind_beside(lambda: {"dead_letters": 6.0})
    text = metrics.render().decode()
    assert "raft_term" not in text
    assert "\ndead_letters 6.0" in text and "\nscrape_errors_total 1.0" in text
