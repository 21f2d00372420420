"""The life of a task as data. Only these transitions commit; the diagram in the docs is drawn from here."""

from __future__ import annotations

from coterie.core.nouns import TaskState

S = TaskState

TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    S.PENDING: frozenset({S.SCHEDULED, S.PAUSED, S.CANCELLED, S.TIMED_OUT}),
    S.SCHEDULED: frozenset(
        {
            S.RUNNING,
            S.PAUSED,
            S.PENDING,
            S.SUCCEEDED,
            S.FAILED,
            S.CANCELLED,
            S.TIMED_OUT,
            S.DEAD_LETTERED,
        }
    ),
    S.RUNNING: frozenset(
        {
            S.WAITING,
            S.PAUSED,
            S.PENDING,
            S.SUCCEEDED,
            S.FAILED,
            S.CANCELLED,
            S.TIMED_OUT,
            S.DEAD_LETTERED,
        }
    ),
    # A run of a workflow never runs anywhere itself: it waits for its nodes, and ends.
    S.WAITING: frozenset({S.PENDING, S.PAUSED, S.SUCCEEDED, S.FAILED, S.CANCELLED, S.TIMED_OUT}),
    S.PAUSED: frozenset({S.PENDING, S.WAITING, S.CANCELLED, S.TIMED_OUT}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
    S.TIMED_OUT: frozenset(),
    S.DEAD_LETTERED: frozenset(),
}

TERMINAL = frozenset(state for state, after in TRANSITIONS.items() if not after)
HELD = frozenset({S.SCHEDULED, S.RUNNING})  # a node holds the task


def is_legal(before: TaskState, after: TaskState) -> bool:
    """Whether a task may go from `before` to `after`; staying where it is is always legal unless terminal."""
    return after in TRANSITIONS[before] or (before == after and before not in TERMINAL)


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> PENDING"]
    for before, afters in TRANSITIONS.items():
        lines += [f"    {before.name} --> {after.name}" for after in sorted(afters)]
        if not afters:
            lines.append(f"    {before.name} --> [*]")
    return "\n".join(lines)
