"""Steps in the air: their intent, their end, and what is done when nobody knows how they ended."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.decisions.commands import BeginStep, ResolveStep, WithdrawStep
from coterie.core.decisions.nouns import (
    OPEN_STEPS_MAX,
    TEXT_CHARS_MAX,
    OnUnknown,
    OpenStep,
    OpenSteps,
    Resolution,
    StepState,
    state_of,
)
from coterie.core.decisions.tables import drop_step, note_doubt, put_step
from coterie.core.lifecycle import change_task, fenced, heard, no_task, wake_if_over
from coterie.core.nouns import ANYTHING, Step, Task
from coterie.core.shown import shown
from coterie.core.state import ClusterState, Moment
from coterie.core.task_rules import bad_key, complete_step


def begin(state: ClusterState, command: BeginStep, moment: Moment) -> Outcome:
    """`IN_DOUBT`: an earlier attempt began it, and this one may not call again of itself."""
    task = heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    log = state.steps.get(task.task_id)
    if log is not None and log.find(command.key) is not None:
        return Rejected("STEP_RECORDED", f"step {command.key} is completed")
    held = state.open_steps.get(task.task_id) or OpenSteps(task.task_id, ())
    known = held.find(command.key)
    if known is None:
        refused = bad_key(command.key)
        if refused is None and len(held.steps) >= OPEN_STEPS_MAX:
            refused = Rejected("TOO_MANY_STEPS", f"a task has at most {OPEN_STEPS_MAX} steps in the air")
        if refused is not None:
            return refused
        put_step(state, held, _intent(command, moment))
        change_task(state, task, task, moment, "step_begun", command.key)
        return Accepted(task.task_id)
    return _again(state, task, known, command, moment)


def _intent(command: BeginStep, moment: Moment) -> OpenStep:
    return OpenStep(command.key, command.attempt, moment.at_ms, command.effect_key, command.on_unknown)


def _again(state: ClusterState, task: Task, known: OpenStep, command: BeginStep, moment: Moment) -> Outcome:
    if known.effect_key != command.effect_key:
        before, now = shown(known.effect_key), shown(command.effect_key)
        text = f"step {command.key} was begun with key {before}, now it is {now}"
        return Rejected("NOT_DETERMINISTIC", text)
    if known.attempt == command.attempt:
        return Accepted(task.task_id, duplicate=True)
    decided = known.decision
    if decided != Resolution.RETRIED and (decided or command.on_unknown is not OnUnknown.RETRY):
        return Rejected(
            "IN_DOUBT", known.reason or f"attempt {known.attempt} began it and did not say how it ended"
        )
    if not decided:  # else it is in the list since the decision
        note_doubt(state, task, known, Resolution.RETRIED, moment)
    again = replace(_intent(command, moment), tries=known.tries + 1)
    put_step(state, state.open_steps[task.task_id], again)
    change_task(state, task, task, moment, "step_retried", command.key)
    return Accepted(task.task_id)


def withdraw(state: ClusterState, command: WithdrawStep, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    held = state.open_steps.get(task.task_id)
    known = held.find(command.key) if held is not None else None
    if known is None:
        return Accepted(task.task_id, duplicate=True)
    drop_step(state, task.task_id, command.key)
    change_task(state, task, task, moment, "step_withdrawn", command.key)
    return Accepted(task.task_id)


def resolve(state: ClusterState, command: ResolveStep, moment: Moment) -> Outcome:
    task = state.tasks.get(command.task_id)
    if task is None:
        return no_task(state, command.task_id)
    held = state.open_steps.get(task.task_id)
    known = held.find(command.key) if held is not None else None
    if held is None or known is None or state_of(task, known) is not StepState.IN_DOUBT:
        return Rejected("NOT_IN_DOUBT", f"step {shown(command.key)} of task {task.task_id} is not in doubt")
    if known.decision:
        said = "decided as " + Resolution(known.decision).name
        return _decided_before(task, known, command) or Rejected("NOT_IN_DOUBT", f"it is {said} already")
    if command.resolution is Resolution.ABANDONED:
        return Rejected("BAD_DECISION", "say DONE with a result, RETRIED or FAILED")
    if command.resolution is Resolution.DONE:
        step = Step(command.key, known.attempt, command.result, moment.at_ms, (ANYTHING,))
        refused = complete_step(state, task, step, moment, "step")
        if refused is not None:
            return refused
        task = state.tasks[task.task_id]
    else:
        reason = command.reason[:TEXT_CHARS_MAX]
        put_step(state, held, replace(known, decision=int(command.resolution), reason=reason))
    note_doubt(state, task, known, command.resolution, moment, command.principal, command.reason)
    detail = f"{command.key} {command.resolution.name} by {command.principal or 'somebody'}"
    task = change_task(state, task, task, moment, "step_resolved", detail)
    if task.wait is not None:
        wake_if_over(state, task, moment)
    return Accepted(task.task_id)


def _decided_before(task: Task, known: OpenStep, command: ResolveStep) -> Outcome | None:
    same = known.decision == command.resolution
    return Accepted(task.task_id, duplicate=True) if same else None
