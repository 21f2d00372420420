"""A history replayed: the states of a task, and of the nodes of a run, recomputed from the events alone, one
event after the other, and compared in the end with what was recorded of the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from coterie.core.nouns import TaskId, TaskState
from coterie.core.runs.run import WORKFLOW, place_of
from coterie.core.transitions import TERMINAL, is_legal
from coterie.node.debugger.model import Happening, History
from coterie.node.debugger.timeline import relative
from coterie.node.debugger.words import count, said

_STATES = {
    "submitted": TaskState.PENDING,
    "assigned": TaskState.SCHEDULED,
    "started": TaskState.RUNNING,
    "released": TaskState.PENDING,
    "retry": TaskState.PENDING,
    "waiting": TaskState.WAITING,
    "paused": TaskState.PAUSED,
    **{state.name.lower(): state for state in TERMINAL},
}


@dataclass(slots=True)
class Refold:
    """Where things stand after the events so far. `faults`: events that cannot have followed one another."""

    history: History
    tasks: dict[str, TaskState] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)  # of the root, when it is a run
    steps: dict[str, int] = field(default_factory=dict)  # recorded, by task
    faults: list[str] = field(default_factory=list)
    runs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        records = self.history.records
        self.runs = frozenset(one.task.task_id for one in records if one.task.type == WORKFLOW)

    def take(self, event: Happening) -> list[str]:
        """What it changed, in words; nothing else is looked at, a run may have thousands of nodes."""
        before = self.tasks.get(event.task_id)
        after = self._after(event, before)
        if before is not None and not is_legal(before, after):
            self._fault(event, f"{before.name} is not followed by {after.name}")
        if before is None and event.type != "submitted" and not self.history.holes:
            self._fault(event, "it was never submitted")
        self.tasks[event.task_id] = after
        if event.type in ("step", "emitted", "step_resolved"):
            self.steps[event.task_id] = self.steps.get(event.task_id, 0) + 1
        changed = [] if before is after else [f"{before.name if before else 'nothing'} -> {after.name}"]
        node_id = self._node_of(event)
        node_before = self.nodes.get(node_id)
        self._node(event)
        if self.nodes.get(node_id) != node_before:
            changed.append(f"node {node_id} {self.nodes[node_id]}")
        return changed

    def _node_of(self, event: Happening) -> str:
        """The node of the root that an event may change; empty: none."""
        root = self.history.root.task.task_id
        if event.task_id == root:
            return event.detail.partition(" ")[0] if event.type == "node" else event.detail
        place = place_of(root, TaskId(event.task_id))
        return place[0] if place is not None else ""

    def _after(self, event: Happening, before: TaskState | None) -> TaskState:
        """The state that an event leads to; most leave it as it is."""
        is_run = event.task_id in self.runs
        if event.type == "submitted" and is_run:
            return TaskState.WAITING
        if event.type in ("woken", "resumed"):
            if is_run or before is TaskState.RUNNING:
                return TaskState.WAITING if is_run else TaskState.RUNNING
            return before if before is TaskState.PAUSED and event.type == "woken" else TaskState.PENDING
        return _STATES.get(event.type, before or TaskState.PENDING)

    def _node(self, event: Happening) -> None:
        root = self.history.root
        if root.graph is None:
            return
        if event.task_id != root.task.task_id:
            place = place_of(root.task.task_id, TaskId(event.task_id))
            if place is not None and event.type == "submitted":
                self.nodes.setdefault(place[0], "RUNNING")
        elif event.type == "step" and "~" not in event.detail:
            self.nodes[event.detail] = "SUCCEEDED"
        elif event.type == "node":
            node_id, _, rest = event.detail.partition(" ")
            self.nodes[node_id] = rest.partition(":")[0]

    def _fault(self, event: Happening, text: str) -> None:
        self.faults.append(
            f"{self.history.short(event.task_id)}, event {event.sequence} {event.type}: {text}"
        )

    def differences(self) -> list[str]:
        """Between what the events say and what is recorded of the end."""
        found = list(self.faults)
        for record in self.history.records:
            task, name = record.task, self.history.short(record.task.task_id)
            folded = self.tasks.get(task.task_id)
            if folded is not None and task.state in TERMINAL and folded is not task.state:
                found.append(f"{name}: its events end as {folded.name}, recorded is {task.state.name}")
        taken = {step.key for step in self.history.root.taken_over}
        for row in self.history.root.nodes if self.history.root.task.state in TERMINAL else ():
            folded_node = "SUCCEEDED" if row.node_id in taken else self.nodes.get(row.node_id, "")
            if row.state in ("SUCCEEDED", "FAILED") and folded_node != row.state:
                found.append(
                    f"node {row.node_id}: its events say {folded_node or 'nothing'}, recorded is {row.state}"
                )
        return found


def replay_of(history: History, until: int = 0) -> str:
    """One line for each event, with what it changed; `until` ends after so many of them."""
    return "\n".join(_lines(history, until)) + "\n"


def _lines(history: History, until: int) -> Iterator[str]:
    refold, events = Refold(history), history.timeline
    start = history.root.task.created_at_ms
    for number, event in enumerate(events[: until or None], 1):
        changed = "; ".join(refold.take(event))
        who = history.short(event.task_id)
        at = relative(event.at_ms, start)
        yield f"{number:>5}  @{event.index}  {at}  {who}: {said(event)}{f'  [{changed}]' if changed else ''}"
    yield ""
    if until and until < len(events):
        yield f"after {until} of {count(len(events), 'event')}:"
        yield from _standing(refold)
        return
    found = refold.differences()
    if history.holes or history.truncated:
        yield "parts of the history are missing here: nothing was compared"
    elif found:
        yield f"the events and what was recorded differ: {found[0]}"
        yield from (f"  also {one}" for one in found[1:20])
    else:
        yield f"{count(len(events), 'event')} replayed: every state follows from them, as it was recorded"


def _standing(refold: Refold) -> Iterator[str]:
    for task_id, state in refold.tasks.items():
        steps = refold.steps.get(task_id, 0)
        yield f"  {refold.history.short(task_id)}: {state.name}, {count(steps, 'step')} recorded"
    for name, node_state in refold.nodes.items():
        yield f"  node {name}: {node_state}"
