"""Locks, keys, topics and schedules for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

from coterie.client import bus, job, keys, locks, schedules
from coterie.client.spec import TaskOptions
from coterie.client.sync_queueing import Run
from coterie.client.units import Duration

if TYPE_CHECKING:
    from coterie.client.sync_job import Job

Item = TypeVar("Item")


class Each(Protocol):
    """Walks over an asynchronous generator on the client's loop."""

    def __call__(self, items: AsyncGenerator[Item, None]) -> Iterator[Item]: ...


class HeldLock:
    """See `coterie.client.locks.HeldLock`; for `with`."""

    def __init__(self, run: Run, lock: locks.HeldLock) -> None:
        self._run, self._lock, self.name = run, lock, lock.name

    @property
    def token(self) -> int:
        """Give it to what the lock protects."""
        return self._lock.token

    @property
    def lost(self) -> bool:
        """The lease has ended."""
        return self._lock.lost

    def __enter__(self) -> HeldLock:
        self._run(self._lock.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._run(self._lock.__aexit__(kind, error, traceback))


class Locks:
    """See `coterie.client.locks.Locks`."""

    def __init__(self, run: Run, inner: locks.Locks) -> None:
        self._run, self._inner = run, inner

    def hold(self, name: str, *, ttl: Duration = "30s", wait: Duration | None = None) -> HeldLock:
        """See `coterie.client.locks.Locks.hold`."""
        return HeldLock(self._run, self._inner.hold(name, ttl=ttl, wait=wait))

    def acquire(
        self, name: str, *, ttl: Duration = "30s", wait: Duration | None = None, owner: str = ""
    ) -> locks.LockInfo:
        """See `coterie.client.locks.Locks.acquire`."""
        return self._run(self._inner.acquire(name, ttl=ttl, wait=wait, owner=owner))

    def renew(self, name: str, token: int, *, ttl: Duration | None = None) -> locks.LockInfo:
        """See `coterie.client.locks.Locks.renew`."""
        return self._run(self._inner.renew(name, token, ttl=ttl))

    def release(self, name: str, token: int) -> bool:
        """See `coterie.client.locks.Locks.release`."""
        return self._run(self._inner.release(name, token))

    def list(self, prefix: str = "") -> locks.LockList:
        """See `coterie.client.locks.Locks.list`."""
        return self._run(self._inner.list(prefix))


class Keys:
    """See `coterie.client.keys.Keys`."""

    def __init__(self, run: Run, each: Each, inner: keys.Keys) -> None:
        self._run, self._each, self._inner = run, each, inner

    def get(self, key: str, default: Any = None) -> Any:
        """See `coterie.client.keys.Keys.get`."""
        return self._run(self._inner.get(key, default))

    def entry(self, key: str, *, stale: bool = False) -> keys.KeyEntry | None:
        """See `coterie.client.keys.Keys.entry`."""
        return self._run(self._inner.entry(key, stale=stale))

    def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: Duration | None = None,
        expected_version: int | None = None,
        request_id: str = "",
    ) -> int:
        """See `coterie.client.keys.Keys.put`."""
        work = self._inner.put(key, value, ttl=ttl, expected_version=expected_version, request_id=request_id)
        return self._run(work)

    def cas(self, key: str, value: Any, version: int, *, ttl: Duration | None = None) -> int:
        """See `coterie.client.keys.Keys.cas`."""
        return self._run(self._inner.cas(key, value, version, ttl=ttl))

    def delete(self, key: str, *, expected_version: int | None = None, request_id: str = "") -> bool:
        """See `coterie.client.keys.Keys.delete`."""
        return self._run(self._inner.delete(key, expected_version=expected_version, request_id=request_id))

    def list(
        self, prefix: str = "", *, keys_only: bool = False, page_size: int = 200
    ) -> Iterator[keys.KeyEntry]:
        """See `coterie.client.keys.Keys.list`."""
        return self._each(self._inner.list(prefix, keys_only=keys_only, page_size=page_size))

    def watch(
        self, prefix: str = "", *, exact: bool = False, after_version: int = 0
    ) -> Iterator[keys.KeyChange]:
        """See `coterie.client.keys.Keys.watch`."""
        return self._each(self._inner.watch(prefix, exact=exact, after_version=after_version))


