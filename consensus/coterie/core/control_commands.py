"""What people and other tasks do to a task. With a `request_id` a command is done once: see `request_ids`;
`digest` tells a repeated one from another one with the same id."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.nouns import NO_DATA, Data, TaskId


@dataclass(frozen=True, slots=True)
class CancelTask:
    task_id: TaskId
    reason: str = ""
    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class PauseTask:
    """A queued or waiting task stops where it is; a running one at its next completed step."""

    task_id: TaskId
    reason: str = ""
    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class ResumeTask:
    task_id: TaskId
    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class SignalTask:
    """Tell a task something; one that is suspended on it goes on."""

    task_id: TaskId
    name: str
    payload: Data = NO_DATA
    signal_id: str = ""
    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class RetryTask:
    """Do not wait for the back-off or the start time: queue the task now."""

    task_id: TaskId
    request_id: str = ""
    digest: bytes = b""
