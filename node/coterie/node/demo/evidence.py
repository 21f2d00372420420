"""Reading back what became of every task, from every node, and what the witness file says."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from coterie.client import Cluster, Event, TaskInfo
from coterie.node.demo.journal import Kill

TERMINAL_EVENTS = frozenset({"succeeded", "failed", "cancelled", "timed_out", "dead_lettered"})
CALLS_OPEN_MAX = 32
PAGE_SIZE = 500
READBACK_MAX_S = 30.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Execution:
    """A line of the witness file: a step function began to run."""

    task_id: str
    step: str
    attempt: int
    pid: int


@dataclass(frozen=True, slots=True)
class History:
    """One task as the cluster recorded it.

    steps: name to the attempt that completed it, as the task shows them at the end.
    completions: (name, attempt) of every completed step in the task's events, in order.
    resumed: (node that was lost, when it was given away, when it started again), seconds since the epoch.
    """

    task_id: str
    state: str
    attempt: int
    steps: Mapping[str, int]
    terminal_events: int
    completions: tuple[tuple[str, int], ...] = ()
    resumed: tuple[tuple[str, float, float], ...] = ()


@dataclass(slots=True)
class Evidence:
    """Everything the judge gets to see."""

    acked: frozenset[str]
    probes: frozenset[str]
    per_node: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Node to (task id, state) of every task of this run, as that node itself lists them."""
    hashes: dict[str, str] = field(default_factory=dict)
    histories: list[History] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    damaged_lines: int = 0
    with_results: frozenset[str] = frozenset()


def read_witness(path: Path) -> tuple[list[Execution], int]:
    """The executions in a witness file, and how many lines are damaged. A missing file is empty."""
    executions, damaged = [], 0
    lines = path.read_text(errors="replace").split("\n") if path.exists() else [""]
    for line in lines[:-1]:
        fields = line.split("\t")
        if len(fields) == 4 and fields[2].isdigit() and fields[3].isdigit():
            executions.append(Execution(fields[0], fields[1], int(fields[2]), int(fields[3])))
        else:
            damaged += 1
    return executions, damaged + bool(lines[-1])


def resumptions(events: Iterable[Event]) -> tuple[tuple[str, float, float], ...]:
    """Each time an attempt was given away: from which node, when, and when the next attempt started."""
    nodes: dict[int, str] = {}
    found: list[tuple[str, float, float]] = []
    lost: tuple[str, float] | None = None
    for event in events:
        seconds = event.time.timestamp() if event.time else 0.0
        if event.type == "assigned":
            nodes[event.attempt] = event.node
        elif event.type == "released":
            lost = (nodes.get(event.attempt, event.node), seconds)
        elif event.type == "started" and lost is not None:
            found.append((*lost, seconds))
            lost = None
    return tuple(found)


def resume_times(kill: Kill, histories: Iterable[History]) -> list[float]:
    """Seconds from a kill to the new start of each task that had been on the killed node, sorted.

    Only what was given away until the node was back: later it may lose tasks for other reasons.
    """
    back = kill.wall + kill.back_s if kill.back_s is not None else math.inf
    return sorted(
        started - kill.wall
        for history in histories
        for node_id, released, started in history.resumed
        if node_id == kill.node_id and kill.wall <= released <= back
    )


async def read_histories(cluster: Cluster, task_ids: Iterable[str]) -> list[History]:
    """State, steps and events of each task."""
    slots = asyncio.Semaphore(CALLS_OPEN_MAX)

    async def read(task_id: str) -> History:
        async with slots:
            job = cluster.job(task_id)
            task = await job.get(include_steps=True)
            async with aclosing(job.watch()) as stream:
                events = [event async for event in stream]
            return _history(task, events)

    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(read(task_id)) for task_id in task_ids]
    return [task.result() for task in reads]


async def list_all(cluster: Cluster, labels_filter: str) -> list[tuple[str, str]]:
    """(task id, state) of every task of this run, as the one node behind `cluster` has it."""
    tasks = cluster.list_tasks(filter=labels_filter, page_size=PAGE_SIZE, stale=True)
    async with aclosing(tasks) as stream:
        return [(task.id, task.state) async for task in stream]


async def read_back(
    clients: Mapping[str, Cluster], labels_filter: str, expected: frozenset[str], evidence: Evidence
) -> None:
    """Ask every node for itself until it shows all `expected` tasks as finished, or time is up.

    A replica may lag a moment behind the acknowledgement; what it shows in the end is what counts.
    """
    for node_id, client in clients.items():
        deadline = time.monotonic() + READBACK_MAX_S
        while True:
            rows = await list_all(client, labels_filter)
            complete = expected <= {task_id for task_id, state in rows if state == "SUCCEEDED"}
            if complete or time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_S)
        evidence.per_node[node_id] = rows


async def read_hashes(clients: Mapping[str, Cluster], agreed: Callable[[set[int]], bool]) -> dict[str, str]:
    """Hash of the replicated state of each node, once all have applied the same entries (or time is up)."""
    deadline = time.monotonic() + READBACK_MAX_S / 3
    while True:
        statuses = [await client.get_status(stale=True, state_hash=True) for client in clients.values()]
        if agreed({status.applied_index for status in statuses}) or time.monotonic() > deadline:
            return dict(zip(clients, (f"{s.applied_index}:{s.state_hash}" for s in statuses), strict=True))
        await asyncio.sleep(POLL_S)


def _history(task: TaskInfo, events: list[Event]) -> History:
    return History(
        task_id=task.id,
        state=task.state,
        attempt=task.attempt,
        steps={step.name: step.attempt for step in task.steps},
        terminal_events=sum(1 for event in events if event.type in TERMINAL_EVENTS),
        completions=tuple((event.detail, event.attempt) for event in events if event.type == "step"),
        resumed=resumptions(events),
    )
