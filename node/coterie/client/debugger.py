"""What happened to a task or a run, and what would have happened else: `cluster.debugger`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from coterie.client.connection import Connection
from coterie.client.job import Job
from coterie.client.models import TaskInfo
from coterie.client.workflows import RunNode
from coterie.v1 import debugger_pb2, tasks_pb2

Opened = Callable[[], Connection]
Format = Literal["text", "mermaid", "gantt", "story", "replay"]
_FORMATS: dict[str, Any] = {
    "": debugger_pb2.HISTORY_FORMAT_UNSPECIFIED,
    "text": debugger_pb2.TEXT,
    "mermaid": debugger_pb2.MERMAID,
    "gantt": debugger_pb2.GANTT,
    "story": debugger_pb2.STORY,
    "replay": debugger_pb2.REPLAY,
}


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """Something durable that happened; `index` is that of the log entry that caused it."""

    task: str
    sequence: int
    type: str
    time: datetime | None
    index: int
    node: str
    attempt: int
    detail: str


@dataclass(frozen=True, slots=True)
class TaskAttempt:
    """One stay on a node. `end` is the type of the event that ended it; empty: it goes on."""

    number: int
    node: str
    assigned: datetime | None
    started: datetime | None
    ended: datetime | None
    end: str
    detail: str


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A call of a language model. `outcome`: answered, open, in doubt, cached, or taken over: paid before."""

    step: str
    number: int
    attempt: int
    provider: str
    model: str
    outcome: str
    time: datetime | None
    tokens_in: int
    tokens_out: int
    micro_usd: int


@dataclass(frozen=True, slots=True)
class HistoryEffect:
    """An effect whose intent was recorded: INTENT, IN_DOUBT, or how the doubt was resolved."""

    step: str
    key: str
    attempt: int
    state: str
    time: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """One task with all that happened to it; `nodes` are those of a run."""

    task: TaskInfo
    events: tuple[HistoryEvent, ...]
    attempts: tuple[TaskAttempt, ...]
    calls: tuple[ModelCall, ...]
    effects: tuple[HistoryEffect, ...]
    nodes: tuple[RunNode, ...]


@dataclass(frozen=True, slots=True)
class History:
    """A task and all below it, the one asked for first. `drawing` is in the format asked for. `truncated`:
    there is more than fits; `holes`: events that the node that answered does not have."""

    tasks: tuple[TaskHistory, ...]
    truncated: bool
    holes: int
    calls_paid: int
    tokens_in: int
    tokens_out: int
    micro_usd: int
    drawing: str = field(default="", repr=False)

    @property
    def task(self) -> TaskInfo:
        """The one asked for."""
        return self.tasks[0].task

    @property
    def timeline(self) -> list[HistoryEvent]:
        """The events of all tasks, in the order of the log."""
        return sorted((one for task in self.tasks for one in task.events), key=lambda one: one.index)


@dataclass(frozen=True, slots=True)
class NodeAt:
    """A node of the cluster as it was. `held`: tasks that it had."""

    id: str
    status: str
    draining: bool
    reason: str
    held: int


@dataclass(frozen=True, slots=True)
class StateAt:
    """What was true right after the log entry `index`. `task`, with the `nodes` of a run, where one was asked
    for; else the cluster: tasks by their states, the oldest live ones, and its nodes."""

    index: int
    time: datetime | None
    oldest_index: int
    newest_index: int
    task: TaskInfo | None
    nodes: tuple[RunNode, ...]
    tasks_by_state: Mapping[str, int]
    live: tuple[TaskInfo, ...]
    live_total: int
    cluster: tuple[NodeAt, ...]


