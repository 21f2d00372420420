"""The Debugger service: histories, forks, and earlier states."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc

from coterie.node.admission import task_id_of
from coterie.node.debugger.forking import Forks
from coterie.node.debugger.gather import Historian
from coterie.node.debugger.machine import TimeMachine
from coterie.node.debugger.model import History
from coterie.node.debugger.pictures import gantt_of, mermaid_of_history
from coterie.node.debugger.refold import replay_of
from coterie.node.debugger.service_rows import ANSWER_BYTES_MAX, history_to_pb
from coterie.node.debugger.story import story_of
from coterie.node.debugger.then import cluster_then, task_then
from coterie.node.debugger.timeline import text_of
from coterie.node.errors import ApiError, Violation, invalid
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.security.principal import caller
from coterie.v1 import debugger_pb2, debugger_pb2_grpc, tasks_pb2

STATE_TASKS_MAX = 1_000_000  # of the present state: an earlier one takes as much memory again
TASKS_DEFAULT, TASKS_MAX = 500, 2_000
DRAW: Mapping[int, Callable[[History], str]] = {
    debugger_pb2.TEXT: text_of,
    debugger_pb2.MERMAID: mermaid_of_history,
    debugger_pb2.GANTT: gantt_of,
    debugger_pb2.STORY: story_of,
    debugger_pb2.REPLAY: replay_of,
}


@dataclass(frozen=True, slots=True)
class DebuggerParts:
    """What the service works on."""

    historian: Historian
    forks: Forks
    times: TimeMachine


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
        if request.until < 0:
            raise invalid([Violation("until", f"{request.until} is no number of events")])
        if request.format and request.format not in DRAW:
            raise invalid([Violation("format", f"{request.format} is no format; see HistoryFormat")])
        historian, left = self._parts.historian, seconds_left(context)
        await historian.reader.barrier(request.read_mode, left)
        tasks_max = request.tasks_max or TASKS_DEFAULT
        history = await historian.of(task_id_of(request.name), left, tasks_max)
        return await asyncio.to_thread(_told, request, history, tasks_max)  # nothing in it changes any more

    @unary
    async def Fork(self, request: debugger_pb2.ForkRequest, context: Context) -> tasks_pb2.Task:
        return await self._parts.forks.fork(request, propose_seconds(context))

    @unary
    async def GetStateAt(
        self, request: debugger_pb2.GetStateAtRequest, context: Context
    ) -> debugger_pb2.StateAt:
        if request.index < 0:
            raise invalid([Violation("index", f"{request.index} is no index of the log; give 0 for now")])
        task_id = task_id_of(request.name) if request.name else None
        await self._parts.historian.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        sees, state = caller().sees, self._parts.historian.state()
        if (held := len(state.tasks) + len(state.finished)) > STATE_TASKS_MAX:
            text = f"the present state holds {held} tasks; the limit is {STATE_TASKS_MAX}; ask for histories"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TOO_LARGE", text)
        async with self._parts.times.visit(request.index) as then:
            if task_id is None:
                answer = await cluster_then(then, sees)
            else:
                answer = task_then(then, task_id, sees)
        if answer.ByteSize() > ANSWER_BYTES_MAX:
            text = f"{answer.ByteSize()} bytes, the limit is {ANSWER_BYTES_MAX}; ask for its history"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TOO_LARGE", text)
        return answer


def _told(request: debugger_pb2.GetHistoryRequest, history: History, tasks_max: int) -> debugger_pb2.History:
    drawing = _drawn(request, history)
    room = ANSWER_BYTES_MAX - len(drawing.encode())
    if room < ANSWER_BYTES_MAX // 4:
        text = f"the drawing is larger than an answer; give less than tasks_max {tasks_max}"
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TOO_LARGE", text)
    return history_to_pb(history, drawing, room)


def _drawn(request: debugger_pb2.GetHistoryRequest, history: History) -> str:
    if request.format == debugger_pb2.REPLAY:
        return replay_of(history, request.until)
    return DRAW[request.format](history) if request.format else ""
