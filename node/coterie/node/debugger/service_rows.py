"""Histories as messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coterie.core.nouns import NO_DATA
from coterie.node import convert
from coterie.node.debugger.model import Attempt, Effect, Happening, History, ModelCall, NodeRow, TaskRecord
from coterie.node.links import FRAME_BYTES_MAX
from coterie.v1 import debugger_pb2, workflows_pb2

ANSWER_BYTES_MAX = FRAME_BYTES_MAX - 65_536


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
        nodes=[node_row_to_pb(row) for row in record.nodes],
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


def node_row_to_pb(one: NodeRow) -> workflows_pb2.RunNode:
    """A node of a run as the API tells it."""
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
