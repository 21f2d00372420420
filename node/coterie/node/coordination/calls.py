"""What running skills ask of locks, keys, topics and the cluster's clock."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from coterie.core.commands import Accepted, AdvanceClock, Outcome, Rejected
from coterie.core.coordination import kv
from coterie.core.coordination.bounds import KEY_CHARS_MAX, LEASE_MS_MAX, TTL_MS_MAX
from coterie.core.coordination.commands import (
    AcquireLock,
    DeleteKey,
    PublishMessage,
    PutKey,
    ReleaseLock,
    RenewLock,
)
from coterie.core.coordination.look_ups import entry_bytes, name_key
from coterie.core.coordination.nouns import KvEntry, Lock
from coterie.core.nouns import TaskId
from coterie.node.coordination.bus import body_faults
from coterie.node.coordination.desk import (
    Desk,
    accepted,
    headers_of,
    key_faults,
    lock_faults,
    mismatch,
    range_faults,
    topic_faults,
)
from coterie.node.coordination.locks import ASK_AGAIN_S, LEASE_MS_MIN, obtain
from coterie.node.errors import Violation, invalid
from coterie.node.skill_calls import Handlers, Run
from coterie.skills import Fenced
from coterie.skills.replay import STEP_KEY_CHARS_MAX
from coterie.v1 import tasks_pb2

ONCE = b"skill"  # a step of a task is done once, whatever a later attempt would put there
KEYS_LISTED_MAX = 1_000
KEYS_BYTES_MAX = 2 << 20  # of one answer: it is read and written in one go
READ_S = 30.0


def handlers(desk: Desk) -> Handlers:
    """By the names under which skills call them."""
    asked = _Calls(desk)
    return {
        "lock.acquire": asked.acquire,
        "lock.renew": asked.renew,
        "lock.release": asked.release,
        "kv.get": asked.get,
        "kv.put": asked.put,
        "kv.delete": asked.delete,
        "kv.list": asked.list_keys,
        "bus.publish": asked.publish,
        "clock.now": asked.now,
    }


class _Calls:
    """Arguments come from a process that is not trusted: each is looked at."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asking: dict[tuple[TaskId, int, str, str], asyncio.Task[Lock | None]] = {}  # for a lock

    # --- locks

    async def acquire(self, run: Run, args: Any) -> dict[str, int] | None:
        """The lock, or None: the run stands in the queue and should ask again."""
        name, use = _text(args, "name"), _use(args)
        owner = f"task:{run.task_id}/{use}"
        ttl_ms, wait_ms = _int(args, "ttl_ms"), _int(args, "wait_ms")
        _refuse(lock_faults(name), range_faults("ttl_ms", ttl_ms, LEASE_MS_MIN, LEASE_MS_MAX))
        task = run.task
        command = AcquireLock(task.tenant, name, owner, ttl_ms, 0, run.task_id, run.attempt)

        async def propose(asked: AcquireLock) -> Outcome:
            return _unless_deposed(await run.commit(asked))

        wait_s = min(wait_ms / 1000, ASK_AGAIN_S)
        asking = asyncio.create_task(
            obtain(command, self._desk.state, self._desk.tide, propose, wait_s), name=f"lock {name}"
        )
        place = run.task_id, run.attempt, name, use
        self._asking[place] = asking
        try:
            lock = await asking
        except asyncio.CancelledError:
            if self._asking.get(place) is asking:
                raise  # else the skill waits for it no more: see release
            lock = None
        finally:
            if self._asking.get(place) is asking:
                del self._asking[place]
        if lock is None:
            return None
        return {"token": lock.token, "left_ms": max(0, lock.expires_at_ms - self._desk.time.now_ms())}

    async def renew(self, run: Run, args: Any) -> bool:
        """Whether it is still held."""
        command = RenewLock(run.task.tenant, _text(args, "name"), _int(args, "token"))
        return isinstance(await run.commit(command), Accepted)

    async def release(self, run: Run, args: Any) -> bool:
        tenant, name = run.task.tenant, _text(args, "name")
        token, use = _int(args, "token"), _use(args)
        asking = None if token else self._asking.pop((run.task_id, run.attempt, name, use), None)
        if asking is not None:
            asking.cancel()  # or it would ask for its place in the queue again
        owner = "" if token else f"task:{run.task_id}/{use}"
        return not accepted(await run.commit(ReleaseLock(tenant, name, token, owner))).duplicate

    # --- keys

    async def get(self, run: Run, args: Any) -> dict[str, Any] | None:
        key = _key(args)
        await self._desk.reader.barrier(tasks_pb2.LINEARIZABLE, READ_S)
        entry = kv.get(run.state, run.task.tenant, key, self._desk.time.now_ms())
        return _entry(entry) if entry is not None else None

    async def put(self, run: Run, args: Any) -> int:
        """The new version."""
        key, ttl_ms, expected = _key(args), _int(args, "ttl_ms"), _int(args, "expected")
        _refuse(range_faults("ttl", ttl_ms, 0, TTL_MS_MAX))
        value = json.dumps(args.get("value"), ensure_ascii=False, separators=(",", ":")).encode()
        request_id = f"{run.task_id}/{_use(args)}"
        command = PutKey(run.task.tenant, key, value, expected, ttl_ms, request_id, ONCE)
        return self._changed(run, key, await run.commit(command))

    async def delete(self, run: Run, args: Any) -> int:
        """The version of the change; 0: it was not there."""
        key, expected = _key(args), _int(args, "expected")
        request_id = f"{run.task_id}/{_use(args)}"
        outcome = await run.commit(DeleteKey(run.task.tenant, key, expected, request_id, ONCE))
        return self._changed(run, key, outcome)

    def _changed(self, run: Run, key: str, outcome: Outcome) -> int:
        if isinstance(outcome, Rejected) and outcome.code == "VERSION_MISMATCH":
            entry = run.state.kv.get(name_key(run.task.tenant, key))
            raise mismatch(outcome, entry.version if entry is not None else 0)
        return accepted(outcome).number

    async def list_keys(self, run: Run, args: Any) -> dict[str, Any]:
        """Some of those after `after`, and whether there are more."""
        prefix, after = _text(args, "prefix"), _text(args, "after")
        await self._desk.reader.barrier(tasks_pb2.LINEARIZABLE, READ_S)
        state, now_ms, tenant = run.state, self._desk.time.now_ms(), run.task.tenant
        found: list[dict[str, Any]] = []
        held = 0
        for key in state.coordination.keys_from(tenant, prefix, after):
            entry = kv.get(state, tenant, key, now_ms)
            if entry is None:
                continue
            held += entry_bytes(entry)
            if found and (held > KEYS_BYTES_MAX or len(found) >= KEYS_LISTED_MAX):
                return {"found": found, "more": True}
            found.append(_entry(entry))
        return {"found": found, "more": False}

    # --- topics and time

    async def publish(self, run: Run, args: Any) -> int:
        """The position."""
        topic, headers = _text(args, "topic"), args.get("headers") or {}
        body = json.dumps(args.get("body"), ensure_ascii=False, separators=(",", ":")).encode()
        _refuse(topic_faults(topic), body_faults(body))
        if not isinstance(headers, dict) or not all(isinstance(text, str) for text in headers.values()):
            raise invalid([Violation("headers", "is not an object of strings")])
        command = PublishMessage(
            run.task.tenant,
            topic,
            body,
            headers_of(headers),
            f"task:{run.task_id}",
            f"{run.task_id}/{_use(args)}",
            ONCE,
        )
        return accepted(await run.commit(command)).number

    async def now(self, run: Run, args: Any) -> int:
        """The cluster's clock, as the leader stamps it now: ms since the epoch."""
        return accepted(await run.commit(AdvanceClock(0))).number


