"""Commands of a task about its children."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.nouns import TaskId
from coterie.core.submit_command import SubmitTask


@dataclass(frozen=True, slots=True)
class SpawnChild:
    """A running task asks for another one, which belongs to it. Asked again, it is the same child."""

    attempt: int  # of the parent, `task.parent_id`
    group: str  # what the parent waits for together
    place: int  # in the group, from 0: children begin in their order, without gaps
    task: SubmitTask  # its digest is that of type and payload


@dataclass(frozen=True, slots=True)
class CancelChildren:
    """End what is still open of a group."""

    parent_id: TaskId
    attempt: int
    group: str
    reason: str = ""
