"""Earlier states, rebuilt from the snapshot and the log of a real engine, are what they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import Accepted, AssignTask, Command, RecordStep
from coterie.core.nouns import Data, NodeId, TaskId
from coterie.node import turns
from coterie.node.debugger import machine as machine_module
from coterie.node.debugger import then as then_module
from coterie.node.debugger.machine import TimeMachine
from coterie.node.debugger.then import cluster_then, task_then
from coterie.node.errors import ApiError
from coterie.raft import codec
from coterie.raft.engine import RaftEngine
from coterie.raft.replica import Replica
from coterie.raft.snapshot import NAME as SNAPSHOT
from tests.core.builders import RandomLog, register_command, submit_command
from tests.raft.inprocess import Cluster

TIMEOUT_S = 20.0


class Recorded:
    """A group of one member, with the hash of its state after each of its entries."""

    def __init__(self, folder: Path) -> None:
        self.cluster, self.log = Cluster(folder, 1), RandomLog(3)
        self.hashes: dict[int, str] = {}
        self.folder = folder

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TimeMachine]:
        self.replica = Replica(lambda index, events: None, lambda index: None)
        options = self.cluster.options("n1")
        self.engine = RaftEngine(options, self.replica, on_fatal=lambda error: None)
        await self.engine.start()
        self.cluster.engines["n1"] = self.engine
        try:
            yield TimeMachine(self.engine.past)
        finally:
            await self.engine.stop()

    def oldest(self) -> int:
        past = self.engine.past(0)
        past.close()
        return past.oldest

    async def grow(self, entries: int) -> None:
        for _ in range(entries):
            entry = codec.encode_batch(self.log.take(3))
            committed = await self.engine.propose(entry, TIMEOUT_S)
            self.hashes[committed.index] = state_hash(self.replica.state)

    async def apply(self, command: Command) -> None:
        committed = await self.engine.propose(codec.encode_batch([command]), TIMEOUT_S)
        outcomes: Any = committed.result
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)

    async def snapshot(self) -> None:
        path = self.folder / "n1" / SNAPSHOT
        before = path.stat().st_mtime_ns if path.exists() else 0
        self.engine.request_snapshot()
        await self.cluster.until(
            lambda: path.exists() and path.stat().st_mtime_ns != before and self.oldest() > 0,
            "a snapshot",
        )


async def same(recorded: Recorded, machine: TimeMachine) -> int:
    """How many of the recorded states can be shown; each of them is as it was."""
    oldest, shown = recorded.oldest(), 0
    for index, known in recorded.hashes.items():
        if index >= oldest:
            then = await machine.at(index)
            assert (state_hash(then.state), then.index) == (known, index)
            shown += 1
        else:
            with pytest.raises(ApiError) as caught:
                await machine.at(index)
            assert caught.value.reason == "HISTORY_COMPACTED"
            assert caught.value.metadata["oldest_index"] == str(oldest)
    return shown


async def test_every_state_that_the_node_still_has_is_rebuilt_as_it_was(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    async with recorded.running() as machine:
        await recorded.grow(25)
        assert await same(recorded, machine) == 25
        now = await machine.at(0)
        assert state_hash(now.state) == state_hash(recorded.replica.state) and now.at_ms > 0
        await recorded.snapshot()
        await recorded.grow(10)
        assert await same(recorded, machine) == 11  # that of the snapshot, and those behind it
        with pytest.raises(ApiError, match="lies ahead") as caught:
            await machine.at(10_000)
        assert caught.value.metadata["newest_index"] == str(now.newest + 10)
    async with recorded.running() as machine:  # from the disk
        await recorded.grow(5)
        assert await same(recorded, machine) == 16


async def test_what_is_told_of_many_tasks_is_told_in_slices_and_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.0)
    for module in (machine_module, then_module):
        monkeypatch.setattr(module, "PART", 5)
    recorded = Recorded(tmp_path)
    async with recorded.running() as machine:
        for number in range(40):
            await recorded.apply(submit_command(f"t{number}"))
        turn = 0

        async def other() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        async with machine.visit(0) as then:
            beside = asyncio.create_task(other())
            told = await cluster_then(then, lambda tenant: True)
            assert turn >= 8 and told.live_total == 40
            assert [task.task_id for task in told.live] == [f"t{number}" for number in range(40)]
            before = turn
        beside.cancel()
        assert turn >= before + 8 and not then.state.tasks and not then.state.requests
        assert len(recorded.replica.state.tasks) == 40


async def test_what_is_told_is_what_the_caller_may_see(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    async with recorded.running() as machine:
        await recorded.apply(register_command("n1"))
        for task_id, tenant in (("ours", "default"), ("theirs", "acme"), ("waits", "acme")):
            await recorded.apply(submit_command(task_id, tenant=tenant))
        await recorded.apply(AssignTask(TaskId("theirs"), NodeId("n1"), 1, 1))
        await recorded.apply(RecordStep(TaskId("theirs"), 1, "one", Data(b"1")))
        then = await machine.at(0)
    everything = await cluster_then(then, lambda tenant: True)
    acme = await cluster_then(then, lambda tenant: tenant == "acme")
    assert [task.task_id for task in acme.live] == ["theirs", "waits"]
    assert (dict(acme.tasks_by_state), dict(everything.tasks_by_state)) == (
        {"RUNNING": 1, "PENDING": 1},
        {"RUNNING": 1, "PENDING": 2},
    )
    assert [(node.node_id, node.held) for node in acme.cluster] == [("n1", 1)]
    for task in then.state.tasks.values():
        told = task_then(then, task.task_id, lambda tenant: True)
        assert (told.task.task_id, told.task.attempt) == (task.task_id, task.attempt)
        assert len(told.task.steps) == task.step_count
        with pytest.raises(ApiError) as caught:
            task_then(then, task.task_id, lambda tenant: False)
        with pytest.raises(ApiError) as nobody:
            task_then(then, TaskId("nobody"), lambda tenant: True)
        assert caught.value.reason == nobody.value.reason == "TASK_NOT_FOUND"
