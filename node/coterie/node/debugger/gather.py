"""Makes a history: from the ledger what has ended and happened, from the state what is live."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.core.decisions.nouns import Resolution, state_of
from coterie.core.graph.model import Graph, GraphNode
from coterie.core.nouns import Data, Step, Task, TaskId
from coterie.core.runs.book import whole_graph
from coterie.core.runs.run import RUN_ID_MAX, WORKFLOW, Run, child_id
from coterie.core.runs.table import row_of
from coterie.core.state import ClusterState
from coterie.core.transitions import TERMINAL
from coterie.node import convert
from coterie.node.debugger.model import (
    ANSWERED,
    CACHED,
    IN_DOUBT,
    OPEN,
    TAKEN_OVER,
    Effect,
    Happening,
    History,
    ModelCall,
    NodeRow,
    TaskRecord,
)
from coterie.node.errors import ApiError
from coterie.node.ledger import Ledger, LedgerEvent
from coterie.node.llm.completion import OBJECT
from coterie.node.reads import Found, Reader
from coterie.node.workflows.runs import graph_left_by
from coterie.v1 import log_pb2

EVENTS_MAX = 20_000
BLOB_READ_MAX = 1 << 20  # a recorded answer of a model that is larger is not looked into
Load = Callable[[Data], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Historian:
    """Answers from one node; what it has not yet is a hole in the history, and is counted."""

    state: Callable[[], ClusterState]
    reader: Reader
    ledger: Ledger
    load: Load

    async def of(self, task_id: TaskId, timeout_s: float, tasks_max: int) -> History:
        """Raises ApiError NOT_FOUND where the caller sees no such task."""
        root = await self.reader.get(task_id, timeout_s)
        tasks, events, more = await self._family(root, tasks_max)
        records = [await self._record(found, events) for found in tasks.values()]
        holes = 0 if more else sum(_holes(record) for record in records)
        return History(records[0], tuple(records[1:]), more, holes)

    async def _family(
        self, root: Found, tasks_max: int
    ) -> tuple[dict[str, Found], dict[str, list[Happening]], bool]:
        """Those below it by their parents, not by their names alone: anybody may choose a name."""
        known: dict[str, Found] = {root.task.task_id: root}
        events: dict[str, list[Happening]] = {}
        more, prefixes = False, [str(root.task.task_id)]
        while prefixes:
            prefix = prefixes.pop()
            rows = await self.ledger.family(prefix, tasks_max, EVENTS_MAX)
            more = more or rows.more
            ended = [Found(*convert.read_finished(row.record)) for row in rows.tasks]
            live = [Found(task, self.state().steps.get(task.task_id, ())) for task in self._live(prefix)]
            for found in sorted([*ended, *live], key=lambda found: found.task.order):
                task = found.task
                if task.parent_id not in known or task.tenant != root.task.tenant or task.task_id in known:
                    continue
                if len(known) > tasks_max:
                    more = True
                    break
                known[task.task_id] = found
                if task.type == WORKFLOW and len(task.task_id) > RUN_ID_MAX:
                    prefixes.append(child_id(task.task_id, "", 0).partition("~")[0])
            for place, event in enumerate(rows.events):
                events.setdefault(event.task_id, []).append(happening(event, place))
        return known, events, more

    def _live(self, task_id: str) -> list[Task]:
        """Live tasks below this one."""
        state, found = self.state(), []
        above = [TaskId(task_id)]
        while above:
            for child in state.indexes.children_of(above.pop()):
                found.append(state.tasks[child])
                above.append(child)
        return found

    async def _record(self, found: Found, events: Mapping[str, Sequence[Happening]]) -> TaskRecord:
        task, state = found.task, self.state()
        graph, nodes = nodes_of(task, state.runs.get(task.task_id))
        recorded = [call for step in found.steps if (call := await self._call(task, step)) is not None]
        mine = tuple(sorted(events.get(task.task_id, ()), key=lambda one: one.sequence))
        return TaskRecord(
            task=task,
            steps=tuple(found.steps),
            events=mine,
            calls=(*recorded, *_other_calls(state, task.task_id)),
            effects=tuple(_effects(state, task)),
            graph=graph,
            nodes=nodes,
        )

    async def _call(self, task: Task, step: Step) -> ModelCall | None:
        content = step.result.inline
        if step.result.sha256 and step.result.size_bytes <= BLOB_READ_MAX:
            try:
                content = await self.load(step.result)
            except ApiError:  # the history may outlive the blob
                return None
        return call_of(task, step, content)


def happening(row: LedgerEvent, place: int = 0) -> Happening:
    """An event of the ledger."""
    kept = log_pb2.LedgerEvent.FromString(row.record)
    where = (kept.node_id, kept.attempt, kept.detail, place)
    return Happening(kept.task_id, kept.sequence, kept.type, kept.at_ms, kept.index, *where)


def call_of(task: Task, step: Step, content: bytes) -> ModelCall | None:
    """The call of a model whose recorded answer a step is; None when it is something else."""
    if OBJECT.encode() not in content:
        return None
    try:
        answer: Any = json.loads(content)
        if answer["object"] != OBJECT:
            return None
        usage = answer["usage"]
        facts = (int(answer["call"]), str(answer["provider"]), str(answer["model"]))
        spent = (int(usage["tokens_in"]), int(usage["tokens_out"]), int(usage["micro_usd"]))
    except (ValueError, TypeError, KeyError):
        return None
    outcome = CACHED if answer.get("cached") else ANSWERED
    if step.at_ms < task.created_at_ms:
        outcome = TAKEN_OVER
    number, provider, model = facts
    return ModelCall(step.key, number, step.attempt, provider, model, outcome, step.at_ms, *spent)


def _other_calls(state: ClusterState, task_id: TaskId) -> Iterable[ModelCall]:
    """Calls without a recorded answer: in the air, or in doubt."""
    for call in state.llm.calls.get(task_id, ()):
        if call.open:
            facts = (call.attempt, call.provider, call.model, OPEN, call.begun_at_ms)
            yield ModelCall(call.key, call.number, *facts)
    for doubt in state.llm.doubtful.values():
        if doubt.task_id == task_id:
            facts = (doubt.attempt, doubt.provider, doubt.model, IN_DOUBT, doubt.at_ms)
            yield ModelCall(doubt.key, doubt.number, *facts, doubt.tokens, 0, doubt.micro_usd)


def _effects(state: ClusterState, task: Task) -> Iterable[Effect]:
    held = state.open_steps.get(task.task_id)
    for step in held.steps if held is not None else ():
        yield Effect(
            step.key, step.effect_key, step.attempt, state_of(task, step).name, step.at_ms, step.reason
        )
    for doubt in state.doubts.values():
        if doubt.task_id == task.task_id:
            said = Resolution(doubt.resolution).name
            why = f"{doubt.by}: {doubt.reason}".strip(": ")
            yield Effect(doubt.key, doubt.effect_key, doubt.attempt, said, doubt.at_ms, why)


def nodes_of(task: Task, run: Run | None) -> tuple[Graph | None, tuple[NodeRow, ...]]:
    """The graph of a run and how its nodes stand; nothing for any other task."""
    if task.type != WORKFLOW:
        return None, ()
    if run is not None:
        graph, rows = whole_graph(run), [row_of(record) for record in run.nodes.values()]
    else:
        try:
            graph, rows = graph_left_by(task)
        except ApiError:  # it ended as an older version left it
            return None, ()
    by_id = {row["id"]: row for row in rows}
    return graph, tuple(_node(node, by_id.get(node.node_id, {})) for node in graph.nodes)


def _node(node: GraphNode, row: Mapping[str, Any]) -> NodeRow:
    said = f"{row.get('code', '')}: {row.get('message', '')}".strip(": ")
    outcome = f"-> {row['outcome']}" if row.get("outcome") else ""
    return NodeRow(
        node.node_id,
        node.type.value,
        row.get("state", "PENDING"),
        tuple(edge.node for edge in node.depends_on),
        row.get("since_ms", 0),
        row.get("ended_at_ms", 0),
        row.get("tasks", 0),
        " ".join(part for part in (outcome, said) if part),
    )


def _holes(record: TaskRecord) -> int:
    """Events of a task that are missing here: their numbers are dense."""
    last = max((event.sequence for event in record.events), default=0)
    if record.task.state in TERMINAL:
        last = record.task.sequence
    return last - len(record.events)
