"""Locks of the cluster: leases, fencing tokens, a fair queue."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from coterie.client.caller import Caller
from coterie.client.connection import Connection
from coterie.client.endpoints import Endpoint
from coterie.client.errors import Aborted, ClusterError, CoterieError, LockHeld, LockLost
from coterie.client.units import Duration
from coterie.client.values import milliseconds
from coterie.v1 import locks_pb2

_ASK_S = 6.0  # how long one call waits in the queue
_LOOK_S = 0.001  # the shortest wait that keeps a place there
_SLACK_S = 4.0
_FOR_EVER = float("inf")


@dataclass(frozen=True, slots=True)
class LockInfo:
    """Who holds a lock. `left`: seconds of its lease when this was said; `waiters`: owners, the next one
    first."""

    name: str
    owner: str
    token: int
    left: float
    task: str = ""
    waiters: tuple[str, ...] = ()

    @classmethod
    def of(cls, raw: locks_pb2.Lock) -> LockInfo:
        """The dataclass for a message."""
        waiters = tuple(waiter.owner for waiter in raw.waiters)
        return cls(raw.name, raw.owner, raw.token, raw.left_ms / 1000, raw.task, waiters)


LockList = list[LockInfo]  # inside Locks `list` is a method


class Locks:
    """Locks of the cluster: `cluster.locks`. Mostly used as

        async with cluster.locks.hold("stock/42", ttl="30s") as lock:
            warehouse.write(..., token=lock.token)

    A lease can end while its holder believes in it: a process can be stopped, and the cluster's clock can
    jump. So give the token to whatever the lock protects, and let that refuse smaller ones than it has seen.
    """

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    def hold(self, name: str, *, ttl: Duration = "30s", wait: Duration | None = None) -> HeldLock:
        """A context that takes the lock, renews its lease, and lets go. `wait`: how long to stand in the
        queue; None: for ever, 0: not at all. Entering raises LockHeld; leaving raises LockLost when it was
        lost."""
        return HeldLock(self, name, ttl, wait)

    async def acquire(
        self, name: str, *, ttl: Duration = "30s", wait: Duration | None = None, owner: str = ""
    ) -> LockInfo:
        """Takes the lock; nobody renews it but the caller. Raises LockHeld after `wait`. An `owner` who holds
        it is given it again, and keeps it when this call fails."""
        return (await self._take(name, ttl, wait, owner))[0]

    async def _take(
        self, name: str, ttl: Duration, wait: Duration | None, owner: str = ""
    ) -> tuple[LockInfo, float]:
        """The lock, and when the call was made that got it, on the loop's clock."""
        connection = self._opened()
        caller = connection.caller
        left = _FOR_EVER if wait is None else milliseconds("wait", wait) / 1000
        ends_at = caller.clock() + left
        asking = _Asking(
            locks_pb2.AcquireLockRequest(
                parent=f"tenants/{connection.tenant}",
                name=name,
                owner=owner or uuid.uuid4().hex,
                ttl_ms=milliseconds("ttl", ttl),
            )
        )
        holds_nothing = not owner
        try:
            while True:
                # Who may hold it already asks briefly first: being queued, it does not.
                longest = _ASK_S if holds_nothing else _LOOK_S
                seconds = max(0.0, min(longest, ends_at - caller.clock()))
                asking.request.wait_ms = int(seconds * 1000)
                answer = await caller.run(asking, attempt_timeout=seconds + _SLACK_S)
                if answer.lock.token:
                    return LockInfo.of(answer.lock), asking.asked_at
                holds_nothing = True
                if caller.clock() >= ends_at:
                    raise LockHeld(f"lock {name} was not free in time", code="ABORTED", reason="LOCK_HELD")
        except BaseException:
            if holds_nothing:
                await _leave(caller, asking.request)
            raise

    async def renew(self, name: str, token: int, *, ttl: Duration | None = None) -> LockInfo:
        """A new lease from now on. Raises Aborted with reason FENCED when the token holds it no more."""
        request = locks_pb2.RenewLockRequest(
            parent=self._parent, name=name, token=token, ttl_ms=milliseconds("ttl", ttl)
        )
        # A lease does not wait: it must not end because other calls of this client are being retried.
        raw = await self._opened().caller.unary(lambda e: e.locks.RenewLock, request, urgent=True)
        return LockInfo.of(raw)

    async def release(self, name: str, token: int) -> bool:
        """Lets go. False: the token did not hold it (any more)."""
        request = locks_pb2.ReleaseLockRequest(parent=self._parent, name=name, token=token)
        answer = await self._opened().caller.unary(lambda e: e.locks.ReleaseLock, request)
        return answer.released

    async def list(self, prefix: str = "") -> LockList:
        """The locks of the tenant that are held, by name."""
        request = locks_pb2.ListLocksRequest(parent=self._parent, prefix=prefix)
        answer = await self._opened().caller.unary(lambda e: e.locks.ListLocks, request)
        return [LockInfo.of(raw) for raw in answer.locks]

    @property
    def _parent(self) -> str:
        return f"tenants/{self._opened().tenant}"


class _Asking:
    """The call for a lock, and when it was made last."""

    def __init__(self, request: locks_pb2.AcquireLockRequest) -> None:
        self.request, self.asked_at = request, 0.0

    async def __call__(self, endpoint: Endpoint, seconds: float) -> locks_pb2.AcquireLockResponse:
        self.asked_at = asyncio.get_running_loop().time()
        return await endpoint.locks.AcquireLock(self.request, timeout=seconds)


async def _leave(caller: Caller, asked: locks_pb2.AcquireLockRequest) -> None:
    """Out of the queue; who cannot say so leaves it after a while."""
    request = locks_pb2.ReleaseLockRequest(parent=asked.parent, name=asked.name, owner=asked.owner)
    with contextlib.suppress(CoterieError):
        await caller.unary(lambda e: e.locks.ReleaseLock, request, timeout=_SLACK_S)


class HeldLock:
    """A lock inside `async with`: `token` fences, `lost` says that the lease has ended."""

    def __init__(self, locks: Locks, name: str, ttl: Duration, wait: Duration | None) -> None:
        self._locks, self._ttl, self._wait = locks, ttl, wait
        self.name, self.token, self.lost = name, 0, False
        self._ttl_s = milliseconds("ttl", ttl) / 1000
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> HeldLock:
        self.lost = False
        taken, asked_at = await self._locks._take(self.name, self._ttl, self._wait)
        self.token = taken.token
        self._renewing = asyncio.create_task(self._renew(asked_at, taken.left), name=f"renew {self.name}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        held = not self.lost and await self._locks.release(self.name, self.token)
        if not held and error is None:
            raise LockLost(f"lock {self.name} was lost while token {self.token} was in use")

    async def _renew(self, asked_at: float, left_s: float) -> None:
        """Counted from before each call, so that it ends here no later than there. A first call that took
        long may have waited for the lock: its lease is counted from the answer, and renewed at once."""
        clock, pause_s = asyncio.get_running_loop().time, self._ttl_s / 3
        now, next_at = clock(), asked_at + pause_s
        ends_at = left_s + (asked_at if now < next_at else now)
        while not self.lost:
            await asyncio.sleep(max(0.0, min(next_at, ends_at) - clock()))
            asked_at = clock()
            try:
                async with asyncio.timeout(max(0.0, ends_at - asked_at)):
                    await self._locks.renew(self.name, self.token)
                ends_at = asked_at + self._ttl_s
            except Aborted:
                self.lost = True
            except (ClusterError, TimeoutError):
                self.lost = clock() >= ends_at
            next_at = clock() + pause_s
