"""The Locks service: leases, fencing tokens, and waiting in the queue by a long call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from coterie.core.commands import Outcome
from coterie.core.coordination import nouns
from coterie.core.coordination.bounds import LEASE_MS_MAX
from coterie.core.coordination.commands import AcquireLock, ReleaseLock, RenewLock
from coterie.core.coordination.look_ups import name_key
from coterie.core.state import ClusterState
from coterie.node.coordination.desk import (
    OWNER,
    Desk,
    accepted,
    check,
    lock_faults,
    name_faults,
    not_there,
    range_faults,
)
from coterie.node.coordination.tide import Tide
from coterie.node.rpc import Context, Gate, seconds_left, unary
from coterie.v1 import locks_pb2, locks_pb2_grpc

LEASE_MS_MIN = 100
PATIENCE_MS = 20_000  # how long a place in the queue is kept for one who does not ask again
ASK_AGAIN_S = 8.0  # how long one call waits at most
MARGIN_S = 0.2
LOCKS_LISTED_MAX = 1_000


class LocksService(locks_pb2_grpc.LocksServicer):
    """Acquire is repeated by its owner, release and renew by their token: each call may be made again."""

    def __init__(self, desk: Desk, gate: Gate) -> None:
        self._desk, self.gate = desk, gate

    @unary
    async def AcquireLock(
        self, request: locks_pb2.AcquireLockRequest, context: Context
    ) -> locks_pb2.AcquireLockResponse:
        tenant = check(
            request.parent,
            lock_faults(request.name),
            name_faults("owner", request.owner, OWNER, "1 to 200 printable ASCII characters"),
            range_faults("ttl_ms", request.ttl_ms, LEASE_MS_MIN, LEASE_MS_MAX),
            range_faults("wait_ms", request.wait_ms, 0, LEASE_MS_MAX),
        )
        command = AcquireLock(tenant, request.name, request.owner, request.ttl_ms)
        seconds = min(request.wait_ms / 1000, ASK_AGAIN_S, seconds_left(context) - MARGIN_S)

        async def propose(asked: AcquireLock) -> Outcome:
            return await self._desk.propose(asked, context)

        wait_s = seconds if request.wait_ms else 0.0
        lock = await obtain(command, self._desk.state, self._desk.tide, propose, wait_s)
        return locks_pb2.AcquireLockResponse(lock=self._to_pb(lock) if lock is not None else None)

    @unary
    async def RenewLock(self, request: locks_pb2.RenewLockRequest, context: Context) -> locks_pb2.Lock:
        ttl = range_faults("ttl_ms", request.ttl_ms, 0, LEASE_MS_MAX)
        tenant = check(request.parent, lock_faults(request.name), ttl)
        await self._desk.commit(RenewLock(tenant, request.name, request.token, request.ttl_ms), context)
        lock = self._desk.state().locks.get(name_key(tenant, request.name))
        if lock is None or lock.token != request.token:
            raise not_there("LOCK", request.name)
        return self._to_pb(lock)

    @unary
    async def ReleaseLock(
        self, request: locks_pb2.ReleaseLockRequest, context: Context
    ) -> locks_pb2.ReleaseLockResponse:
        tenant = check(request.parent, lock_faults(request.name))
        command = ReleaseLock(tenant, request.name, request.token, request.owner)
        outcome = await self._desk.commit(command, context)
        return locks_pb2.ReleaseLockResponse(released=not outcome.duplicate)

    @unary
    async def ListLocks(
        self, request: locks_pb2.ListLocksRequest, context: Context
    ) -> locks_pb2.ListLocksResponse:
        tenant = check(request.parent)
        await self._desk.look(context)
        prefix = name_key(tenant, request.prefix)
        found = sorted(key for key in self._desk.state().locks if key.startswith(prefix))[:LOCKS_LISTED_MAX]
        locks = [self._to_pb(self._desk.state().locks[key]) for key in found]
        return locks_pb2.ListLocksResponse(locks=locks, now_ms=self._desk.time.now_ms())

    def _to_pb(self, lock: nouns.Lock) -> locks_pb2.Lock:
        return locks_pb2.Lock(
            name=lock.name,
            owner=lock.owner,
            token=lock.token,
            ttl_ms=lock.ttl_ms,
            expires_at_ms=lock.expires_at_ms,
            left_ms=max(0, lock.expires_at_ms - self._desk.time.now_ms()),
            task=lock.task_id,
            attempt=lock.attempt,
            waiters=[locks_pb2.LockWaiter(owner=one.owner, task=one.task_id) for one in lock.waiters],
        )


async def obtain(
    command: AcquireLock,
    state: Callable[[], ClusterState],
    tide: Tide,
    propose: Callable[[AcquireLock], Awaitable[Outcome]],
    wait_s: float,
) -> nouns.Lock | None:
    """The lock, or None: its owner stands in the queue. Raises ApiError where it is refused."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + wait_s
    if wait_s > 0:
        command = replace(command, wait_ms=PATIENCE_MS)
    key = name_key(command.tenant, command.name)
    while True:
        accepted(await propose(command))
        lock = state().locks.get(key)
        while lock is not None and loop.time() < ends_at and _waits(lock, command.owner):
            await tide.wait("lock", ends_at - loop.time())
            lock = state().locks.get(key)
        if lock is not None and lock.owner == command.owner and lock.attempt == command.attempt:
            return lock
        if loop.time() >= ends_at:
            return None  # else it came and went unseen, or its place did: ask again


def _waits(lock: nouns.Lock, owner: str) -> bool:
    return any(waiter.owner == owner for waiter in lock.waiters)
