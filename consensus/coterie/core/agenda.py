"""What a worker should start and stop: agenda(state, me, running). Level-triggered: it compares what the
state says with what runs, so missed wake-ups and replays are harmless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coterie.core.nouns import NodeId, Task, TaskId
from coterie.core.state import ClusterState


@dataclass(frozen=True, slots=True)
class Start:
    task: Task


@dataclass(frozen=True, slots=True)
class Stop:
    """The attempt is no longer ours: end it at once and report nothing."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody asked to cancel: end it politely if it runs, then confirm."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Somebody asked to pause: give it back after its next completed step, at once if it does not run yet."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Move:
    """Another node has more room for it: as Pause, and then it is queued again."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveBack:
    """This node is draining and has not begun the attempt. Only the node itself can know that it has not."""

    task_id: TaskId
    attempt: int


Action = Start | Stop | Cancel | Pause | Move | GiveBack


def agenda(state: ClusterState, me: NodeId, incarnation: int, running: Mapping[TaskId, int]) -> list[Action]:
    """`running` maps each task that runs here to its attempt. An assignment to an earlier incarnation of
    this node is not ours: registering released it, or will."""
    held, node = state.indexes.held_by(me), state.nodes.get(me)
    actions: list[Action] = [
        Stop(task_id, attempt) for task_id, attempt in running.items() if held.get(task_id) != attempt
    ]
    for task_id, attempt in held.items():
        task = state.tasks[task_id]
        if task.incarnation != incarnation:
            continue
        if task.cancel_requested:
            actions.append(Cancel(task_id, attempt))
        elif task.pause_requested:
            actions.append(Pause(task_id, attempt))
        elif task.move_attempt == attempt:
            actions.append(Move(task_id, attempt))
        elif running.get(task_id) != attempt:
            drains = node is not None and node.draining
            actions.append(GiveBack(task_id, attempt) if drains else Start(task))
    return actions
