"""How a run ends: success, failure, cancellation, compensation; and the table of its nodes that remains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coterie.core.graph.model import OnFailure
from coterie.core.graph.values import ValueFault
from coterie.core.lifecycle import change_task
from coterie.core.nouns import Data, Task, TaskError, TaskState, evolve
from coterie.core.runs import parts
from coterie.core.runs.run import NodeState, Phase
from coterie.core.runs.scope import inline, listed
from coterie.core.state import ClusterState, Moment

if TYPE_CHECKING:
    from coterie.core.runs.walk import Walk

LISTED_MAX = 20
FAILURES = frozenset({NodeState.FAILED, NodeState.CANCELLED})


def begin_ending(walk: Walk, ends_as: TaskState, code: str, message: str) -> None:
    """Nothing new begins, what is live is cancelled; when that has ended, the run does."""
    if walk.run.head.phase in (Phase.ENDING, Phase.UNDOING):
        return
    walk.head(phase=Phase.ENDING, ends_as=ends_as, code=code, message=message[:1_000])
    walk.book.timers.clear()
    for node_id, record in list(walk.run.nodes.items()):
        if record.live:
            walk.cancel_live(node_id, f"the run is ending: {message}"[:500])


def conclude(walk: Walk) -> None:
    """End the run if nothing is left to be done. Its outputs have to wait for the next entry when this one
    has done enough: very many runs may end in one."""
    phase, paused = walk.run.head.phase, walk.task.state is TaskState.PAUSED
    if walk.is_settled and not walk.is_spent:
        _complete(walk)  # what is live has been cancelled: enough others have answered
    elif phase in (Phase.ENDING, Phase.UNDOING) and not walk.book.live:
        held_up = paused and walk.run.head.ends_as is TaskState.FAILED
        if not held_up and phase is Phase.ENDING:
            _stopped(walk)
        elif not held_up:
            _undo_next(walk)


def lift_pause(state: ClusterState, task: Task, moment: Moment, why: str) -> Task:
    """The task of a run that may not stay paused: out of a pause it could not fail."""
    if task.state is not TaskState.PAUSED:
        return task
    after = evolve(task, state=TaskState.WAITING, pause_reason="")
    return change_task(state, task, after, moment, "resumed", why)


def _complete(walk: Walk) -> None:
    failed = [
        record.node_id
        for record in walk.run.nodes.values()
        if record.state in FAILURES and not walk.book.has_handler(record.node_id)
    ]
    if failed and walk.book.graph.on_failure is not OnFailure.CONTINUE:
        names = ", ".join(failed[:LISTED_MAX])
        _end(walk, TaskState.FAILED, TaskError("NODES_FAILED", f"failed: {names}", retryable=False))
        return
    try:
        result = _outputs(walk)
    except ValueFault as fault:
        _end(walk, TaskState.FAILED, TaskError(fault.code, f"outputs: {fault.text}", retryable=False))
        return
    _end(walk, TaskState.SUCCEEDED, None, result)


def _outputs(walk: Walk) -> Data:
    """What the workflow says its outputs are; else what the nodes gave on which nobody stands."""
    template = walk.book.graph.outputs
    if template:
        return walk.scope().filled(template, walk.meter)
    found: dict[str, Data] = {}
    for node in walk.book.sinks():
        step = walk.steps.find(node.node_id)
        if step is not None:
            found[node.variable] = step.result
    values = listed(found.values(), walk.meter)
    return inline(dict(zip(found, values, strict=True)), walk.meter)


def _stopped(walk: Walk) -> None:
    """Everything that ran has ended. Undo what had succeeded, the last first, if that is wanted."""
    if walk.book.graph.on_failure is OnFailure.COMPENSATE:
        done = [step.key for step in walk.steps if step.key in walk.book.undo_of]
        undo = tuple(walk.book.undo_of[node_id] for node_id in reversed(done))
        if undo:
            walk.head(phase=Phase.UNDOING, undo=undo)
            _undo_next(walk)
            return
    _end_as_said(walk)


def _undo_next(walk: Walk) -> None:
    """Until a task of it is live, or the entry has done enough: then the next goes on. Whoever is paused
    comes here only if that holds up nothing any more."""
    while walk.run.head.undo and not walk.book.live:
        if walk.is_spent:
            lift_pause(walk.state, walk.task, walk.moment, walk.run.head.message)
            return
        first, rest = walk.run.head.undo[0], walk.run.head.undo[1:]
        walk.head(undo=rest)
        walk.note_begun()
        parts.begin(walk, walk.book.nodes[first])
    if not walk.book.live:
        _end_as_said(walk)


def _end_as_said(walk: Walk) -> None:
    head = walk.run.head
    error = (
        None if head.ends_as is TaskState.CANCELLED else TaskError(head.code, head.message, retryable=False)
    )
    _end(walk, head.ends_as, error)


def _end(walk: Walk, state: TaskState, error: TaskError | None, result: Data | None = None) -> None:
    after = evolve(walk.task, state=state, error=error)
    if result is not None:
        after = evolve(after, result=result, percent_x100=10_000)
    message = error.message if error is not None else walk.task.cancel_reason
    change_task(walk.state, walk.task, after, walk.moment, state.name.lower(), message)