class Bus:
    """See `coterie.client.bus.Bus`."""

    def __init__(self, run: Run, each: Each, inner: bus.Bus) -> None:
        self._run, self._each, self._inner = run, each, inner

    def publish(
        self, topic: str, body: Any = None, *, headers: Mapping[str, str] | None = None, request_id: str = ""
    ) -> int:
        """See `coterie.client.bus.Bus.publish`."""
        return self._run(self._inner.publish(topic, body, headers=headers, request_id=request_id))

    def subscribe(self, pattern: str, *, after: int | None = None) -> Iterator[bus.Message | bus.MessageGap]:
        """See `coterie.client.bus.Bus.subscribe`."""
        return self._each(self._inner.subscribe(pattern, after=after))

    def set_topic(
        self, name: str, *, kept_count: int = 0, kept_bytes: int = 0, kept_for: Duration | None = "24h"
    ) -> bus.Topic:
        """See `coterie.client.bus.Bus.set_topic`."""
        work = self._inner.set_topic(name, kept_count=kept_count, kept_bytes=kept_bytes, kept_for=kept_for)
        return self._run(work)

    def topics(self, pattern: str = "") -> list[bus.Topic]:
        """See `coterie.client.bus.Bus.topics`."""
        return self._run(self._inner.topics(pattern))

    def remove_topic(self, name: str) -> None:
        """See `coterie.client.bus.Bus.remove_topic`."""
        self._run(self._inner.remove_topic(name))

    def set_group(
        self,
        name: str,
        pattern: str,
        *,
        start: int | None = None,
        ack_wait: Duration = "30s",
        deliveries_max: int = 0,
    ) -> bus.Group:
        """See `coterie.client.bus.Bus.set_group`."""
        work = self._inner.set_group(
            name, pattern, start=start, ack_wait=ack_wait, deliveries_max=deliveries_max
        )
        return self._run(work)

    def groups(self) -> list[bus.Group]:
        """See `coterie.client.bus.Bus.groups`."""
        return self._run(self._inner.groups())

    def remove_group(self, name: str) -> None:
        """See `coterie.client.bus.Bus.remove_group`."""
        self._run(self._inner.remove_group(name))

    def fetch(self, group: str, *, count: int = 10, wait: Duration = "5s") -> list[bus.Message]:
        """See `coterie.client.bus.Bus.fetch`."""
        return self._run(self._inner.fetch(group, count=count, wait=wait))

    def ack(self, group: str, messages: Iterable[bus.Message]) -> int:
        """See `coterie.client.bus.Bus.ack`."""
        return self._run(self._inner.ack(group, messages))

    def nack(self, group: str, messages: Iterable[bus.Message], *, delay: Duration = 0) -> int:
        """See `coterie.client.bus.Bus.nack`."""
        return self._run(self._inner.nack(group, messages, delay=delay))

    def seek(self, group: str, position: int) -> bus.Group:
        """See `coterie.client.bus.Bus.seek`."""
        return self._run(self._inner.seek(group, position))


class Schedules:
    """See `coterie.client.schedules.Schedules`."""

    def __init__(self, run: Run, wrap: Callable[[job.Job], Job], inner: schedules.Schedules) -> None:
        self._run, self._wrap, self._inner = run, wrap, inner

    def apply(
        self,
        schedule_id: str,
        timing: schedules.Timing,
        *,
        type: str,
        payload: Any = None,
        validate_only: bool = False,
        **options: Unpack[TaskOptions],
    ) -> schedules.ScheduleInfo:
        """See `coterie.client.schedules.Schedules.apply`."""
        work = self._inner.apply(
            schedule_id, timing, type=type, payload=payload, validate_only=validate_only, **options
        )
        return self._run(work)

    def get(self, schedule_id: str) -> schedules.ScheduleInfo:
        """See `coterie.client.schedules.Schedules.get`."""
        return self._run(self._inner.get(schedule_id))

    def list(self) -> schedules.ScheduleList:
        """See `coterie.client.schedules.Schedules.list`."""
        return self._run(self._inner.list())

    def remove(self, schedule_id: str) -> None:
        """See `coterie.client.schedules.Schedules.remove`."""
        self._run(self._inner.remove(schedule_id))

    def pause(self, schedule_id: str, reason: str = "") -> schedules.ScheduleInfo:
        """See `coterie.client.schedules.Schedules.pause`."""
        return self._run(self._inner.pause(schedule_id, reason))

    def resume(self, schedule_id: str) -> schedules.ScheduleInfo:
        """See `coterie.client.schedules.Schedules.resume`."""
        return self._run(self._inner.resume(schedule_id))

    def trigger(self, schedule_id: str, *, request_id: str = "") -> Job:
        """See `coterie.client.schedules.Schedules.trigger`."""
        return self._wrap(self._run(self._inner.trigger(schedule_id, request_id=request_id)))

    def backfill(
        self, schedule_id: str, begin: datetime, end: datetime, *, request_id: str = ""
    ) -> tuple[Job, ...]:
        """See `coterie.client.schedules.Schedules.backfill`."""
        found = self._run(self._inner.backfill(schedule_id, begin, end, request_id=request_id))
        return tuple(self._wrap(one) for one in found)
