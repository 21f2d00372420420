"""What skills coordinate by: ctx.lock, ctx.kv, ctx.publish, ctx.now."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from coterie.skills.errors import CallFailed, CallRefused, LockHeld, LockLost, SkillError, VersionMismatch
from coterie.skills.link import Link

TTL_S = 30.0
TTL_S_MAX = 24 * 3_600.0
ANY_VERSION = -1
_ASK_S = 8.0  # how long one call waits in the queue
_LEAVE_S = 1.0  # how long leaving the queue may take


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key, what is under it, and the version of its newest change."""

    key: str
    value: Any
    version: int


class Coordination:
    """What a context offers to those who share something."""

    _link: Link
    _uses: dict[str, int]

    def _claim_key(self, name: str) -> str:
        raise NotImplementedError

    async def _run_step(self, key: str, call: Callable[[], Any], is_async: bool) -> Any:
        raise NotImplementedError

    def lock(self, name: str, *, ttl: float = TTL_S, timeout: float | None = None) -> SkillLock:
        """`async with ctx.lock("stock/42") as token:` holds a lock of the cluster, one holder at a time.

        The lease of `ttl` seconds is renewed meanwhile, and ends with the task. Who waits is served in the
        order of asking; after `timeout` seconds LockHeld is raised. The token grows with every grant: pass it
        on to what the lock protects, and let that refuse smaller ones than it has seen, for a lease can end
        while its holder believes in it. Leaving raises LockLost if it did. A later attempt that comes here
        again gets a new token, at once if this task still holds the lock."""
        use = self._uses[f"lock {name}"] = self._uses.get(f"lock {name}", 0) + 1
        return SkillLock(self._link, name, use, ttl, timeout)

    @property
    def kv(self) -> SkillKeys:
        """Small JSON values under keys that all tasks and clients of the tenant share."""
        return SkillKeys(self)

    def publish(
        self, topic: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Coroutine[Any, Any, int]:
        """Await this: publish a message, once for the task. Returns its position."""
        args = {"topic": topic, "body": body, "headers": dict(headers or {})}
        return self._once("bus.publish", args)

    async def now(self) -> datetime:
        """The cluster's clock, which never goes back; recorded, so that every attempt sees the same time."""
        at_ms = await self._run_step(
            self._claim_key("clock.now"), lambda: self._link.call("clock.now", {}), True
        )
        return datetime.fromtimestamp(at_ms / 1000, UTC)

    def _once(self, name: str, args: dict[str, Any]) -> Coroutine[Any, Any, int]:
        """A change that is a step: an attempt that repeats it gets the answer of the first."""
        key = self._claim_key(name)
        return self._run_step(key, lambda: self._changed(name, {**args, "use": key}), True)

    async def _changed(self, name: str, args: dict[str, Any]) -> int:
        try:
            return int(await self._link.call(name, args))
        except CallFailed as error:
            if error.code == "VERSION_MISMATCH":
                raise VersionMismatch(str(error)) from error
            raise


class SkillKeys:
    """Keys and values. Changes are steps: done once for the task. Reads are not: to see the same value in
    every attempt, read inside of a step."""

    def __init__(self, context: Coordination) -> None:
        self._context = context

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default."""
        entry = await self.entry(key)
        return default if entry is None else entry.value

    async def entry(self, key: str) -> KeyValue | None:
        """The key with its version; None: there is no such key."""
        found = await self._context._link.call("kv.get", {"key": key})
        return None if found is None else KeyValue(**found)

    def put(self, key: str, value: Any, *, ttl: float | None = None) -> Coroutine[Any, Any, int]:
        """Await this: set the value; returns the new version. After `ttl` seconds it is gone."""
        return self.cas(key, value, ANY_VERSION, ttl=ttl)

    def cas(
        self, key: str, value: Any, version: int, *, ttl: float | None = None
    ) -> Coroutine[Any, Any, int]:
        """Await this: set the value if the key is at that version, 0: if it does not exist. Raises
        VersionMismatch, and then nothing is recorded: read again and try again."""
        args = {"key": key, "value": value, "expected": version, "ttl_ms": _milliseconds("ttl", ttl or 0.0)}
        return self._context._once("kv.put", args)

    def delete(self, key: str, *, version: int = ANY_VERSION) -> Coroutine[Any, Any, int]:
        """Await this: the version of the change; 0: there was no such key. Raises VersionMismatch as `cas`
        does."""
        return self._context._once("kv.delete", {"key": key, "expected": version})

    async def list(self, prefix: str = "") -> AsyncGenerator[KeyValue, None]:
        """The keys that begin so, in order."""
        after = ""
        while True:
            page = await self._context._link.call("kv.list", {"prefix": prefix, "after": after})
            for found in page["found"]:
                yield KeyValue(**found)
            if not page["more"]:
                return
            after = page["found"][-1]["key"]


class SkillLock:
    """See `Coordination.lock`."""

    def __init__(self, link: Link, name: str, use: int, ttl: float, timeout: float | None) -> None:
        self._link, self.name, self._use = link, name, str(use)
        self._ttl_s = _milliseconds("ttl", ttl) / 1000
        self._timeout = timeout
        self.token, self.lost = 0, False
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> int:
        clock = asyncio.get_running_loop().time
        ends_at = math.inf if self._timeout is None else clock() + self._timeout
        while True:
            wait_s = max(0.0, min(_ASK_S, ends_at - clock()))
            spans = {"ttl_ms": int(self._ttl_s * 1000), "wait_ms": int(wait_s * 1000)}
            try:
                taken = await self._acquire(spans)
            except asyncio.CancelledError:
                await self._leave()
                raise
            if taken is not None:
                break
            if clock() >= ends_at:
                await self._call("lock.release", token=0)
                raise LockHeld(f"lock {self.name} was not free in time")
        self.token, self.lost = int(taken["token"]), False
        self._renewing = asyncio.create_task(self._renew(taken["left_ms"] / 1000))
        return self.token

    async def _acquire(self, spans: dict[str, int]) -> Any:
        try:
            return await self._call("lock.acquire", **spans)
        except CallRefused as error:
            if error.code == "LOCK_HELD":
                raise LockHeld(str(error)) from error
            raise

    async def _leave(self) -> None:
        """Who waits no more stands in the queue no more: the lock would be his, and he would not know."""
        with contextlib.suppress(SkillError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self._call("lock.release", token=0)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        held = False
        try:
            held = not self.lost and bool(await self._call("lock.release", token=self.token))
        except (CallFailed, CallRefused):
            if error is None:
                raise
        if not held and error is None:  # else what went wrong inside is what is told
            raise LockLost(f"lock {self.name} was lost while token {self.token} was in use")

    async def _renew(self, left_s: float) -> None:
        """Counted from before each call, so that it ends here no later than there."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + left_s
        while not self.lost:
            await asyncio.sleep(max(0.0, min(self._ttl_s / 3, ends_at - clock())))
            asked_at = clock()
            try:
                async with asyncio.timeout(max(0.0, ends_at - asked_at)):
                    self.lost = not await self._call("lock.renew", token=self.token)
                ends_at = asked_at + self._ttl_s
            except (CallFailed, TimeoutError):
                self.lost = clock() >= ends_at

    async def _call(self, name: str, **args: int) -> Any:
        return await self._link.call(name, {"name": self.name, "use": self._use, **args})


def _milliseconds(what: str, seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ValueError(f"{what}: {seconds!r} is not a number of seconds")
    if not 0 <= seconds <= 366 * TTL_S_MAX:
        raise ValueError(f"{what}: {seconds!r} is not in 0..{366 * TTL_S_MAX:g} seconds")
    return math.ceil(seconds * 1000)


# --- for plain functions


class SyncCoordination:
    """The same for a skill that is a plain function."""

    _context: Coordination

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        raise NotImplementedError

    def lock(self, name: str, *, ttl: float = TTL_S, timeout: float | None = None) -> SyncSkillLock:
        """As SkillContext.lock; for `with`."""
        return SyncSkillLock(self._context.lock(name, ttl=ttl, timeout=timeout), self._wait)

    @property
    def kv(self) -> SyncSkillKeys:
        """As SkillContext.kv."""
        return SyncSkillKeys(self._context.kv, self._wait)

    def publish(self, topic: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> int:
        """As SkillContext.publish."""
        return int(self._wait(self._context.publish(topic, body, headers=headers)))

    def now(self) -> datetime:
        """As SkillContext.now."""
        found: datetime = self._wait(self._context.now())
        return found


class SyncSkillLock:
    """See `Coordination.lock`."""

    def __init__(self, lock: SkillLock, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._lock, self._wait = lock, wait

    @property
    def lost(self) -> bool:
        """The lease has ended."""
        return self._lock.lost

    def __enter__(self) -> int:
        return int(self._wait(self._lock.__aenter__()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wait(self._lock.__aexit__(kind, error, traceback))


class SyncSkillKeys:
    """See `SkillKeys`."""

    def __init__(self, keys: SkillKeys, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._keys, self._wait = keys, wait

    def get(self, key: str, default: Any = None) -> Any:
        """As SkillKeys.get."""
        return self._wait(self._keys.get(key, default))

    def entry(self, key: str) -> KeyValue | None:
        """As SkillKeys.entry."""
        found: KeyValue | None = self._wait(self._keys.entry(key))
        return found

    def put(self, key: str, value: Any, *, ttl: float | None = None) -> int:
        """As SkillKeys.put."""
        return int(self._wait(self._keys.put(key, value, ttl=ttl)))

    def cas(self, key: str, value: Any, version: int, *, ttl: float | None = None) -> int:
        """As SkillKeys.cas."""
        return int(self._wait(self._keys.cas(key, value, version, ttl=ttl)))

    def delete(self, key: str, *, version: int = ANY_VERSION) -> int:
        """As SkillKeys.delete."""
        return int(self._wait(self._keys.delete(key, version=version)))

    def list(self, prefix: str = "") -> list[KeyValue]:
        """As SkillKeys.list, all at once."""

        async def all_of_them() -> list[KeyValue]:
            return [found async for found in self._keys.list(prefix)]

        found: list[KeyValue] = self._wait(all_of_them())
        return found
