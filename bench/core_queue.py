"""The queue alone, in one process: what a decision costs with 10,000 tasks pending, what a command costs with
many more, and how much memory a queued task takes. Times are of the processor."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from bench.figures import Section, WorkNotDone
from bench.options import Options, run_alone
from coterie.core.commands import (
    AssignTask,
    Command,
    ConfigureCluster,
    FinishTask,
    RegisterNode,
    SetLimit,
    SetTenant,
    SubmitTask,
)
from coterie.core.nouns import NO_DATA, Data, NodeId, Policy, RetryPolicy, SkillRef, TaskId
from coterie.core.quotas import Limit, Tenant
from coterie.core.routing import NodeLoad
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from coterie.raft import codec
from coterie.raft.replica import Replica

NAME = "core_queue"
PENDING = 10_000
NODES = 7
SLOTS = 64
BATCH = 512
ROUNDS = 300
MANY, MOST = 100_000, 1_000_000
TYPES = tuple(f"skill{number}" for number in range(20))
POLICY = Policy(pending_tasks_max=2 * MOST, live_bytes_max=1 << 40)
MICROSECONDS = 1e6

Load = Callable[[int], Iterator[SubmitTask]]


async def measure(options: Options) -> Section:
    """Decisions, commands, bytes."""
    section = Section(NAME, f"The queue alone: {PENDING:,} tasks pending, {NODES} nodes of {SLOTS} slots")
    loads: tuple[tuple[str, str, Load], ...] = (
        ("plain", "one tenant, one kind", plain),
        ("mixed", "10 tenants, 4 classes, 20 skills, 1,000 keys, limits", mixed),
        ("keyed", "a key for each task, one of each may run", keyed),
    )
    for name, what, load in loads:
        rounds = [await asyncio.to_thread(decisions, load) for _ in range(options.runs)]
        section.add(f"{name}_fill", f"plan, all slots free: {what}", "us/decision", [r[0] for r in rounds])
        section.add(f"{name}_one", f"plan, one slot free: {what}", "us/decision", [r[1] for r in rounds])
    for count in (PENDING, MANY):
        costs = [await asyncio.to_thread(commands, count) for _ in range(options.runs)]
        for place, kind in enumerate(("submit", "assign", "finish")):
            what = f"apply {kind}, {count:,} queued"
            section.add(f"{kind}_{count}", what, "us/command", [cost[place] for cost in costs])
    for count in (MANY, MOST):
        told = await asyncio.to_thread(_in_a_process, count)
        section.add(f"bytes_{count}", f"memory of a queued task, {count:,} of them", "bytes", [told[0]])
        section.add(f"restored_{count}", "the same after a snapshot was installed", "bytes", [told[1]])
    return section


# --- loads


def _submit(number: int, **changes: object) -> SubmitTask:
    task_id = TaskId(f"{number:032x}")
    command = SubmitTask(
        task_id, "default", "skill0", Data(b"{}"), 2, RetryPolicy(), request_id=task_id, digest=b"0" * 16
    )
    for name, value in changes.items():
        object.__setattr__(command, name, value)
    return command


def plain(count: int) -> Iterator[SubmitTask]:
    return (_submit(number) for number in range(count))


def mixed(count: int) -> Iterator[SubmitTask]:
    dice = random.Random(1)
    for number in range(count):
        key = dice.randrange(1_000)  # a customer, of one tenant, who uses two skills
        yield _submit(
            number,
            tenant=f"tenant{key % 10}",
            type=TYPES[(key // 10 + dice.randrange(2)) % len(TYPES)],
            priority=dice.randint(1, 4),
            key=f"key{key}",
        )


def keyed(count: int) -> Iterator[SubmitTask]:
    return (_submit(number, key=f"key{number}") for number in range(count))


class Cluster:
    """A replica that is told commands, 512 an entry, by way of their encoding."""

    def __init__(self) -> None:
        self.replica = Replica(lambda index, events: None, lambda index: None)
        self.index = 0
        skills = tuple(SkillRef(name, "1") for name in TYPES)
        nodes = [RegisterNode(NodeId(f"n{n}"), "h:1", 1, SLOTS, skills=skills) for n in range(NODES)]
        limits = [
            Limit("key", key="*", concurrent=1),
            Limit("skill1", type="skill1", concurrent=5),
            Limit("skill2", type="skill2", rate_count=10, rate_period_ms=1_000),
        ]
        self.tell([ConfigureCluster("c", "bench", POLICY), *nodes])
        self.tell([SetTenant(Tenant(f"tenant{n}", 1 + n % 3)) for n in range(10)])
        self.tell([SetLimit(limit) for limit in limits])

    def tell(self, many: Iterable[Command]) -> float:
        """Processor time that applying took, decoding left out, in seconds."""
        entries, took = iter(many), 0.0
        while batch := list(islice(entries, BATCH)):
            entry = codec.encode_batch(batch)
            began = time.process_time()
            codec.decode_batch(entry)
            decoded = time.process_time()
            self.index += 1
            outcomes = self.replica.apply(self.index, 1_000 + self.index, entry)
            took += time.process_time() - decoded - (decoded - began)
            refused = [outcome for outcome in outcomes if type(outcome).__name__ != "Accepted"]
            if refused:
                raise WorkNotDone(f"{len(refused)} of {len(outcomes)} commands were refused: {refused[0]}")
        return took

    def plan(self) -> tuple[list[Command], float]:
        """What the plan says, and the processor time it took, in seconds."""
        state = self.replica.state
        loads = {node_id: NodeLoad(node_id, 1, 0) for node_id in state.nodes}
        view = View(state.meta.clock_ms, loads)
        began = time.process_time()
        decided = plan(state, view, PlanPolicy())
        return decided, time.process_time() - began


def decisions(load: Load) -> tuple[float, float]:
    """Microseconds for each decision: of a plan that fills all nodes, of plans that fill one free slot."""
    cluster = Cluster()
    cluster.tell(load(PENDING))
    decided, filling = cluster.plan()
    if len(decided) < NODES * SLOTS / 2:
        raise WorkNotDone(f"only {len(decided)} tasks were assigned")
    held = list(decided)
    cluster.tell(decided)
    each = 0.0
    for _ in range(ROUNDS):
        first = held.pop(0)
        assert isinstance(first, AssignTask)
        cluster.tell([FinishTask(first.task_id, first.attempt, NO_DATA)])
        one, took = cluster.plan()
        each += took
        held += one
        cluster.tell(one)
    return filling / len(decided) * MICROSECONDS, each / ROUNDS * MICROSECONDS


def commands(count: int) -> tuple[float, float, float]:
    """Microseconds for each submit, assign and finish, with so many queued."""
    cluster = Cluster()
    sample = 7 * 50
    submits = mixed(count)
    cluster.tell(islice(submits, count - sample))
    last = list(submits)
    submitting = cluster.tell(last) / len(last)
    assigning = finishing = done = 0.0
    for _ in range(3):
        decided, _ = cluster.plan()
        assigns = [command for command in decided if isinstance(command, AssignTask)]
        assigning += cluster.tell(assigns)
        finishing += cluster.tell([FinishTask(a.task_id, a.attempt, NO_DATA) for a in assigns])
        done += len(assigns)
    return submitting * MICROSECONDS, assigning / done * MICROSECONDS, finishing / done * MICROSECONDS


# --- memory


def _in_a_process(count: int) -> tuple[float, float]:
    """Memory is measured where nothing else has been."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        return _alone(queued_bytes, count, path), _alone(restored_bytes, count, path)


def _alone(what: Callable[[int, Path], float], count: int, path: Path) -> float:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(what, (count, path))


def _rss() -> int:
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * 4_096


def queued_bytes(count: int, path: Path) -> float:
    """Resident bytes for each of so many queued tasks, the remembered request ids included. Leaves a snapshot
    at `path`."""
    cluster = Cluster()
    cluster.tell(plain(1_000))
    before = _rss()
    cluster.tell(islice(plain(count + 1_000), 1_000, None))
    taken = _rss() - before
    with path.open("wb") as file:
        for piece in codec.encode_state(cluster.replica.state.copy()):
            file.write(len(piece).to_bytes(4, "big") + piece)
    return taken / count


def restored_bytes(count: int, path: Path) -> float:
    """The same of a state that came as a snapshot."""
    before = _rss()
    with path.open("rb") as file:
        lengths = iter(lambda: file.read(4), b"")
        state = codec.decode_state(file.read(int.from_bytes(length, "big")) for length in lengths)
    return (_rss() - before) / len(state.tasks)


if __name__ == "__main__":
    run_alone(NAME, measure)
