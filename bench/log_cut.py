"""How long an fsync of the log waits while the log is cut behind a snapshot, and how long the loop stands.

One member alone, the real engine on a real disk. The whole log stays behind the snapshot, so that the cut has
to copy it, while 16 callers commit small entries. `python -m bench.log_cut 100 300` (megabytes of log)."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.storage_member import LoopWatch
from coterie.node.start import calm_the_collector
from coterie.raft.engine import RaftEngine
from coterie.raft.errors import FatalRaftError
from coterie.raft.jobs import Job
from coterie.raft.options import RaftOptions
from coterie.raft.storing import WRITE_LOG

ENTRY_BYTES = 1_000
CALLERS = 16
ALL = 1 << 40
PROPOSE_S, AFTER_S, LOOK_S = 120.0, 1.0, 0.005


class Counter:
    """A state without size."""

    def apply(self, index: int, at_ms: int, entry: bytes) -> int:
        return index

    def freeze(self) -> Iterator[bytes]:
        return iter([b"state"])

    def restore(self, chunks: Iterable[bytes], index: int) -> None:
        list(chunks)


class Waits:
    """How long writes of the log waited for the disk thread: from when they were given to it until begun."""

    def __init__(self, engine: RaftEngine) -> None:
        self.worst_s, self.jobs = 0.0, dict[str, float]()
        self._submit: Callable[[Job], None] = engine._submit
        engine._submit = self._watched  # type: ignore[method-assign]

    def _watched(self, job: Job) -> None:
        given = time.monotonic()

        def work() -> object:
            began = time.monotonic()
            if job.name == WRITE_LOG:
                self.worst_s = max(self.worst_s, began - given)
            answer = job.work()
            self.jobs[job.name] = max(self.jobs.get(job.name, 0.0), time.monotonic() - began)
            return answer

        self._submit(Job(job.name, work, job.done, job.blocking))


async def measure(megabytes: int, directory: Path) -> dict[str, Any]:
    options = RaftOptions(
        node_id="one",
        peers=("one",),
        data_dir=directory,
        election_timeout_ms=250,
        heartbeat_ms=50,
        snapshot_every_entries=ALL,
        snapshot_every_bytes=ALL,
        snapshot_keep_entries=ALL,
        snapshot_keep_bytes=ALL,
    )

    def fatal(error: FatalRaftError) -> None:
        raise SystemExit(str(error))

    engine = RaftEngine(options, Counter(), on_fatal=fatal)
    waits, watch = Waits(engine), LoopWatch()
    await engine.start()
    await _fill(engine, megabytes * 1_000_000 // ENTRY_BYTES)
    quiet = await _commits(engine, AFTER_S)
    member: Any = engine._member
    inode = (directory / "raft.journal").stat().st_ino
    watching = asyncio.create_task(watch.run(), name="watch")
    await asyncio.sleep(LOOK_S)
    watch.take()
    waits.worst_s, waits.jobs = 0.0, {}
    began = time.monotonic()
    engine.request_snapshot()
    stop = asyncio.Event()
    load = asyncio.create_task(_commits(engine, PROPOSE_S, stop), name="load")
    while (directory / "raft.journal").stat().st_ino == inode or member._blocked:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    took_s = time.monotonic() - began
    await asyncio.sleep(AFTER_S)  # what is done when the new file is there already
    stop.set()
    busy = await load
    watching.cancel()
    await engine.stop()
    return {
        "cut_s": round(took_s, 3),
        "fsync_waited_ms": round(1000 * waits.worst_s, 1),
        "slowest_commit_ms": round(1000 * busy["worst_s"], 1),
        "quiet_slowest_commit_ms": round(1000 * quiet["worst_s"], 1),
        "commits_meanwhile": busy["commits"],
        "loop_stood_ms": {name: round(value, 1) for name, value in watch.take().items()},
        "longest_jobs_ms": {name: round(1000 * value, 1) for name, value in sorted(waits.jobs.items())},
    }


async def _fill(engine: RaftEngine, count: int) -> None:
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await engine.propose(number.to_bytes(8, "big") * (ENTRY_BYTES // 8), PROPOSE_S)

    async with asyncio.TaskGroup() as group:
        for number in range(1_000):
            group.create_task(caller(), name=f"fill-{number}")


async def _commits(engine: RaftEngine, seconds: float, stop: asyncio.Event | None = None) -> dict[str, Any]:
    until, took_s = time.monotonic() + seconds, []

    async def caller() -> None:
        while (sent := time.monotonic()) < until and not (stop is not None and stop.is_set()):
            await engine.propose(b"small", PROPOSE_S)
            took_s.append(time.monotonic() - sent)

    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(), name=f"caller-{number}")
    return {"commits": len(took_s), "worst_s": max(took_s)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.log_cut", description=__doc__)
    parser.add_argument("megabytes", nargs="*", type=int, default=[100, 300], help="of log behind the cut")
    for megabytes in parser.parse_args().megabytes:
        calm_the_collector()
        with tempfile.TemporaryDirectory(prefix="bench-cut-") as folder:
            print(megabytes, "MB:", asyncio.run(measure(megabytes, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