def _unless_deposed(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Rejected) and outcome.code in ("FENCED", "TASK_NOT_FOUND", "TASK_TERMINAL"):
        raise Fenced(outcome.reason)
    return outcome


def _entry(entry: KvEntry) -> dict[str, Any]:
    try:
        value = json.loads(entry.value)
    except ValueError:
        value = entry.value.decode("utf-8", "replace")  # put by a client as bytes of its own
    return {"key": entry.key, "value": value, "version": entry.version}


def _refuse(*wrong: list[Violation]) -> None:
    found = [violation for violations in wrong for violation in violations]
    if found:
        raise invalid(found)


def _key(args: Any) -> str:
    key = _text(args, "key")
    _refuse(key_faults(key, KEY_CHARS_MAX))
    return key


def _text(args: Any, name: str) -> str:
    value = args.get(name, "") if isinstance(args, dict) else None
    if not isinstance(value, str):
        raise invalid([Violation(name, f"{value!r} is not a string")])
    return value


def _use(args: Any) -> str:
    """Which use of a name it is. It becomes a part of what the log remembers."""
    use = _text(args, "use")
    _refuse(range_faults("use", len(use), 0, STEP_KEY_CHARS_MAX, " characters"))
    return use


def _int(args: Any, name: str) -> int:
    value = args.get(name, 0) if isinstance(args, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 1 << 62:
        raise invalid([Violation(name, f"{value!r} is not a whole number")])
    return value
