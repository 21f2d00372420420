"""Bugs of the task level planted on purpose, to see that the cluster simulation finds them. They exist in
this file only: each replaces one function of the product, or of the shells, for the length of a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from coterie.core import lifecycle, retry_rules, submit_rules, task_rules
from coterie.core.commands import (
    Accepted,
    AssignTask,
    FinishTask,
    Outcome,
    RecordStep,
    Rejected,
    SaveCheckpoint,
    SubmitTask,
)
from coterie.core.lifecycle import change_task
from coterie.core.machine import RULES
from coterie.core.nouns import NO_DATA, RetryPolicy, Step, Task, TaskId, TaskState, evolve
from coterie.core.state import ClusterState, Moment
from coterie.core.steplog import StepLog
from coterie.core.transitions import HELD
from coterie.raft import codec
from tests.checker.history import Told
from tests.sim.cluster.coordinator import SimCoordinator
from tests.sim.cluster.gateway import Reply, SimGateway
from tests.sim.cluster.job import SimJob
from tests.sim.cluster.run import Report, simulate
from tests.sim.cluster.worker import SimWorker
from tests.sim.raft.run import seeded_size

SIZES = [3, 5]


@dataclass(frozen=True, slots=True)
class Plant:
    """`patches`: (where, name, what to put there); a dict's entry is named by its key."""

    what: str
    patches: tuple[tuple[Any, Any, Any], ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for where, name, bug in self.patches:
                if isinstance(where, dict):
                    stack.enter_context(patch.dict(where, {name: bug}))
                else:
                    stack.enter_context(patch.object(where, name, bug))
            yield


def _unfenced(state: ClusterState, task_id: TaskId, attempt: int) -> Task | Rejected:
    task = state.tasks.get(task_id)
    if task is None:
        return lifecycle.no_task(state, task_id)
    return task if task.state in HELD else lifecycle.stale(task)


def _assign_anyway(state: ClusterState, command: AssignTask, moment: Moment) -> Outcome:
    """Does not look whether the task still waits for this assignment."""
    task, node = state.tasks.get(command.task_id), state.nodes.get(command.node_id)
    if task is None or node is None or node.incarnation != command.incarnation:
        return Rejected("STALE_ASSIGNMENT", "gone")
    if task.state is not TaskState.PENDING and task.state not in HELD:
        return Rejected("STALE_ASSIGNMENT", "not to be assigned")
    after = evolve(
        task,
        state=TaskState.SCHEDULED,
        node_id=node.node_id,
        incarnation=node.incarnation,
        attempt=command.attempt,
        start_at_ms=0,
    )
    waiting = evolve(task, state=TaskState.PENDING)
    change_task(state, task, waiting, moment, "released") if task.state in HELD else None
    change_task(state, state.tasks[task.task_id], after, moment, "assigned")
    return Accepted(task.task_id)


def _finish_again(state: ClusterState, command: FinishTask, moment: Moment) -> Outcome:
    """The last report of an end wins."""
    task = state.finished.get(command.task_id)
    if task is None:
        return task_rules.finish(state, command, moment)
    state.finished[task.task_id] = evolve(task, result=command.result, attempt=command.attempt)
    return Accepted(task.task_id)


def _release_though_cancelled(
    state: ClusterState, task: Task, reason: str, lost: bool, moment: Moment
) -> None:
    """Gives a cancelled task to the queue like any other."""
    after = evolve(lifecycle.to_queue(state, task), cancel_requested=False)
    change_task(state, task, after, moment, "released", reason)


def _progress_dropped(state: ClusterState, task: Task, **changes: object) -> Task:
    again = _to_queue(state, task, **changes)
    state.steps.pop(task.task_id, None)
    return evolve(again, step_count=0, checkpoint=NO_DATA, checkpoint_number=0)


def _checkpoint_back(state: ClusterState, command: SaveCheckpoint, moment: Moment) -> Outcome:
    """Takes every checkpoint, also a late copy of an older one; forgets to count."""
    task = state.tasks.get(command.task_id)
    if task is None or task.state not in HELD:
        return task_rules.save_checkpoint(state, command, moment)
    older = replace(command, number=max(1, command.number - 1))
    return task_rules.save_checkpoint(state, older, moment)


def _step_without_look(state: ClusterState, command: RecordStep, moment: Moment) -> Outcome:
    """A retried report of a step is counted again."""
    task = state.tasks.get(command.task_id)
    if task is not None:
        steps = state.steps.get(task.task_id, ())
        state.steps[task.task_id] = StepLog(step for step in steps if step.key != command.key)
    return task_rules.record_step(state, command, moment)


def _read_now(gateway: SimGateway, task_id: str, reply: Reply) -> None:
    gateway._process.later(10, lambda: reply(gateway.look(task_id), task_id))


def _ack_at_once(gateway: SimGateway, command: SubmitTask, reply: Reply) -> None:
    """Says yes before the cluster has."""
    gateway._process.proposer.propose([command], 550, lambda outcomes, tries: None)
    gateway._process.later(10, lambda: reply(Told.OK, command.task_id))


def _forgetful_image(state: ClusterState, tasks: Iterable[Task] | None = None) -> Iterator[bytes]:
    copy = state.copy()
    copy.requests.clear()
    return _encode_state(copy, tasks)


class _StateOfNow:
    """Not a copy: what is applied until the turn of a family comes is in it, or half in it."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._state, name)
        return value.copy() if isinstance(value, dict) else value


class _TasksOfNow:
    """The same for the live tasks."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state

    def __iter__(self) -> Iterator[Task]:
        return iter(list(self._state.tasks.values()))

    def close(self) -> None:
        """Nobody told it of changes."""


def _image_of_now(state: ClusterState) -> _TasksOfNow:
    return _TasksOfNow(state)


def _rest_of_now(state: ClusterState) -> _StateOfNow:
    return _StateOfNow(state)


def _own_dice(retry: RetryPolicy, failures: int, dice: int) -> int:
    """Not the dice of the command: every replica throws its own."""
    return 1 + next(_THROWS) % 97


def _nothing_recorded(worker: SimWorker, task: Task) -> Sequence[Step]:
    return ()


_THROWS = itertools.count()
_to_queue, _encode_state = lifecycle.to_queue, codec.encode_state

PLANTED: dict[str, Plant] = {
    "ack-at-once": Plant("acknowledges before the commit", ((SimGateway, "submit", _ack_at_once),)),
    "cancel-undone": Plant(
        "a cancelled task of a lost node runs again",
        ((retry_rules, "release_held", _release_though_cancelled),),
    ),
    "checkpoint-back": Plant(
        "an older number takes the place of a newer one", ((RULES, SaveCheckpoint, _checkpoint_back),)
    ),
    "double-complete": Plant("a second end replaces the first", ((RULES, FinishTask, _finish_again),)),
    "dropped-checkpoint": Plant(
        "a lost node's tasks begin anew", ((retry_rules, "to_queue", _progress_dropped),)
    ),
    "duplicate-effect": Plant("recorded steps run again", ((SimWorker, "recorded", _nothing_recorded),)),
    "forgetful-snapshot": Plant(
        "request ids are not in the image", ((codec, "encode_state", _forgetful_image),)
    ),
    "long-lease": Plant("skills run on without a lease", ((SimJob, "may_run", lambda job: True),)),
    "no-dedupe": Plant("request ids are not looked up", ((submit_rules, "answered", lambda *body: None),)),
    "no-fencing": Plant(
        "attempt numbers are not compared",
        ((lifecycle, "fenced", _unfenced), (task_rules, "fenced", _unfenced)),
    ),
    "own-dice": Plant("replicas throw their own dice", ((retry_rules, "backoff_ms", _own_dice),)),
    "running-image": Plant(
        "a snapshot of a state that moves on",
        (
            (ClusterState, "image_of_tasks", _image_of_now),
            (ClusterState, "copy_of_the_rest", _rest_of_now),
        ),
    ),
    "stale-assign": Plant("assignments are not compared", ((RULES, AssignTask, _assign_anyway),)),
    "stale-start": Plant(
        "a worker back from a cut starts by an old replica",
        (
            (SimWorker, "may_start", lambda worker: worker._process.lease.valid),
            (SimCoordinator, "may_lease", lambda coordinator, node_id: True),
        ),
    ),
    "stale-read": Plant("reads do not wait for the barrier", ((SimGateway, "read", _read_now),)),
    "step-again": Plant("a step recorded twice counts twice", ((RULES, RecordStep, _step_without_look),)),
}


def simulate_planted(sizes: list[int], plant: str, seed: int) -> Report:
    """One run with the planted bug of that name; without one when it is empty."""
    count = seeded_size(seed, sizes)
    if not plant:
        return simulate(seed, count)
    with PLANTED[plant].planted():
        return simulate(seed, count)


def find(name: str, cap: int) -> int | None:
    """The first seed below `cap` whose run notices the bug; None: it was not found."""
    return next((seed for seed in range(cap) if simulate_planted(SIZES, name, seed).violation), None)
