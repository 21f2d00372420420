"""The replicated state: what is live, and no more. Only `machine.apply` changes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.core.indexes import TaskIndexes
from coterie.core.nouns import (
    ADDED,
    Anchor,
    Data,
    Event,
    Node,
    NodeId,
    Policy,
    Request,
    Step,
    Task,
    TaskId,
    evolve,
)
from coterie.core.transitions import TERMINAL, is_legal

FORMAT = 1  # of the state's meaning; raised together by all nodes when apply changes its mind


@dataclass(frozen=True)  # no slots: see evolve
class Meta:
    """The scalars of the state."""

    cluster_id: str = ""
    cluster_name: str = ""
    policy: Policy = field(default_factory=Policy)
    clock_ms: int = 0  # time of the newest entry; never goes back
    order: int = 0  # of the newest task
    finished_total: int = 0
    steps_total: int = 0
    finished_bytes: int = 0
    format: int = FORMAT
    lead_term: int = field(default=0, metadata=ADDED)  # of the newest coordinator


@dataclass(slots=True)
class ClusterState:
    """Everything the cluster has agreed on and still needs.

    Finished tasks stay for a while (`policy.finished_tasks_kept_max`); the ledgers have them all.
    Dicts keep insertion order, which is log order, so that eviction is the same everywhere."""

    meta: Meta = field(default_factory=Meta)
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    steps: dict[TaskId, tuple[Step, ...]] = field(default_factory=dict)
    finished: dict[TaskId, Task] = field(default_factory=dict)
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    anchors: dict[str, Anchor] = field(default_factory=dict)  # by session, oldest first
    indexes: TaskIndexes = field(default_factory=TaskIndexes, compare=False)
    outbox: list[Event] = field(default_factory=list, compare=False)  # drained by the shell per entry

    def task(self, task_id: TaskId) -> Task | None:
        """A live or recently finished task."""
        return self.tasks.get(task_id) or self.finished.get(task_id)

    def rebuild(self) -> None:
        """Derive the look-ups again, after a restore."""
        self.indexes = TaskIndexes.of(self.tasks.values())
        for task in self.finished.values():
            self.indexes.by_state[task.state] += 1

    def copy(self) -> ClusterState:
        """An image that stays as it is: records are frozen, only the dicts are copied."""
        return ClusterState(
            meta=self.meta,
            tasks=dict(self.tasks),
            steps=dict(self.steps),
            finished=dict(self.finished),
            nodes=dict(self.nodes),
            requests=dict(self.requests),
            anchors=dict(self.anchors),
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """When an entry stands: its index in the log and the leader's time."""

    index: int
    at_ms: int


def held(data: Data) -> int:
    """Inline bytes a record keeps in memory."""
    return len(data.inline)


def add_task(state: ClusterState, task: Task) -> None:
    state.tasks[task.task_id] = task
    state.indexes.add(task)


def change_task(
    state: ClusterState, before: Task, after: Task, moment: Moment, event: str, detail: str = ""
) -> Task:
    """Put `after` in the place of `before`, as one numbered event. The transition must be legal."""
    assert is_legal(before.state, after.state), f"{before.state.name} -> {after.state.name}"
    after = evolve(after, version=before.version + 1, sequence=before.sequence + 1)
    if after.state in TERMINAL:
        after = _finish(state, before, after, moment, event, detail)
    else:
        state.tasks[after.task_id] = after
        state.indexes.replace(before, after)
        state.outbox.append(Event(event, after, moment.index, moment.at_ms, detail))
    return after


def _finish(state: ClusterState, before: Task, after: Task, moment: Moment, event: str, detail: str) -> Task:
    after = evolve(after, finished_at_ms=moment.at_ms)
    del state.tasks[after.task_id]
    steps = state.steps.pop(after.task_id, ())
    state.indexes.replace(before, after)
    state.finished[after.task_id] = after
    state.meta = evolve(
        state.meta,
        finished_total=state.meta.finished_total + 1,
        finished_bytes=state.meta.finished_bytes + _kept_bytes(after),
    )
    state.outbox.append(Event(event, after, moment.index, moment.at_ms, detail, steps))
    _evict(state)
    return after


def _evict(state: ClusterState) -> None:
    """Forget the oldest finished tasks beyond the limits; the ledgers keep them."""
    policy, dropped = state.meta.policy, 0
    while state.finished and (
        len(state.finished) > policy.finished_tasks_kept_max
        or state.meta.finished_bytes - dropped > policy.finished_bytes_kept_max
    ):
        oldest = next(iter(state.finished))
        task = state.finished.pop(oldest)
        state.indexes.by_state[task.state] -= 1
        dropped += _kept_bytes(task)
    if dropped:
        state.meta = evolve(state.meta, finished_bytes=state.meta.finished_bytes - dropped)


def _kept_bytes(task: Task) -> int:
    return 1_000 + held(task.payload) + held(task.checkpoint) + held(task.result)
