"""The state machine alone, in one process: what a task's commands cost to encode, decode and apply.

Every node decodes and applies everything, so this bounds what a cluster can do however many nodes it has.
Times are of the processor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.figures import Section, WorkNotDone
from bench.options import Options, run_alone
from coterie.core.access import Origin
from coterie.core.commands import AssignTask, Called, Command, FinishTask, RegisterNode, SubmitTask
from coterie.core.nouns import Data, Event, NodeId, RetryPolicy, SkillRef, TaskId
from coterie.raft import codec
from coterie.raft.replica import Replica

NAME = "apply"
BATCH = 64
BATCHES = 100
NODE = NodeId("node-1")
PAYLOAD = Data(b'{"client":0,"number":12345}')
CALLER = Origin("user-1", "SubmitTask", "default")
MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds a task, its three commands together."""

    encode: float
    decode: float
    apply: float

    @property
    def all(self) -> float:
        return self.encode + self.decode + self.apply


async def measure(options: Options) -> Section:
    """Tasks submitted, assigned and finished, in entries of 64 commands."""
    section = Section(NAME, f"State machine alone: three commands a task, {BATCH} commands an entry")
    rounds, audited = [], []
    for _ in range(options.runs):
        rounds.append(await asyncio.to_thread(_round))
        audited.append(await asyncio.to_thread(_round, CALLER))
    section.add("encode", "encode, by the proposer", "us/task", [one.encode for one in rounds])
    section.add("decode", "decode, on every node", "us/task", [one.decode for one in rounds])
    section.add("apply", "apply, on every node", "us/task", [one.apply for one in rounds])
    bound = [MICROSECONDS / (one.decode + one.apply) for one in rounds]
    extra = [later.all - first.all for first, later in zip(rounds, audited, strict=True)]
    section.add("audit", "more, when a caller's submits are recorded in the audit log", "us/task", extra)
    section.add("bound", "one core doing nothing but decode and apply", "tasks/s", bound)
    return section


def _round(origin: Origin | None = None) -> Costs:
    """With an origin the submits are those of a caller, as they are on a node that knows its callers."""
    batches = list(_log(origin))
    began = time.thread_time()
    entries = [codec.encode_batch(batch) for batch in batches]
    encoded = time.thread_time()
    for entry in entries:
        codec.decode_batch(entry)
    decoded = time.thread_time()
    finished = _replay(entries)
    applied = time.thread_time()
    if finished != BATCH * BATCHES:
        raise WorkNotDone(f"{BATCH * BATCHES} tasks were put in, {finished} succeeded")
    per_task = MICROSECONDS / finished
    decode = (decoded - encoded) * per_task
    # The replica decodes by itself: its time is both, and the difference is the state's.
    return Costs((encoded - began) * per_task, decode, (applied - decoded) * per_task - decode)


def _replay(entries: Sequence[bytes]) -> int:
    """Apply a log to a fresh replica; how many tasks succeeded."""
    succeeded = 0

    def count(index: int, events: Sequence[Event]) -> None:
        nonlocal succeeded
        succeeded += sum(event.type == "succeeded" for event in events)

    replica = Replica(count, lambda index: None)
    for index, entry in enumerate(entries, start=1):
        replica.apply(index, index, entry)
    return succeeded


def _log(origin: Origin | None) -> Iterable[list[Command]]:
    yield [RegisterNode(NODE, "127.0.0.1:1", 1, BATCH, skills=(SkillRef("echo", "1.0.0"),))]
    for batch in range(BATCHES):
        ids = [TaskId(f"{batch:016x}{number:016x}") for number in range(BATCH)]
        submits = [_submit(task_id) for task_id in ids]
        yield [Called(submit, origin) for submit in submits] if origin is not None else list(submits)
        yield [AssignTask(task_id, NODE, 1, 1) for task_id in ids]
        yield [FinishTask(task_id, 1, PAYLOAD) for task_id in ids]


def _submit(task_id: TaskId) -> SubmitTask:
    retry = RetryPolicy()
    return SubmitTask(
        task_id, "default", "echo", PAYLOAD, 2, retry, request_id=task_id, digest=b"12345678" * 4
    )


if __name__ == "__main__":
    run_alone(NAME, measure)
