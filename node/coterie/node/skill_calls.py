"""What a running skill may ask of its node (`Link.call`): a table from names to handlers.

Each area brings one module with its handlers; `wiring.skill_calls` joins them. A handler gets the run that
asks and the JSON arguments, and returns what the skill's call returns. The arguments come from a process that
is not trusted.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc

from coterie.core.commands import Command, Outcome
from coterie.core.nouns import Data, Signal, Task, TaskId
from coterie.core.state import ClusterState
from coterie.node.errors import BY_REPLICA, ApiError, from_exception
from coterie.node.skillhost.nouns import SkillWait, Suspended
from coterie.skills import CallFailed, CallRefused, SkillError
from coterie.skills.jsonio import encode

PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
    }
)
ANSWER_BYTES_MAX = 16 * 1024 * 1024
# The skill's own doing: it sees an error, and its attempt goes on.
STEP_FAULTS = frozenset({"TOO_MANY_STEPS", "TASK_TOO_LARGE", "BAD_STEP"})


class Run(Protocol):
    """The attempt that asks, as a handler sees it."""

    task_id: TaskId
    attempt: int

    @property
    def task(self) -> Task:
        """As it was assigned: tenant, payload, labels, deadlines."""

    @property
    def state(self) -> ClusterState:
        """This node's replica, now."""

    async def commit(self, command: Command) -> Outcome:
        """Until the log answers, however long: propose only what may be proposed twice."""

    async def commit_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """The same for several, in their order."""

    async def commit_own(self, command: Command) -> Outcome:
        """The same for a command that carries the attempt: raises Fenced where it is deposed."""

    async def await_signal(self, wait: SkillWait) -> Signal:
        """What came under that name. Raises Suspended where nothing has: the attempt ends, and a later one
        comes to this call again."""

    async def keep(self, content: bytes) -> Data:
        """Content for the log: inline, or a blob on a majority."""

    def step_recorded(self) -> None:
        """Told by a handler that recorded a step: a node that is being emptied lets go of the run here."""

    async def load(self, data: Data) -> bytes:
        """The content again."""


Handler = Callable[[Run, Any], Awaitable[Any]]
Handlers = Mapping[str, Handler]


async def answer(handlers: Handlers, run: Run, name: str, args: bytes) -> bytes:
    """Do what the skill asks for. Raises CallFailed, CallRefused, Fenced, Suspended."""
    handler = handlers.get(name)
    if handler is None:
        raise CallRefused(
            f"this node does not know the call {name!r}; is it of an older version?", code="UNKNOWN_CALL"
        )
    try:
        return encode(await handler(run, _decoded(name, args)), f"the answer to {name}", ANSWER_BYTES_MAX)
    except (SkillError, Suspended):
        raise
    except Exception as error:
        known = from_exception(error)
        kind = CallFailed if known.code in PASSING else CallRefused
        raise kind(known.message, code=known.reason) from error


def confirmed(handlers: Handlers, barrier: Callable[[], Awaitable[object]]) -> Handlers:
    """Handlers that look first and then commit. What they refuse for what this node has not heard of
    (BY_REPLICA) is looked at again when the replica is fresh, as in Reader.confirmed."""
    return {name: _confirmed(handler, barrier) for name, handler in handlers.items()}


def _confirmed(handler: Handler, barrier: Callable[[], Awaitable[object]]) -> Handler:
    async def twice(run: Run, args: Any) -> Any:
        try:
            return await handler(run, args)
        except ApiError as error:
            if error.reason not in BY_REPLICA:
                raise
        await barrier()
        return await handler(run, args)

    return twice


def refused(code: str, message: str) -> ApiError:
    """The call is wrong, and would be again."""
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, code, message)


def _decoded(name: str, args: bytes) -> Any:
    try:
        return json.loads(args)
    except (ValueError, RecursionError) as error:
        raise CallRefused(f"the arguments of {name} are not JSON: {error}", code="BAD_ARGUMENTS") from error
