"""What happens is what drives the engine: timers are for elections and heartbeats only."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.raft.inprocess import running

PATIENCE_S = 30.0


async def test_a_commit_waits_for_no_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, 1) as cluster:
        engine = cluster.engines[await cluster.leader()]
        await engine.propose(b"first", 10)
        loop = asyncio.get_running_loop()
        held: list[tuple[Any, ...]] = []
        call_at = loop.call_at

        def hold(when: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            """No timer made from now on fires before the proposals are through."""
            held.append((when, callback))
            return call_at(when + 3_600, callback, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_at", hold)
            patch.setattr(loop, "call_later", lambda delay, *args: hold(loop.time() + delay, *args))
            for number in range(20):
                task = asyncio.ensure_future(engine.propose(b"%d" % number, 10))
                end = time.monotonic() + PATIENCE_S  # of the disk; the timers are an hour away
                while not task.done() and time.monotonic() < end:
                    await asyncio.sleep(0)
                    _let_the_disk_work()
                assert task.done(), f"proposal {number} waits for one of {len(held)} timers"
        assert cluster.machines[engine.options.node_id].entries[-1] == b"19"


def _let_the_disk_work() -> None:
    """The disk thread gets the processor."""
    time.sleep(0.0001)
