"""Rules of locks: leases on the cluster's clock, a fair queue, fencing tokens that only grow (Kleppmann, "How
to do distributed locking", 2016).

Invariants: a lock has at most one holder; the token of a later grant is larger than that of any earlier one;
who waits is granted in the order of asking; a lease that ended, and a task that ended, hold nothing."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.coordination.answers import name_fault, remember
from coterie.core.coordination.bounds import (
    LEASE_MS_MAX,
    LOCKS_MAX,
    NAME_CHARS_MAX,
    WAITER_MS_MAX,
    WAITERS_MAX,
)
from coterie.core.coordination.commands import AcquireLock, ReleaseLock, RenewLock
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import Lock, LockWaiter
from coterie.core.lifecycle import fenced
from coterie.core.nouns import TaskId, evolve
from coterie.core.state import ClusterState, Moment


def acquire(state: ClusterState, command: AcquireLock, moment: Moment) -> Outcome:
    """`number` of the answer is the token; 0: the owner stands in the queue."""
    refused = _fault(state, command)
    if refused is not None:
        return refused
    key = name_key(command.tenant, command.name)
    lock = current(state, key, moment)
    asks = _waiter(command, moment)
    if lock is None:
        if len(state.locks) >= LOCKS_MAX:
            return Rejected("TOO_MANY_LOCKS", f"at most {LOCKS_MAX} locks are held at once")
        return Accepted(number=_grant(state, command.tenant, command.name, asks, (), moment))
    if lock.owner == command.owner:
        return _again(state, lock, asks, moment)
    if command.wait_ms <= 0:
        _leave_queue(state, key, lock, command.owner)
        text = f"lock {command.name} is held by {lock.owner}"
        return Rejected("LOCK_HELD", text, retry_at_ms=lock.expires_at_ms)
    return _queue(state, key, lock, asks)


def _fault(state: ClusterState, command: AcquireLock) -> Rejected | None:
    for what, name in (("tenant", command.tenant), ("name", command.name), ("owner", command.owner)):
        refused = name_fault(what, name, NAME_CHARS_MAX)
        if refused is not None:
            return refused
    if not 0 < command.ttl_ms <= LEASE_MS_MAX or not 0 <= command.wait_ms <= WAITER_MS_MAX:
        text = f"ttl_ms is in 1..{LEASE_MS_MAX}, wait_ms in 0..{WAITER_MS_MAX}"
        return Rejected("BAD_LOCK", text)
    if command.task_id:
        task = fenced(state, command.task_id, command.attempt)
        if isinstance(task, Rejected):
            return task
        if task.tenant != command.tenant:
            return Rejected("BAD_LOCK", "a task takes locks of its own tenant only")
    return None


def _waiter(command: AcquireLock, moment: Moment) -> LockWaiter:
    until_ms = moment.at_ms + command.wait_ms
    return LockWaiter(command.owner, command.ttl_ms, until_ms, command.task_id, command.attempt)


def _again(state: ClusterState, lock: Lock, asks: LockWaiter, moment: Moment) -> Outcome:
    """The holder asks again. A later attempt of its task gets a new token: the earlier one is fenced off."""
    if asks.attempt < lock.attempt:
        return Rejected("FENCED", f"attempt {lock.attempt} of the task holds lock {lock.name}")
    if asks.attempt == lock.attempt:
        return Accepted(duplicate=True, number=lock.token)
    return Accepted(number=_grant(state, lock.tenant, lock.name, asks, lock.waiters, moment))


def _queue(state: ClusterState, key: str, lock: Lock, asks: LockWaiter) -> Outcome:
    """At the end; who stands there already keeps its place."""
    known = any(waiter.owner == asks.owner for waiter in lock.waiters)
    if not known and len(lock.waiters) >= WAITERS_MAX:
        return Rejected("TOO_MANY_WAITERS", f"at most {WAITERS_MAX} wait for one lock")
    if known:
        waiters = tuple(asks if waiter.owner == asks.owner else waiter for waiter in lock.waiters)
    else:
        waiters = (*lock.waiters, asks)
    _store(state, key, lock, replace(lock, waiters=waiters))
    return Accepted(number=0, duplicate=known)


def _leave_queue(state: ClusterState, key: str, lock: Lock, owner: str) -> None:
    waiters = tuple(waiter for waiter in lock.waiters if waiter.owner != owner)
    if len(waiters) != len(lock.waiters):
        _store(state, key, lock, replace(lock, waiters=waiters))


def renew(state: ClusterState, command: RenewLock, moment: Moment) -> Outcome:
    key = name_key(command.tenant, command.name)
    lock = current(state, key, moment)
    if lock is None or lock.token != command.token:
        return Rejected("FENCED", f"lock {command.name} is not held by token {command.token} any more")
    ttl_ms = command.ttl_ms or lock.ttl_ms
    if not 0 < ttl_ms <= LEASE_MS_MAX:
        return Rejected("BAD_LOCK", f"ttl_ms is in 1..{LEASE_MS_MAX}")
    _store(state, key, lock, replace(lock, ttl_ms=ttl_ms, expires_at_ms=moment.at_ms + ttl_ms))
    return Accepted(number=lock.token)


def release(state: ClusterState, command: ReleaseLock, moment: Moment) -> Outcome:
    """`duplicate`: there was nothing to let go of. The holder who says so twice, because the first answer was
    lost, hears the same again, and not that the lock was lost."""
    key = name_key(command.tenant, command.name)
    said = f"release {key} {command.token}"
    if command.token and said in state.answers:
        return Accepted()
    lock = current(state, key, moment)
    if lock is None:
        return Accepted(duplicate=True)
    if lock.token == command.token or (command.owner and lock.owner == command.owner):
        _pass_on(state, key, lock, moment)
        if command.token:
            remember(state, said, b"", command.token, moment)
        return Accepted()
    waits = bool(command.owner) and any(waiter.owner == command.owner for waiter in lock.waiters)
    if waits:
        _leave_queue(state, key, lock, command.owner)
    return Accepted(duplicate=not waits)


def let_go(state: ClusterState, task_id: TaskId, moment: Moment) -> None:
    """A task has ended: it holds and awaits nothing."""
    # Sorted: the order of a look-up is another after a restart, and the locks get their next tokens in it.
    for key in sorted(state.coordination.task_locks.get(task_id, ())):
        lock = state.locks[key]
        if any(waiter.task_id == task_id for waiter in lock.waiters):
            waiters = tuple(waiter for waiter in lock.waiters if waiter.task_id != task_id)
            left = replace(lock, waiters=waiters)
            _store(state, key, lock, left)
            lock = left
        if lock.task_id == task_id:
            _pass_on(state, key, lock, moment)


def current(state: ClusterState, key: str, moment: Moment) -> Lock | None:
    """The lock as it is at this moment: leases that ran out are over, waiters who left are gone."""
    lock = state.locks.get(key)
    if lock is None:
        return None
    if lock.expires_at_ms <= moment.at_ms:
        return _pass_on(state, key, lock, moment)
    if any(waiter.until_ms <= moment.at_ms for waiter in lock.waiters):
        staying = tuple(waiter for waiter in lock.waiters if waiter.until_ms > moment.at_ms)
        after = replace(lock, waiters=staying)
        _store(state, key, lock, after)
        return after
    return lock


def _pass_on(state: ClusterState, key: str, lock: Lock, moment: Moment) -> Lock | None:
    """To whoever waits longest; else the lock is free."""
    waiting = [waiter for waiter in lock.waiters if waiter.until_ms > moment.at_ms]
    if not waiting:
        _store(state, key, lock, None)
        return None
    _grant(state, lock.tenant, lock.name, waiting[0], tuple(waiting[1:]), moment)
    return state.locks[key]


def _grant(
    state: ClusterState,
    tenant: str,
    name: str,
    to: LockWaiter,
    waiters: tuple[LockWaiter, ...],
    moment: Moment,
) -> int:
    token = state.meta.fencing_token + 1
    state.meta = evolve(state.meta, fencing_token=token)
    key = name_key(tenant, name)
    expires_at_ms = moment.at_ms + to.ttl_ms
    lock = Lock(
        tenant, name, to.owner, token, to.ttl_ms, expires_at_ms, moment.at_ms, to.task_id, to.attempt, waiters
    )
    _store(state, key, state.locks.get(key), lock)
    return token


def _store(state: ClusterState, key: str, before: Lock | None, after: Lock | None) -> None:
    if after is None:
        del state.locks[key]
    else:
        state.locks[key] = after
    state.coordination.lock_changed(key, before, after)
