"""The exceptions that a skill may raise or meet; each says whose fault it is and whether a retry can help."""

from __future__ import annotations


class SkillError(Exception):
    """Base of the errors of this package. `code` is stable and machine-readable."""

    code = "SKILL_FAILED"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class NonRetryable(SkillError):
    """Raised by a skill: the task fails now, whatever attempts it has left."""

    code = "NON_RETRYABLE"


class BadInput(NonRetryable):
    """The payload is not what the skill takes; the caller must change it."""

    code = "BAD_INPUT"


class BadOutput(NonRetryable):
    """The result is not what the skill promises; the skill must be changed."""

    code = "BAD_OUTPUT"


class NotJson(NonRetryable):
    """A result, step result or checkpoint cannot be written as JSON."""

    code = "NOT_JSON"


class TooLarge(NonRetryable):
    """A result, step result or checkpoint is above its limit."""

    code = "TOO_LARGE"


class NotRecorded(SkillError):
    """The cluster did not confirm a step or checkpoint in time; the attempt may be retried."""

    code = "NOT_RECORDED"


class WaitTimedOut(NonRetryable, TimeoutError):
    """What `ctx.wait_signal` waited for did not come in time; a later attempt would meet the same."""

    code = "WAIT_TIMED_OUT"


class CallFailed(SkillError):
    """The node could not do what the run asked for, for now; the attempt may be retried. `code` says what."""

    code = "CALL_FAILED"


class CallRefused(NonRetryable):
    """The node refuses what the run asked for, and would again. `code` says why."""

    code = "CALL_REFUSED"


class LockHeld(SkillError):
    """Another one has the lock, and it was not free in time; a later attempt may find it so."""

    code = "LOCK_HELD"


class LockLost(SkillError):
    """The lease of a lock ended while it was in use: somebody else may have had it meanwhile."""

    code = "LOCK_LOST"


class VersionMismatch(SkillError):
    """The key is not at the version that was expected: read it again."""

    code = "VERSION_MISMATCH"


class Fenced(SkillError):
    """This attempt was deposed: the task runs elsewhere under a higher attempt number. Stop at once."""

    code = "FENCED"


class Cancelled(SkillError):
    """The task was cancelled. A skill may raise it to agree; plain functions meet it in `ctx` calls."""

    code = "CANCELLED"


class TaskFailed(NonRetryable):
    """A child task ended without success; a later attempt would find the same. `task_id`, `state` (FAILED,
    CANCELLED, TIMED_OUT, DEAD_LETTERED), `child_code` and `child_message` are the child's."""

    code = "CHILD_FAILED"

    def __init__(self, task_id: str, state: str, child_code: str, child_message: str) -> None:
        super().__init__(f"child {task_id} ended as {state}: {child_code}: {child_message}")
        self.task_id, self.state = task_id, state
        self.child_code, self.child_message = child_code, child_message


class DeterminismError(NonRetryable):
    """An attempt went another way than an earlier one, so what the earlier one recorded does not fit it."""

    code = "NOT_DETERMINISTIC"

    @classmethod
    def of_steps(cls, place: int, recorded: str, asked: str | None, revision: str) -> DeterminismError:
        """This attempt goes another way than the one that recorded a step; `asked` None: it has ended."""
        does = "ends" if asked is None else f"asks for step {asked!r}"
        code = f"of revision {revision[:12]}" if revision else "of the files on this node's disk"
        return cls(
            f"this attempt {does} where an earlier one recorded step {recorded!r} (number {place} of its"
            f" steps); it runs the code {code}. Do not change code under tasks that are under way (tasks of a"
            " published skill keep their revision), and let what a run asks for depend on its input, on steps"
            " and on ctx.now, not on time, chance or the attempt"
        )

    @classmethod
    def of_children(cls, place: int, asked: str, recorded: str) -> DeterminismError:
        """The children of a gather differ."""
        return cls(
            f"at position {place} of its children this attempt asks for {asked}, an earlier one {recorded}; "
            "make children in an order and with payloads that do not depend on time, chance or the attempt,"
            " or compute those in a ctx.step"
        )


class InDoubt(NonRetryable):
    """An earlier attempt began an effect, nobody knows whether it happened, and it may not be tried again."""

    code = "IN_DOUBT"


class NotDone(SkillError):
    """Raised by the function of an effect: it has certainly not happened, so that it may be tried again."""

    code = "NOT_DONE"