class Debugger:
    """See the methods."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def history(
        self,
        task_id: str,
        *,
        format: Format | Literal[""] = "",
        tasks_max: int = 0,
        until: int = 0,
        stale: bool = False,
    ) -> History:
        """What happened to a task or a run, live or ended, and to at most `tasks_max` (0: 500) tasks below
        it. `format` adds a drawing: text, mermaid, gantt, story, or replay: the states that follow from
        the events, one by one (`until`: so many of them, 0: all), compared with the recorded end. Raises
        NotFound, InvalidRequest."""
        connection = self._opened()
        request = debugger_pb2.GetHistoryRequest(
            name=connection.task_name(task_id),
            format=_FORMATS[format],
            tasks_max=tasks_max,
            until=until,
            read_mode=tasks_pb2.STALE if stale else tasks_pb2.LINEARIZABLE,
        )
        raw = await connection.caller.unary(lambda e: e.debugger.GetHistory, request)
        return History(
            tuple(_task(one) for one in raw.tasks),
            raw.truncated,
            raw.holes,
            raw.calls_paid,
            raw.tokens_in,
            raw.tokens_out,
            raw.micro_usd,
            raw.drawing,
        )

    async def fork(
        self, task_id: str, at: str, set: Mapping[str, Any] | None = None, *, request_id: str = ""
    ) -> Job:
        """A new run from node `at` of a run on, or a new task from step `at` of a task on. What was completed
        before that point is kept, and not paid again; `set` gives other values to inputs and to results that
        are kept. Raises NotFound, InvalidRequest with all that is wrong."""
        connection, request_id = self._opened(), request_id or uuid.uuid4().hex
        request = debugger_pb2.ForkRequest(
            name=connection.task_name(task_id),
            at=at,
            set={name: json.dumps(value) for name, value in (set or {}).items()},
            request_id=request_id,
        )
        raw = await connection.caller.unary(lambda e: e.debugger.Fork, request, request_id=request_id)
        return Job(connection, raw.name, raw)

    async def state(self, index: int = 0, task_id: str = "") -> StateAt:
        """The state right after an entry of the log (0: the last one): of the cluster, or of a task with its
        payload and steps, of a run with its nodes too. Raises OutOfRange naming the oldest index that can be
        shown, NotFound for a task that was not there then."""
        connection = self._opened()
        name = connection.task_name(task_id) if task_id else ""
        request = debugger_pb2.GetStateAtRequest(index=index, name=name)
        raw = await connection.caller.unary(lambda e: e.debugger.GetStateAt, request)
        return StateAt(
            raw.index,
            _time(raw.at_ms),
            raw.oldest_index,
            raw.newest_index,
            TaskInfo.of(raw.task) if raw.HasField("task") else None,
            tuple(RunNode.of(node) for node in raw.nodes),
            dict(raw.tasks_by_state),
            tuple(TaskInfo.of(task) for task in raw.live),
            raw.live_total,
            tuple(NodeAt(n.node_id, n.status, n.draining, n.reason, n.held) for n in raw.cluster),
        )

    async def story(self, task_id: str) -> str:
        """What happened, in plain sentences. Raises NotFound."""
        return (await self.history(task_id, format="story")).drawing


def _task(raw: debugger_pb2.TaskHistory) -> TaskHistory:
    return TaskHistory(
        TaskInfo.of(raw.task),
        tuple(
            HistoryEvent(e.task_id, e.sequence, e.type, _time(e.at_ms), e.index, e.node, e.attempt, e.detail)
            for e in raw.events
        ),
        tuple(_attempt(one) for one in raw.attempts),
        tuple(_call(one) for one in raw.calls),
        tuple(
            HistoryEffect(e.step, e.key, e.attempt, e.state, _time(e.at_ms), e.reason) for e in raw.effects
        ),
        tuple(RunNode.of(node) for node in raw.nodes),
    )


def _attempt(raw: debugger_pb2.TaskAttempt) -> TaskAttempt:
    times = (_time(raw.assigned_ms), _time(raw.started_ms), _time(raw.ended_ms))
    return TaskAttempt(raw.number, raw.node, *times, raw.end, raw.detail)


def _call(raw: debugger_pb2.ModelCall) -> ModelCall:
    facts = (raw.step, raw.number, raw.attempt, raw.provider, raw.model, raw.outcome)
    return ModelCall(*facts, _time(raw.at_ms), raw.tokens_in, raw.tokens_out, raw.micro_usd)


def _time(ms: int) -> datetime | None:
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None
