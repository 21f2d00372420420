"""The errors a client program can meet, one class per thing it can do about them.

```
CoterieError
├── ConfigError              the Cluster(...) arguments, the environment or a config file are wrong
├── ClusterClosed            the Cluster was used outside of its `async with` block
├── WaitTimeout              your own timeout of wait() passed; the task goes on (also a TimeoutError)
├── NodeLost                 wait(failover=False): the task's node was lost; the task goes on elsewhere
├── SubmitErrors             submit_tasks(): some entries were refused, the others are submitted
├── ClusterError             the cluster answered with an error, or could not be reached
│   ├── InvalidRequest       .violations lists every (field, description) at once (also a ValueError)
│   ├── ResourceExhausted    a limit of the cluster; .retry_after says when to come back
│   │   └── QueueFull        too many pending tasks
│   ├── LockHeld             somebody else has the lock
│   ├── VersionMismatch      the key or schedule has changed; .version says to what (also Aborted)
│   ├── NotFound, AlreadyExists, FailedPrecondition, Aborted, OutOfRange, PermissionDenied
│   ├── DataLoss             a blob arrived damaged from every node
│   └── Unavailable          no node gave an answer in time; names each endpoint and its last error
├── LockLost                 a lock was lost while it was in use
└── TaskError                the task ended without a result; .task is the TaskInfo
    ├── TaskFailed, TaskCancelled, TaskTimedOut, TaskDeadLettered
```
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.client.models import TaskInfo


class CoterieError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(CoterieError, ValueError):
    """The arguments of Cluster, an environment variable or a config file cannot be used."""


class ClusterClosed(CoterieError):
    """The Cluster is not open: use it inside `async with Cluster(...) as c:`."""


class WaitTimeout(CoterieError, TimeoutError):
    """The timeout given to `wait` passed. The task itself goes on: wait again, or cancel it."""


class NodeLost(CoterieError):
    """The node that ran the task was lost while `wait(failover=False)` waited.

    The cluster runs the task again on another node all the same: `await job.wait()` follows it.
    """

    def __init__(self, message: str, task: TaskInfo) -> None:
        super().__init__(message)
        self.task = task


class ClusterError(CoterieError):
    """The cluster refused or failed a call.

    `code` is the gRPC status name ("INVALID_ARGUMENT"), `reason` the cluster's own word for it
    ("UNKNOWN_SKILL"; empty when there is none), `message` the sentence, `metadata` further facts,
    `retry_after` seconds until another try makes sense (None: the cluster did not say).
    """

    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after = retry_after

    def __str__(self) -> str:
        label = f"{self.code}/{self.reason}" if self.reason else self.code
        return f"{label}: {self.message}"


class InvalidRequest(ClusterError, ValueError):
    """The request is wrong in itself: retrying cannot help.

    `violations` holds every (field, description) found, not only the first one.
    """

    code = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[tuple[str, str]] = (),
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, reason=reason, metadata=metadata, retry_after=retry_after)
        self.violations: list[tuple[str, str]] = list(violations)

    def __str__(self) -> str:
        unsaid = [
            f"{field}: {text}" if field else text
            for field, text in self.violations
            if text not in self.message
        ]
        return "; ".join([super().__str__(), *unsaid])


class ResourceExhausted(ClusterError):
    """A limit of the cluster was hit. `retry_after` (seconds), when known, says when to come back."""

    code = "RESOURCE_EXHAUSTED"


class QueueFull(ResourceExhausted):
    """The cluster, or this tenant, has too many pending tasks. Come back after `retry_after` seconds,
    or submit with `wait_when_full=True` to have the client do so, for `timeouts.call` at most."""


class NotFound(ClusterError):
    """No such task, node or blob."""

    code = "NOT_FOUND"


class AlreadyExists(ClusterError):
    """The task_id is taken by another request."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(ClusterError):
    """The thing is not in a state that allows this, e.g. cancelling a finished task."""

    code = "FAILED_PRECONDITION"


class Aborted(ClusterError):
    """Somebody else changed the thing first; read it again before you retry."""

    code = "ABORTED"


class OutOfRange(ClusterError):
    """A resume token or page token points at what the cluster no longer keeps."""

    code = "OUT_OF_RANGE"


class PermissionDenied(ClusterError):
    """This client may not do that: no or wrong credentials, or a role that does not allow it."""

    code = "PERMISSION_DENIED"


class DataLoss(ClusterError):
    """A blob came back with other bytes than were stored, from every node that was asked."""

    code = "DATA_LOSS"


class Unavailable(ClusterError):
    """No node gave an answer in time.

    A submit that ends so may or may not have been accepted: submit again with the same `request_id`
    (`error.request_id`) to find out without running the task twice. A change that is not safe to repeat is
    over with the first answer that is lost: the message then says that it may have been done, and where to
    look.
    `endpoints` maps every endpoint to the last error seen there.
    """

    code = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        endpoints: Mapping[str, str] | None = None,
        request_id: str = "",
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, reason=reason, metadata=metadata, retry_after=retry_after)
        self.endpoints: dict[str, str] = dict(endpoints or {})
        self.request_id = request_id

    def __str__(self) -> str:
        parts = [f"{address}: {error}" for address, error in self.endpoints.items()]
        return f"{super().__str__()} [{'; '.join(parts)}]" if parts else super().__str__()


class LockHeld(ClusterError):
    """Somebody else has the lock, and it was not free in time."""


class LockLost(CoterieError):
    """The lease of a lock ended while it was in use: somebody else may have had it meanwhile."""


class VersionMismatch(Aborted):
    """What was to be changed has another version than expected; `version` is the one it has."""

    @property
    def version(self) -> int:
        """0: it does not exist."""
        return int(self.metadata.get("version", "0"))


class SubmitErrors(CoterieError):
    """Some entries of `submit_tasks` were refused; all others are submitted and run.

    `errors` maps the index of each refused entry to its error, `jobs` has one item per entry
    (None where it was refused): the Jobs of the Cluster, asynchronous or not, that was called.
    """

    def __init__(self, errors: Mapping[int, CoterieError], jobs: Sequence[Any]) -> None:
        self.errors: dict[int, CoterieError] = dict(errors)
        self.jobs: list[Any] = list(jobs)
        shown = "; ".join(f"[{index}] {error}" for index, error in list(self.errors.items())[:10])
        more = f"; and {len(self.errors) - 10} more" if len(self.errors) > 10 else ""
        super().__init__(f"{len(self.errors)} of {len(self.jobs)} tasks were refused: {shown}{more}")


class TaskError(CoterieError):
    """A task ended without a result. `task` is its last state, `task.error` the cause."""

    def __init__(self, task: TaskInfo) -> None:
        self.task = task
        cause = f": {task.error.code}: {task.error.message}" if task.error else ""
        super().__init__(f"task {task.id} ({task.type}) is {task.state} after attempt {task.attempt}{cause}")


class TaskFailed(TaskError):
    """The skill failed with an error that a retry cannot mend."""


class TaskCancelled(TaskError):
    """Somebody cancelled the task."""


class TaskTimedOut(TaskError):
    """The task's deadline passed before it finished."""


class TaskDeadLettered(TaskError):
    """Every allowed attempt failed; the task waits for an operator in the dead-letter queue."""


def own_copy(error: CoterieError) -> CoterieError:
    """The same error as an object of its own, for one of several callers that share a failed call:
    raising adds a traceback to the object."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
