"""The Debugger service: histories and forks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import grpc

from coterie.core.nouns import NO_DATA
from coterie.node import convert
from coterie.node.admission import task_id_of
from coterie.node.debugger.forking import Forks
from coterie.node.debugger.gather import Historian
from coterie.node.debugger.model import Attempt, Effect, Happening, History, ModelCall, NodeRow, TaskRecord
from coterie.node.debugger.pictures import gantt_of, mermaid_of_history
from coterie.node.debugger.story import story_of
from coterie.node.debugger.timeline import text_of
from coterie.node.errors import ApiError, Violation, invalid
from coterie.node.links import FRAME_BYTES_MAX
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.v1 import debugger_pb2, debugger_pb2_grpc, tasks_pb2, workflows_pb2

TASKS_DEFAULT, TASKS_MAX = 500, 2_000
ANSWER_BYTES_MAX = FRAME_BYTES_MAX - 65_536
DRAW: Mapping[int, Callable[[History], str]] = {
    debugger_pb2.TEXT: text_of,
    debugger_pb2.MERMAID: mermaid_of_history,
    debugger_pb2.GANTT: gantt_of,
    debugger_pb2.STORY: story_of,
}


@dataclass(frozen=True, slots=True)
class DebuggerParts:
    """What the service works on."""

    historian: Historian
    forks: Forks


class DebuggerService(debugger_pb2_grpc.DebuggerServicer):
    """Any node answers any call."""

    def __init__(self, parts: DebuggerParts, gate: Gate) -> None:
        self._parts, self.gate = parts, gate

    @unary
    async def GetHistory(
        self, request: debugger_pb2.GetHistoryRequest, context: Context
    ) -> debugger_pb2.History:
        if not 0 <= request.tasks_max <= TASKS_MAX:
            raise invalid([Violation("tasks_max", f"{request.tasks_max} is not in 0..{TASKS_MAX}")])
        if request.format and request.format not in DRAW:
            raise invalid([Violation("format", f"{request.format} is no format; see HistoryFormat")])
        historian, left = self._parts.historian, seconds_left(context)
        await historian.reader.barrier(request.read_mode, left)
        tasks_max = request.tasks_max or TASKS_DEFAULT
        history = await historian.of(task_id_of(request.name), left, tasks_max)
        drawing = DRAW[request.format](history) if request.format else ""
        room = ANSWER_BYTES_MAX - len(drawing.encode())
        if room < ANSWER_BYTES_MAX // 4:
            text = f"the drawing is larger than an answer; give less than tasks_max {tasks_max}"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TOO_LARGE", text)
        return history_to_pb(history, drawing, room)

    @unary
    async def Fork(self, request: debugger_pb2.ForkRequest, context: Context) -> tasks_pb2.Task:
        return await self._parts.forks.fork(request, propose_seconds(context))


def history_to_pb(history: History, drawing: str = "", room: int = ANSWER_BYTES_MAX) -> debugger_pb2.History:
    """As far as it fits into one message; the tasks that do not are cut off, and `truncated` says so."""
    calls, tokens_in, tokens_out, micro_usd = history.paid
    answer = debugger_pb2.History(
        drawing=drawing,
        truncated=history.truncated,
        holes=history.holes,
        calls_paid=calls,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        micro_usd=micro_usd,
    )
    size = 0
    for record in history.records:
        message = _record(record)
        size += message.ByteSize()
        if size > room:
            answer.truncated = True
            break
        answer.tasks.append(message)
    return answer


def _record(record: TaskRecord) -> debugger_pb2.TaskHistory:
    steps = [replace(step, result=NO_DATA) for step in record.steps]
    return debugger_pb2.TaskHistory(
        task=convert.task_to_pb(record.task, steps),
        events=[_event(event) for event in record.events],
        attempts=[_attempt(attempt) for attempt in record.attempts],
        calls=[_call(call) for call in record.calls],
        effects=[_effect(effect) for effect in record.effects],
        nodes=[_node(row) for row in record.nodes],
    )


def _event(one: Happening) -> debugger_pb2.HistoryEvent:
    fields = {name: value for name, value in _fields(one).items() if name != "place"}
    return debugger_pb2.HistoryEvent(**fields)


def _attempt(one: Attempt) -> debugger_pb2.TaskAttempt:
    return debugger_pb2.TaskAttempt(**_fields(one))


def _call(one: ModelCall) -> debugger_pb2.ModelCall:
    return debugger_pb2.ModelCall(**_fields(one))


def _effect(one: Effect) -> debugger_pb2.HistoryEffect:
    return debugger_pb2.HistoryEffect(**_fields(one))


def _node(one: NodeRow) -> workflows_pb2.RunNode:
    return workflows_pb2.RunNode(
        id=one.node_id,
        type=one.type,
        state=one.state,
        depends_on=one.after,
        tasks=one.tasks,
        since_ms=one.since_ms,
        ended_at_ms=one.ended_ms,
        message=one.why,
    )


def _fields(record: Any) -> dict[str, Any]:
    """Of a record whose fields are called as those of its message."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
