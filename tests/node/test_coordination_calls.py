"""Locks and keys as skills ask for them, over the real rules: who stops waiting, how much an answer holds."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.core.commands import Accepted, Command, Outcome
from coterie.core.coordination.bounds import VALUE_BYTES_MAX
from coterie.core.coordination.commands import AcquireLock, PutKey, ReleaseLock
from coterie.core.nouns import TaskId
from coterie.node.coordination.calls import KEYS_BYTES_MAX, KEYS_LISTED_MAX, handlers
from coterie.node.coordination.tide import Tide
from coterie.node.errors import ApiError
from coterie.skills.coordination import KeyValue, SkillKeys, SkillLock
from tests.core.builders import CoreCluster

LOCK = "default\0stock"


class World:
    """A task that runs, its node, and a lock that somebody else has."""

    def __init__(self) -> None:
        self.core = CoreCluster().with_node("n1")
        self.core.running("t1")
        self.tide = Tide(lambda: self.core.state)
        desk: Any = SimpleNamespace(
            state=lambda: self.core.state,
            tide=self.tide,
            time=SimpleNamespace(now_ms=lambda: self.core.now_ms),
            reader=SimpleNamespace(barrier=lambda mode, timeout_s: asyncio.sleep(0)),
        )
        self.handlers, self.sizes = handlers(desk), list[int]()
        self.run: Any = SimpleNamespace(
            task_id=TaskId("t1"),
            attempt=1,
            task=self.core.task("t1"),
            state=self.core.state,
            commit=self.commit,
        )
        self.token = self._do(AcquireLock("default", "stock", "somebody", 60_000)).number

    def _do(self, command: Command) -> Accepted:
        outcome = self.core.do(command)
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def commit(self, command: Command) -> Outcome:
        await asyncio.sleep(0)
        outcome = self.core.do(command)
        self.tide.look()
        return outcome

    async def call(self, name: str, args: Any) -> Any:
        """As a skill's process does: what nobody waits for any more goes on in the node."""
        return await asyncio.shield(asyncio.ensure_future(self.handlers[name](self.run, args)))


def waiters(world: World) -> list[str]:
    return [waiter.owner for waiter in world.core.state.locks[LOCK].waiters]


async def test_who_stops_waiting_for_a_lock_does_not_get_it_later() -> None:
    world = World()
    link: Any = world
    lock = SkillLock(link, "stock", 1, 3_600.0, None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), lock:
            raise AssertionError("somebody else has it")
    assert not waiters(world)
    world._do(ReleaseLock("default", "stock", world.token))
    world.tide.look()
    for _ in range(20):
        await asyncio.sleep(0)
    assert LOCK not in world.core.state.locks, "nobody holds it without knowing"


async def test_a_node_that_stops_ends_the_wait_for_a_lock() -> None:
    world = World()
    args = {"name": "stock", "use": "1", "ttl_ms": 1_000, "wait_ms": 8_000}
    asking = asyncio.ensure_future(world.handlers["lock.acquire"](world.run, args))
    for _ in range(20):
        await asyncio.sleep(0)
    assert waiters(world) == ["task:t1/1"]
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_long_list_of_keys_comes_in_answers_of_a_bounded_size() -> None:
    world = World()
    large = [f"large/{number:03}" for number in range(80)]
    small = [f"small/{number:04}" for number in range(KEYS_LISTED_MAX + 1)]
    for key in [*large, *small]:
        value = b'"' + b"x" * (VALUE_BYTES_MAX - 2 if key in large else 1) + b'"'
        world._do(PutKey("default", key, value))
    answers: list[list[dict[str, Any]]] = []

    async def call(name: str, args: Any) -> Any:
        page = await world.call(name, args)
        answers.append(page["found"])
        return page

    context: Any = SimpleNamespace(_link=SimpleNamespace(call=call))
    found: list[KeyValue] = [one async for one in SkillKeys(context).list()]
    assert [one.key for one in found] == [*large, *small]
    assert max(sum(len(one["value"]) for one in page) for page in answers) <= KEYS_BYTES_MAX
    assert len(answers) < 10


@pytest.mark.parametrize("name", ["lock.acquire", "lock.release", "kv.put", "kv.delete", "bus.publish"])
async def test_what_the_log_remembers_a_call_by_has_an_end(name: str) -> None:
    args = {"name": "n", "key": "k", "topic": "t", "value": 1, "ttl_ms": 1_000, "use": "x" * 161}
    with pytest.raises(ApiError, match="use"):
        await World().call(name, args)
