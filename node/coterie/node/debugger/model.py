"""A history as plain values: what the ledger and the state say of one task and of all below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coterie.core.graph.model import Graph
from coterie.core.nouns import Step, Task
from coterie.core.transitions import TERMINAL

ENDS = frozenset(state.name.lower() for state in TERMINAL)
LET_GO = ENDS | {"released", "retry", "waiting", "paused"}  # events after which no attempt holds the task
ANSWERED, OPEN, IN_DOUBT, CACHED, TAKEN_OVER = "answered", "open", "in doubt", "cached", "taken over"


@dataclass(frozen=True, slots=True)
class Happening:
    """One event; `index` is that of the log entry that caused it, `place` its own among all."""

    task_id: str
    sequence: int
    type: str
    at_ms: int
    index: int
    node: str = ""
    attempt: int = 0
    detail: str = ""
    place: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """From the assignment to the event by which the node let go of it. Times are 0 for what was not."""

    number: int
    node: str
    assigned_ms: int
    started_ms: int = 0
    ended_ms: int = 0
    end: str = ""  # the event's type; empty: it goes on
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A call of a language model. `outcome`: answered, open, in doubt, cached (not paid again), or taken over
    from the run that this one goes on from (paid there)."""

    step: str
    number: int
    attempt: int
    provider: str
    model: str
    outcome: str
    at_ms: int
    tokens_in: int = 0
    tokens_out: int = 0
    micro_usd: int = 0

    @property
    def paid(self) -> bool:
        """Whether this task pays for it."""
        return self.outcome in (ANSWERED, IN_DOUBT)


@dataclass(frozen=True, slots=True)
class Effect:
    """A step that had its intent recorded: open, or in doubt until somebody or its policy resolved it."""

    step: str
    key: str
    attempt: int
    state: str
    at_ms: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node of a run, as it stands."""

    node_id: str
    type: str
    state: str
    after: tuple[str, ...]
    since_ms: int
    ended_ms: int
    tasks: int
    why: str


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task."""

    task: Task
    steps: tuple[Step, ...] = ()
    events: tuple[Happening, ...] = ()
    calls: tuple[ModelCall, ...] = ()
    effects: tuple[Effect, ...] = ()
    graph: Graph | None = None  # of a run
    nodes: tuple[NodeRow, ...] = ()

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """In their order."""
        return attempts_of(self.events)

    @property
    def taken_over(self) -> tuple[Step, ...]:
        """Steps that an earlier task completed."""
        return tuple(step for step in self.steps if step.at_ms < self.task.created_at_ms)


@dataclass(frozen=True, slots=True)
class History:
    """A task, what is below it in the order in which it was submitted, and what is missing here."""

    root: TaskRecord
    below: tuple[TaskRecord, ...] = ()
    truncated: bool = False  # more tasks or events than were asked for
    holes: int = 0  # events that are not in the ledger of this node

    @property
    def records(self) -> tuple[TaskRecord, ...]:
        return (self.root, *self.below)

    @property
    def timeline(self) -> list[Happening]:
        """All events, in the order of the log."""
        events = (one for record in self.records for one in record.events)
        return sorted(events, key=lambda one: (one.index, one.place))

    @property
    def paid(self) -> tuple[int, int, int, int]:
        """Calls of models, tokens in, tokens out, micro-USD: what these tasks pay for."""
        calls = [call for record in self.records for call in record.calls if call.paid]
        return (
            len(calls),
            sum(call.tokens_in for call in calls),
            sum(call.tokens_out for call in calls),
            sum(call.micro_usd for call in calls),
        )

    def short(self, task_id: str) -> str:
        """The id within this history: `draft~0` of `run~draft~0`."""
        prefix = f"{self.root.task.task_id}~"
        return task_id.removeprefix(prefix) if task_id.startswith(prefix) else task_id


def attempts_of(events: tuple[Happening, ...]) -> tuple[Attempt, ...]:
    """The attempts that events tell of."""
    found: list[dict[str, Any]] = []
    for event in events:
        if event.type == "assigned":
            found.append({"number": event.attempt, "node": event.node, "assigned_ms": event.at_ms})
        elif found and "end" not in found[-1]:
            if event.type == "started":
                found[-1]["started_ms"] = event.at_ms
            elif event.type in LET_GO:
                found[-1] |= {"ended_ms": event.at_ms, "end": event.type, "detail": event.detail}
    return tuple(Attempt(**one) for one in found)
