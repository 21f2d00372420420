"""Makes a history: from the ledger what has ended and happened, from the state what is live."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from coterie.core.decisions.nouns import Doubt, Resolution, state_of
from coterie.core.graph.model import Graph, GraphNode
from coterie.core.llm.nouns import DoubtfulCall
from coterie.core.nouns import Data, Step, Task, TaskId
from coterie.core.runs.outline import whole_graph
from coterie.core.runs.run import RUN_ID_MAX, WORKFLOW, Run, child_id
from coterie.core.runs.table import row_of
from coterie.core.state import ClusterState
from coterie.core.transitions import TERMINAL
from coterie.node import convert
from coterie.node.blob_errors import BlobError
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
from coterie.node.ledger.family import FamilyLimits
from coterie.node.llm.completion import OBJECT
from coterie.node.reads import Found, Reader
from coterie.node.turns import Turns
from coterie.node.workflows.runs import graph_left_by
from coterie.v1 import log_pb2

EVENTS_MAX = 20_000
RECORDS_BYTES_MAX = 32 << 20  # of all that is read for one history
CALLS_MAX = 2**31 - 1
NUMBER_MAX = 10**11  # tokens, or micro-USD, of one call: the sums of all that is read for a history fit
NAME_BYTES_MAX = 200
BLOB_READ_MAX = 1 << 20  # a recorded answer of a model that is larger is not looked into
Read = Callable[[str], AsyncIterator[bytes]]
OfTask = TypeVar("OfTask", DoubtfulCall, Doubt)


@dataclass(slots=True)
class Budget:
    """What may still be read for one history. `more`: something was left out."""

    tasks: int
    events: int
    size: int  # bytes
    more: bool = False

    @property
    def limits(self) -> FamilyLimits:
        return FamilyLimits(self.tasks, self.events, self.size)

    def take(self, size: int) -> bool:
        """Whether so many bytes may still be read."""
        fits = size <= self.size
        self.size, self.more = self.size - size if fits else self.size, self.more or not fits
        return fits


@dataclass(frozen=True, slots=True)
class Family:
    """A task, then those below it; undecoded events by task, with their places; doubts by task."""

    tasks: Mapping[str, Found]
    rows: Mapping[str, Sequence[tuple[int, LedgerEvent]]]
    doubtful: Mapping[str, Sequence[DoubtfulCall]]
    doubts: Mapping[str, Sequence[Doubt]]


@dataclass(frozen=True, slots=True)
class Historian:
    """Answers from one node; what it has not yet is a hole in the history, and is counted. `read`: the
    content of a blob, wherever it is."""

    state: Callable[[], ClusterState]
    reader: Reader
    ledger: Ledger
    read: Read
    bytes_max: int = RECORDS_BYTES_MAX

    async def of(self, task_id: TaskId, timeout_s: float, tasks_max: int) -> History:
        """Raises ApiError NOT_FOUND where the caller sees no such task."""
        root, turns = await self.reader.get(task_id, timeout_s), Turns()
        budget = Budget(tasks_max, EVENTS_MAX, self.bytes_max)
        family = await self._family(root, budget, turns)
        records = [await self._record(found, family, budget, turns) for found in family.tasks.values()]
        holes = 0 if budget.more else sum(_holes(record) for record in records)
        return History(records[0], tuple(records[1:]), budget.more, holes)

    async def _family(self, root: Found, budget: Budget, turns: Turns) -> Family:
        """Those below it by their parents, not by their names alone: anybody may choose a name."""
        known: dict[str, Found] = {root.task.task_id: root}
        events: dict[str, list[tuple[int, LedgerEvent]]] = {}
        prefixes = [str(root.task.task_id)]
        while prefixes:
            prefix = prefixes.pop()
            for found in await self._below(prefix, events, budget, turns):
                task = found.task
                if task.parent_id not in known or task.tenant != root.task.tenant or task.task_id in known:
                    continue
                if not budget.tasks:
                    budget.more = True
                    break
                known[task.task_id] = found
                budget.tasks -= 1
                if task.type == WORKFLOW and len(task.task_id) > RUN_ID_MAX:
                    prefixes.append(child_id(task.task_id, "", 0).partition("~")[0])
        state = self.state()
        return Family(known, events, _by_task(state.llm.doubtful.values()), _by_task(state.doubts.values()))

    async def _below(
        self, prefix: str, events: dict[str, list[tuple[int, LedgerEvent]]], budget: Budget, turns: Turns
    ) -> list[Found]:
        """Tasks whose ids or parents say that they are below one, in the order of their submission."""
        rows = await self.ledger.family(prefix, budget.limits)
        budget.events -= len(rows.events)
        budget.size -= rows.size
        budget.more = budget.more or rows.more
        found = []
        for row in rows.tasks:
            found.append(Found(*convert.read_finished(row.record)))
            await turns.take()
        for place, event in enumerate(rows.events):
            events.setdefault(event.task_id, []).append((place, event))
        live = self._live(prefix, budget)
        return sorted([*found, *live], key=lambda one: one.task.order)

    def _live(self, task_id: str, budget: Budget) -> list[Found]:
        """Live tasks below this one, those near to it first."""
        state, found = self.state(), list[Found]()
        above = deque([TaskId(task_id)])
        while above:
            for child in state.indexes.children_of(above.popleft()):
                if len(found) >= budget.tasks:
                    budget.more = True
                    return found
                found.append(Found(state.tasks[child], state.steps.get(child, ())))
                above.append(child)
        return found

    async def _record(self, found: Found, family: Family, budget: Budget, turns: Turns) -> TaskRecord:
        task, state = found.task, self.state()
        graph, nodes = nodes_of(task, state.runs.get(task.task_id))
        doubtful, doubts = family.doubtful.get(task.task_id, ()), family.doubts.get(task.task_id, ())
        open_calls = tuple(_other_calls(state, task.task_id, doubtful))
        effects = tuple(_effects(state, task, doubts))
        recorded, mine = list[ModelCall](), list[Happening]()
        for step in found.steps:
            call = await self._call(task, step, budget)
            recorded += [call] if call is not None else []
            await turns.take()
        for place, row in family.rows.get(task.task_id, ()):
            mine.append(happening(row, place))
            await turns.take()
        return TaskRecord(
            task=task,
            steps=tuple(found.steps),
            events=tuple(sorted(mine, key=lambda one: one.sequence)),
            calls=(*recorded, *open_calls),
            effects=effects,
            graph=graph,
            nodes=nodes,
        )

    async def _call(self, task: Task, step: Step, budget: Budget) -> ModelCall | None:
        content = step.result.inline
        if step.result.sha256 and step.result.size_bytes <= BLOB_READ_MAX:
            if not budget.take(step.result.size_bytes):
                return None
            content = await self._blob(step.result)
        return call_of(task, step, content)

    async def _blob(self, data: Data) -> bytes:
        """Nothing where it cannot be had: the history may outlive the blob."""
        content = bytearray()
        try:
            async for part in self.read(data.sha256):
                content += part
                if len(content) > data.size_bytes:
                    return b""
        except (ApiError, BlobError):
            return b""
        return bytes(content) if hashlib.sha256(content).hexdigest() == data.sha256 else b""


def _by_task(doubts: Iterable[OfTask]) -> dict[str, list[OfTask]]:
    found: dict[str, list[OfTask]] = {}
    for doubt in doubts:
        found.setdefault(doubt.task_id, []).append(doubt)
    return found


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
        facts = (_number(answer["call"], CALLS_MAX), _name(answer["provider"]), _name(answer["model"]))
        tokens = (_number(usage["tokens_in"]), _number(usage["tokens_out"]))
        spent = (*tokens, _number(usage["micro_usd"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    outcome = CACHED if answer.get("cached") else ANSWERED
    if step.at_ms < task.created_at_ms:
        outcome = TAKEN_OVER
    number, provider, model = facts
    return ModelCall(step.key, number, step.attempt, provider, model, outcome, step.at_ms, *spent)


def _number(value: object, most: int = NUMBER_MAX) -> int:
    """Raises ValueError for what no call has: a skill may record what only looks like an answer."""
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no number of a call")
    return value


def _name(value: object) -> str:
    """Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no name")
    return value.encode()[:NAME_BYTES_MAX].decode(errors="ignore")


def _other_calls(
    state: ClusterState, task_id: TaskId, doubtful: Iterable[DoubtfulCall]
) -> Iterable[ModelCall]:
    """Calls without a recorded answer: in the air, or in doubt."""
    for call in state.llm.calls.get(task_id, ()):
        if call.open:
            facts = (call.attempt, call.provider, call.model, OPEN, call.begun_at_ms)
            yield ModelCall(call.key, call.number, *facts)
    for doubt in doubtful:
        facts = (doubt.attempt, doubt.provider, doubt.model, IN_DOUBT, doubt.at_ms)
        yield ModelCall(doubt.key, doubt.number, *facts, doubt.tokens, 0, doubt.micro_usd)


def _effects(state: ClusterState, task: Task, doubts: Iterable[Doubt]) -> Iterable[Effect]:
    held = state.open_steps.get(task.task_id)
    for step in held.steps if held is not None else ():
        yield Effect(
            step.key, step.effect_key, step.attempt, state_of(task, step).name, step.at_ms, step.reason
        )
    for doubt in doubts:
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
