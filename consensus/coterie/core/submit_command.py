"""The command that makes a task: a part of its own, because other commands carry one."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.nouns import NO_CONSTRAINTS, NO_PARENT, Constraints, Data, Label, RetryPolicy, Step, TaskId


@dataclass(frozen=True, slots=True)
class SubmitTask:
    task_id: TaskId
    tenant: str
    type: str
    payload: Data
    priority: int
    retry: RetryPolicy
    request_id: str = ""
    digest: bytes = b""  # of the request's body: tells a retry from a reuse of its id
    attempt_timeout_ms: int = 0
    deadline_after_ms: int = 0
    start_delay_ms: int = 0
    checkpointing: bool = True
    labels: tuple[Label, ...] = ()
    constraints: Constraints = NO_CONSTRAINTS
    key: str = ""
    agent: str = ""
    parent_id: TaskId = NO_PARENT
    retry_of: TaskId = NO_PARENT
    steps: tuple[Step, ...] = ()  # completed by the run this one repeats: not run again
    forked_from: str = ""  # `TASK@point`, where the steps are those up to that point
