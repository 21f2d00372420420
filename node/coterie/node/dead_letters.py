"""The DeadLetters service: what the cluster has given up, to look at, to run again, to throw away."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from coterie.core import commands
from coterie.core.nouns import DeadLetter, TaskId
from coterie.core.state import ClusterState
from coterie.node.admission import check_page_size, checked_tenant, request_id_faults, task_id_of
from coterie.node.control import Control
from coterie.node.errors import ApiError, Violation, from_rejection, invalid, not_found
from coterie.node.links import FRAME_BYTES_MAX
from coterie.node.reads import Found
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.security.principal import caller
from coterie.v1 import tasks_pb2, tasks_pb2_grpc

ANSWER_BYTES_MAX = FRAME_BYTES_MAX - 65_536
PAGE_BYTES_MAX = 3 << 20
NAMES_MAX = 1_000

Place = tuple[int, str]  # of a dead letter in the list: when it ended, its id


class DeadLettersService(tasks_pb2_grpc.DeadLettersServicer):
    """Any node answers, from its replica after a barrier."""

    def __init__(self, state: Callable[[], ClusterState], control: Control, gate: Gate) -> None:
        self._state, self._control, self.gate = state, control, gate

    @unary
    async def ListDeadLetters(
        self, request: tasks_pb2.ListDeadLettersRequest, context: Context
    ) -> tasks_pb2.ListDeadLettersResponse:
        tenant, limit = checked_tenant(request.parent), check_page_size(request.page_size)
        before = _place_of(request.page_token)
        await self._control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        state = self._state()
        letters = _newest_first(state, tenant, before)
        response = tasks_pb2.ListDeadLettersResponse(dropped=state.meta.dead_letters_dropped)
        size = 0
        for letter in letters[:limit]:
            task = self._control.reader.to_pb(Found(letter.task))
            size += task.ByteSize()
            if response.tasks and size > PAGE_BYTES_MAX:
                break
            response.tasks.append(task)
        if len(response.tasks) < len(letters):
            response.next_page_token = "{}.{}".format(*_place(letters[len(response.tasks) - 1]))
        return response

    @unary
    async def GetDeadLetter(
        self, request: tasks_pb2.GetDeadLetterRequest, context: Context
    ) -> tasks_pb2.Task:
        task_id = task_id_of(request.name)
        await self._control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        letter = self._letter(task_id)
        found = Found(letter.task, letter.steps)
        task = self._control.reader.to_pb(found, with_steps=True, with_payload=True)
        if task.ByteSize() > ANSWER_BYTES_MAX:
            text = f"{task.ByteSize()} bytes with its steps, the limit is {ANSWER_BYTES_MAX}; "
            text += "Tasks.GetTask shows it without, and Debugger.GetHistory lists them without their results"
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "TOO_LARGE", text)
        return task

    @unary
    async def ReplayDeadLetter(
        self, request: tasks_pb2.ReplayDeadLetterRequest, context: Context
    ) -> tasks_pb2.Task:
        task_id = task_id_of(request.name)
        if wrong := request_id_faults(request.request_id):
            raise invalid(wrong)
        await self._control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        keep, left = not request.discard_steps, propose_seconds(context)
        letter = self._state().dead_letters.get(task_id)
        if letter is None or not caller().sees(letter.task.tenant):
            await self._refuse_unless_answered(task_id, request.request_id, left)
        return await self._control.run_again(task_id, request.request_id, keep, left)

    @unary
    async def PurgeDeadLetters(
        self, request: tasks_pb2.PurgeDeadLettersRequest, context: Context
    ) -> tasks_pb2.PurgeDeadLettersResponse:
        command = _purge_command(request)
        await self._control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        before = frozenset(self._state().indexes.dead_of(command.tenant))
        outcome = await self._control.proposer.one(command, propose_seconds(context))
        if isinstance(outcome, commands.Rejected):
            raise from_rejection(outcome)
        return tasks_pb2.PurgeDeadLettersResponse(
            purged=len(before.difference(self._state().indexes.dead_of(command.tenant)))
        )

    async def _refuse_unless_answered(self, task_id: TaskId, request_id: str, timeout_s: float) -> None:
        """A letter that was replayed has left the list; the same request again gets the same answer."""
        found = await self._control.reader.get(task_id, timeout_s)
        if f"{found.task.tenant}/{request_id}" not in self._state().requests:
            raise not_found("DEAD_LETTER", task_id)

    def _letter(self, task_id: TaskId) -> DeadLetter:
        letter = self._state().dead_letters.get(task_id)
        if letter is None or not caller().sees(letter.task.tenant):
            raise not_found("DEAD_LETTER", task_id)
        return letter


def _place(letter: DeadLetter) -> Place:
    return letter.task.finished_at_ms, letter.task.task_id


def _newest_first(state: ClusterState, tenant: str, before: Place | None) -> list[DeadLetter]:
    letters = [state.dead_letters[task_id] for task_id in state.indexes.dead_of(tenant)]
    wanted = [letter for letter in letters if before is None or _place(letter) < before]
    return sorted(wanted, key=_place, reverse=True)


def _place_of(token: str) -> Place | None:
    if not token:
        return None
    ended_at_ms, dot, task_id = token.partition(".")
    if not ended_at_ms.isdecimal() or len(ended_at_ms) > 18 or not dot:
        raise invalid([Violation("page_token", f"{token!r} is not a token this cluster gave out")])
    return int(ended_at_ms), task_id


def _purge_command(request: tasks_pb2.PurgeDeadLettersRequest) -> commands.PurgeDeadLetters:
    """Raises ApiError unless it says what to purge, in one of the two ways."""
    tenant = checked_tenant(request.parent)
    if request.HasField("before") == bool(request.names):
        raise invalid([Violation("names", "give names, or before: one of the two")])
    if len(request.names) > NAMES_MAX:
        raise invalid([Violation("names", f"{len(request.names)} names, the limit is {NAMES_MAX}")])
    task_ids = tuple(task_id_of(name) for name in request.names)
    before_ms = request.before.ToMilliseconds() if request.HasField("before") else 0
    return commands.PurgeDeadLetters(tenant, task_ids, before_ms)
