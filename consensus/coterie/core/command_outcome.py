"""What became of a command: it holds, or it was refused."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.nouns import TaskId

NO_TASK = TaskId("")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command holds. `task_id` names the task it was about; `duplicate`: it already held before."""

    task_id: TaskId = NO_TASK
    duplicate: bool = False
    number: int = 0  # a token, a version, a position, a count: whatever the command gives out


@dataclass(frozen=True, slots=True)
class Rejected:
    """Refused, deterministically: every replica says the same. `code` is stable, `reason` is for people."""

    code: str
    reason: str
    retry_at_ms: int = 0  # of the cluster's clock: when trying again may help; 0: unknown


Outcome = Accepted | Rejected
