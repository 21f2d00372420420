"""What an entry means for runs: children that ended, signals, pauses that are over, cancellations."""

from __future__ import annotations

from coterie.core.lifecycle import change_task, settle
from coterie.core.nouns import Task, TaskError, TaskId, TaskState, evolve
from coterie.core.runs import endings
from coterie.core.runs.book import unreadable
from coterie.core.runs.outline import is_large
from coterie.core.runs.run import Phase, place_of
from coterie.core.runs.walk import Walk
from coterie.core.state import ClusterState, Moment


def follow_up(state: ClusterState, moment: Moment) -> None:
    """Until nothing is left of this entry; one by one, so that runs inside of runs cost no depth."""
    if state.run_index != moment.index:
        state.run_index, state.run_work = moment.index, 0
    while state.run_news or state.ended_parents:
        if state.ended_parents:
            settle(state, moment)
            continue
        run_id, what, child = state.run_news.popleft()
        if run_id not in state.runs or run_id not in state.tasks:
            continue
        wrong = _unreadable(state, run_id)
        if wrong:
            _give_up(state, run_id, moment, wrong)
        else:
            walk = Walk(state, run_id, moment)
            _visit(walk, what, child)
            state.run_work += walk.metered


def _unreadable(state: ClusterState, run_id: TaskId) -> str:
    """What is wrong with a large graph, at which nobody has looked yet; what is inside of one was read."""
    head, task = state.runs[run_id].head, state.tasks[run_id]
    unread = head.phase is Phase.NEW and is_large(head.graph) and task.parent_id not in state.runs
    return unreadable(head.graph, task.payload) if unread else ""


def _give_up(state: ClusterState, run_id: TaskId, moment: Moment, wrong: str) -> None:
    task = endings.lift_pause(state, state.tasks[run_id], moment, wrong)
    error = TaskError("BAD_WORKFLOW", wrong, retryable=False)
    change_task(state, task, evolve(task, state=TaskState.FAILED, error=error), moment, "failed", wrong)


def _visit(walk: Walk, what: str, child: Task | None) -> None:
    if what == "ended" and child is not None:
        place = place_of(walk.run_id, child.task_id)
        if place is not None:
            walk.child_ended(child, *place)
    elif what == "cancel":
        _stop(walk, TaskState.CANCELLED, "CANCELLED", walk.task.cancel_reason)
    elif what == "deadline" and walk.is_settled:
        walk.go_on()  # all was done in time: only its outputs had to wait for an entry
    elif what == "deadline":
        _stop(walk, TaskState.TIMED_OUT, "DEADLINE", "the run's deadline passed")
    elif what in ("begin", "tick"):
        walk.tick()
    elif what == "grown":
        walk.decide_all()
    else:
        walk.revisit()


def _stop(walk: Walk, ends_as: TaskState, code: str, message: str) -> None:
    """A pause holds up what is ending already no longer: it is cancelled, or out of time."""
    if walk.run.head.phase is Phase.NEW:
        walk.head(phase=Phase.GOING)
    elif walk.run.head.phase is not Phase.GOING:
        endings.lift_pause(walk.state, walk.task, walk.moment, message)
    endings.begin_ending(walk, ends_as, code, message)
    walk.go_on()
