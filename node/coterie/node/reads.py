"""Finding tasks wherever they are: live in the state, recently finished there, or in the ledger."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc

from coterie.core.nouns import NO_PARENT, Label, Step, Task, TaskId
from coterie.core.ports import Engine, NoQuorum
from coterie.core.state import ClusterState
from coterie.core.submit_command import SubmitTask
from coterie.core.transitions import TERMINAL
from coterie.core.waiting import wait_reason
from coterie.node import convert
from coterie.node.clock import Clock
from coterie.node.errors import BY_REPLICA, ApiError, not_found
from coterie.node.ledger import Ledger, LedgerQuery, PageTooLarge
from coterie.node.security.principal import caller
from coterie.node.turns import Turns
from coterie.v1 import tasks_pb2

BARRIER_S = 10.0
PORTION = 200  # live tasks looked at between two looks at the clock
LOOK_S = 0.02  # how often a call looks whether there is a leader again

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    task: Task
    steps: Sequence[Step] = ()


class Reader:
    """Linearizable unless asked otherwise: a read waits until this node has applied what was committed."""

    def __init__(
        self,
        engine: Engine,
        state: Callable[[], ClusterState],
        ledger: Ledger,
        clock: Clock,
        catching_up: Callable[[], bool],
        election_s: float = 2.0,
        up_to_date: Callable[[], bool] = lambda: True,
    ) -> None:
        """`catching_up`: rows are missing from this node's ledger, and a peer may have them.
        `election_s`: for how long a node is without a leader at most when the others are there.
        `up_to_date`: this node has not been away since its replica was fresh."""
        self._up_to_date = up_to_date
        self._engine, self._state, self._ledger, self._clock = engine, state, ledger, clock
        self._catching_up, self._election_s = catching_up, election_s
        self._alone_since: float | None = None  # as far as calls have noticed

    async def barrier(self, mode: tasks_pb2.ReadMode.ValueType, timeout_s: float) -> None:
        if mode != tasks_pb2.STALE:
            await self.connected()
            await self._engine.read_barrier(min(timeout_s, BARRIER_S))

    async def confirmed(self, check: Callable[[], T], timeout_s: float) -> T:
        """What `check` answers. Where it refuses for what this node has not heard of (BY_REPLICA), it is
        asked again when the replica is fresh: what is missing may have come a moment ago by another node, and
        a node that has just started has heard of nothing. Raises what `check` does, or NoQuorum."""
        try:
            return check()
        except ApiError as error:
            if error.reason not in BY_REPLICA:
                raise
        await self.barrier(tasks_pb2.LINEARIZABLE, timeout_s)
        return check()

    async def connected(self) -> None:
        """Waits through an election. Raises NoQuorum on a node that has been without a leader for longer than
        one takes, so that callers do not spend their time on a node that is cut off."""
        while not self._engine.has_quorum:
            now = self._clock.monotonic()
            if self._alone_since is None:
                self._alone_since = now
            if now - self._alone_since > self._election_s:
                raise NoQuorum("this node is cut off from the majority; another node may not be")
            await asyncio.sleep(LOOK_S)
        self._alone_since = None

    async def still_connected(self) -> None:
        """For those who wait: raises NoQuorum on a node that has been cut off for BARRIER_S."""
        if not self._engine.has_quorum:
            await self._engine.read_barrier(BARRIER_S)

    async def find(self, task_id: TaskId) -> Found | None:
        """The task as this node knows it now, where the caller may see it: what they may not is not there."""
        found = await self._find(task_id)
        return found if found is not None and caller().sees(found.task.tenant) else None

    async def _find(self, task_id: TaskId) -> Found | None:
        state = self._state()
        live = state.tasks.get(task_id)
        if live is not None:
            return Found(live, state.steps.get(task_id, ()))
        kept = await self._ledger.task(task_id)
        if kept is not None:
            return Found(*convert.read_finished(kept.record))
        recent = self._state().finished.get(task_id)
        return Found(recent) if recent is not None else None

    def peek(self, task_id: TaskId) -> Task | None:
        """A live or recently finished task, without its steps."""
        task = self._state().task(task_id)
        return task if task is not None and caller().sees(task.tenant) else None

    async def in_history(self, task_id: TaskId) -> bool:
        """Whether a task of that id has ended. Raises ApiError UNAVAILABLE when this node cannot know."""
        behind = self._catching_up()  # the gap may be filled while the ledger answers without it
        found = await self._find(task_id)
        if found is None and (behind or self._catching_up()):
            raise _catching_up(
                f"whether task {task_id} exists is among the history that this node still copies"
            )
        return found is not None and found.task.state in TERMINAL

    async def refuse_known_id(self, command: SubmitTask, later: TaskId = NO_PARENT) -> None:
        """The state forgets finished tasks, the ledger does not: an id that a client chose is good once.
        `later`: of a task that this one is going to begin under an id made of its own. Raises ApiError
        ALREADY_EXISTS, or UNAVAILABLE."""
        if not self._up_to_date():  # what ended while it was away may be forgotten by the state since
            await self.barrier(tasks_pb2.LINEARIZABLE, BARRIER_S)
        state = self._state()
        retried = f"{command.tenant}/{command.request_id}" in state.requests
        if retried or state.task(command.task_id) is not None:
            return  # the state machine knows the answer
        wanted = later or command.task_id
        if state.task(wanted) is not None or await self.in_history(wanted):
            message = f"task {wanted} exists already; choose another task_id"
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, "TASK_EXISTS", message)

    async def get(self, task_id: TaskId, timeout_s: float) -> Found:
        """The task; a miss is believed only after a barrier, and not while history is missing here.
        Raises ApiError NOT_FOUND, or UNAVAILABLE."""
        found = await self.find(task_id)
        if found is None:
            await self._engine.read_barrier(min(timeout_s, BARRIER_S))
            behind = self._catching_up()  # before the ledger is asked: it may be filled just afterwards
            found = await self.find(task_id)
            if found is None and (behind or self._catching_up()):
                raise _catching_up(f"task {task_id} may be among the history that this node still copies")
        if found is None:
            raise not_found("TASK", task_id)
        return found

    async def get_with_steps(self, task_id: TaskId, timeout_s: float) -> Found:
        """As `get`, and none of the steps of a task that has ended is missing: a snapshot shows its end, and
        its steps are among the history that is still copied."""
        behind = self._catching_up()
        found = await self.get(task_id, timeout_s)
        lacks = found.task.state in TERMINAL and len(found.steps) < found.task.step_count
        if lacks and (behind or self._catching_up()):
            raise _catching_up(
                f"the steps of task {task_id} are among the history that this node still copies"
            )
        return found

    def to_pb(self, found: Found, *, with_steps: bool = False, with_payload: bool = False) -> tasks_pb2.Task:
        """Public form, with the reason for waiting."""
        steps: Iterable[Step] = found.steps if with_steps else ()
        message = convert.task_to_pb(found.task, steps, with_payload=with_payload)
        waits = wait_reason(self._state(), found.task, self._clock.now_ms())
        message.wait_reason = int(waits.reason)  # type: ignore[assignment]
        message.wait_detail, message.wait_limit = waits.detail, waits.limit
        if waits.until_ms:
            message.wait_until.FromMilliseconds(waits.until_ms)
        return message

    def has_whole_history(self, mode: tasks_pb2.ReadMode.ValueType) -> None:
        """Raises ApiError UNAVAILABLE when a list from here could lack finished tasks and must not."""
        if mode != tasks_pb2.STALE and self._catching_up():
            raise _catching_up("this node still copies history from the others; ask another, or STALE")

    async def page_that_fits(
        self, query: LedgerQuery, before: int | None, limit: int
    ) -> tuple[list[Found], bool]:
        """As `page`, and whether there may be more behind it: of tasks whose records would take too much
        memory together there are fewer, and one at least."""
        while True:
            try:
                found = await self.page(query, before, limit)
            except PageTooLarge as error:
                limit = error.tasks_fit
                continue
            return found, len(found) == limit

    async def page(self, query: LedgerQuery, before: int | None, limit: int) -> list[Found]:
        """Tasks newest first, live and finished merged. The live ones are taken first: what ends meanwhile is
        in the ledger then, and would be in neither the other way round."""
        live = await self._live(query, before, limit)
        rows = await self._ledger.tasks(query, before, limit)
        turns, finished = Turns(), list[Found]()
        for row in rows:  # each with all its steps
            finished.append(Found(*convert.read_finished(row.record)))
            await turns.take()
        known = {found.task.task_id for found in finished}
        unfinished = [found for found in live if found.task.task_id not in known]
        return heapq.nlargest(limit, [*unfinished, *finished], key=lambda found: found.task.order)

    async def _live(self, query: LedgerQuery, before: int | None, limit: int) -> list[Found]:
        """There may be a million, of which none matches."""
        matching: list[Found] = []
        turns, key = Turns(), self._state().meta.order + 1 if before is None else before
        while len(matching) < limit:
            state = self._state()
            portion = state.indexes.by_order.before(key, PORTION)
            if not portion:
                break
            key = portion[-1][0]
            for _, task_id in portion:
                task = state.tasks[task_id]
                if len(matching) < limit and _matches(query, task):
                    matching.append(Found(task, state.steps.get(task_id, ())))
            await turns.take()
        return matching


def _catching_up(message: str) -> ApiError:
    return ApiError(grpc.StatusCode.UNAVAILABLE, "CATCHING_UP", message, retry_after_ms=1_000)


def _matches(query: LedgerQuery, task: Task) -> bool:
    return query.matches(
        tenant=task.tenant,
        state=task.state.name,
        type=task.type,
        labels=labels_dict(task.labels),
        created_at_ms=task.created_at_ms,
    )


def labels_dict(labels: Iterable[Label]) -> dict[str, str]:
    return {label.key: label.value for label in labels}
