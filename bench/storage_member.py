"""One member of the storage bench: the engine with the real state behind it, and a watch on its event loop.

As bench.raft_member, and besides: {"ask": "fill", "bytes", "payload_bytes"}, {"ask": "snapshot"},
{"ask": "pause"} (the longest since the last time), {"ask": "stand"}, {"ask": "hash"}"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from typing import Any

import uvloop

from bench.raft_member import EngineMember, fatal
from coterie.core.canonical import state_hash
from coterie.core.commands import CancelTask, ConfigureCluster, SubmitTask
from coterie.core.nouns import Data, Policy, RetryPolicy, TaskId
from coterie.node.start import calm_the_collector
from coterie.raft import codec
from coterie.raft.engine import RaftEngine
from coterie.raft.replica import Replica

TICK_S = 0.001
TASKS_PER_ENTRY = 100
PROPOSE_S = 60.0
LOOK_S = 0.005


class LoopWatch:
    """How long the event loop did not turn: by the clock, and in processor time of its own thread."""

    def __init__(self) -> None:
        self.wall_s = self.own_s = 0.0

    async def run(self) -> None:
        while True:
            wall, own = time.monotonic(), time.thread_time()
            await asyncio.sleep(TICK_S)
            self.wall_s = max(self.wall_s, time.monotonic() - wall - TICK_S)
            self.own_s = max(self.own_s, time.thread_time() - own)

    def take(self) -> dict[str, float]:
        taken = {"wall_ms": 1000 * self.wall_s, "own_ms": 1000 * self.own_s}
        self.wall_s = self.own_s = 0.0
        return taken


class StorageMember(EngineMember):
    """The engine member with a Replica as its machine."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__(plan)
        self._replica = Replica(lambda index, events: None, lambda index: None)
        self._engine = RaftEngine(self._engine.options, self._replica, on_fatal=fatal)
        self._watch = LoopWatch()

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch.run(), name="watch")
            await super().serve()
            watching.cancel()

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        match question["ask"]:
            case "fill":
                return await self._fill(question["bytes"], question["payload_bytes"])
            case "snapshot":
                return await self._snapshot()
            case "pause":
                return self._watch.take()
            case "load":
                return await self._commits(question["outstanding"], question["seconds"])
            case "hash":
                return {"hash": state_hash(self._replica.state), "tasks": len(self._replica.state.tasks)}
            case "stand":
                return self._stand()
        raise ValueError(f"ask is {question['ask']!r}")

    def _stand(self) -> dict[str, Any]:
        engine = self._engine
        return {
            "leader": engine.leader,
            "has_quorum": engine.has_quorum,
            "applied": engine.applied_index,
            "commit": engine.commit_index,
            "snapshot_bytes": self._store().size_bytes,
            "log_bytes": (engine.options.data_dir / "raft.journal").stat().st_size,
        }

    def _store(self) -> Any:
        member: Any = self._engine._member
        return member._store

    async def _fill(self, size: int, payload_bytes: int) -> dict[str, Any]:
        """A state of so many bytes of payloads."""
        dice = random.Random(1)
        policy = Policy(pending_tasks_max=10**7, live_bytes_max=10**10)
        await self._engine.propose(codec.encode_batch([ConfigureCluster("c", "c", policy)]), PROPOSE_S)
        for first in range(0, size // payload_bytes, TASKS_PER_ENTRY):
            batch = [
                SubmitTask(
                    TaskId(f"{number:032x}"),
                    "default",
                    "echo",
                    Data(dice.randbytes(payload_bytes)),
                    2,
                    RetryPolicy(),
                    request_id=f"{number:032x}",
                    digest=bytes(16),
                )
                for number in range(first, first + TASKS_PER_ENTRY)
            ]
            await self._engine.propose(codec.encode_batch(batch), PROPOSE_S)
        return self._stand()

    async def _snapshot(self) -> dict[str, Any]:
        """Make one now; until the log is cut behind it."""
        wanted, began = self._engine.applied_index, time.monotonic()
        self._engine.request_snapshot()
        member: Any = self._engine._member
        while self._store().index < wanted or member._is_cutting or member._blocked:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        return self._stand() | {"seconds": time.monotonic() - began}

    async def _commits(self, outstanding: int, seconds: float) -> dict[str, Any]:
        """Small entries for so long."""
        until, took_s = time.monotonic() + seconds, []
        entry = codec.encode_batch([CancelTask(TaskId("none"), "")])

        async def caller() -> None:
            while (sent := time.monotonic()) < until:
                await self._engine.propose(entry, PROPOSE_S)
                took_s.append(time.monotonic() - sent)

        async with asyncio.TaskGroup() as group:
            for number in range(outstanding):
                group.create_task(caller(), name=f"caller-{number}")
        return {"commits": len(took_s), "seconds": seconds, "worst_ms": 1000 * max(took_s)}


if __name__ == "__main__":
    gc.collect()
    calm_the_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(StorageMember(json.loads(sys.stdin.readline())).serve())
