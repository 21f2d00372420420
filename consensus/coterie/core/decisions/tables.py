"""Changes of the tables of open steps and doubts."""

from __future__ import annotations

from coterie.core.decisions.nouns import (
    DOUBTS_MAX,
    TEXT_CHARS_MAX,
    Doubt,
    OpenStep,
    OpenSteps,
    Resolution,
    doubt_key,
)
from coterie.core.nouns import Task, TaskId, evolve
from coterie.core.state import ClusterState, Moment


def put_step(state: ClusterState, held: OpenSteps, step: OpenStep) -> None:
    """In its place, or at the end."""
    if held.find(step.key) is None:
        steps = (*held.steps, step)
    else:
        steps = tuple(step if known.key == step.key else known for known in held.steps)
    state.open_steps[held.task_id] = OpenSteps(held.task_id, steps)


def drop_step(state: ClusterState, task_id: TaskId, key: str) -> None:
    """It is open no more, if it was."""
    left = tuple(step for step in state.open_steps[task_id].steps if step.key != key)
    if left:
        state.open_steps[task_id] = OpenSteps(task_id, left)
    else:
        del state.open_steps[task_id]


def note_doubt(
    state: ClusterState,
    task: Task,
    step: OpenStep,
    resolution: Resolution,
    moment: Moment,
    by: str = "",
    reason: str = "",
) -> None:
    """Into the list, whose oldest leave when it is full."""
    doubt = Doubt(
        task.task_id,
        step.key,
        step.attempt,
        task.tenant,
        step.effect_key,
        step.at_ms,
        moment.at_ms,
        resolution,
        by[:TEXT_CHARS_MAX],
        reason[:TEXT_CHARS_MAX],
    )
    state.doubts[doubt_key(doubt)] = doubt
    while len(state.doubts) > DOUBTS_MAX:
        state.doubts.popitem(last=False)
    state.meta = evolve(state.meta, doubts_total=state.meta.doubts_total + 1)


def end_decisions(state: ClusterState, task: Task, moment: Moment) -> None:
    """The task has ended: what it had in the air stays in doubt for good, what it asked is not asked any
    more."""
    state.approvals.pop(task.task_id, None)
    held = state.open_steps.pop(task.task_id, None)
    for step in held.steps if held is not None else ():
        if not step.decision:  # else it is in the list already
            note_doubt(state, task, step, Resolution.ABANDONED, moment)
