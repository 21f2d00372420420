"""Locks: what is let go of when asking fails, and from when a lease is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest

from coterie.client import Cluster, ClusterError
from coterie.client.errors import LockLost
from coterie.client.locks import HeldLock, LockInfo, Locks
from coterie.v1 import locks_pb2
from tests.client.conftest import PATIENT, served


class FakeLocks:
    """Answers as told: each ask takes the next of `says`, and the last of them for ever."""

    def __init__(self) -> None:
        self.says: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.waits_ms: list[int] = []
        self.bell = asyncio.Condition()

    async def note(self, method: str, owner: str) -> None:
        async with self.bell:
            self.calls.append((method, owner))
            self.bell.notify_all()

    async def asked(self, count: int) -> None:
        async with self.bell:
            await self.bell.wait_for(lambda: len(self.calls) >= count)

    async def AcquireLock(self, request: locks_pb2.AcquireLockRequest, context: Any) -> Any:
        self.waits_ms.append(request.wait_ms)
        await self.note("acquire", request.owner)
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if said == "error":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "planned")
        if said == "wait":
            await asyncio.Event().wait()
        return locks_pb2.AcquireLockResponse(
            lock=locks_pb2.Lock(token=7, left_ms=30_000) if said == "taken" else None
        )

    async def ReleaseLock(self, request: locks_pb2.ReleaseLockRequest, context: Any) -> Any:
        await self.note("release", request.owner)
        return locks_pb2.ReleaseLockResponse(released=True)


@pytest.fixture
def node() -> FakeLocks:
    return FakeLocks()


@pytest.fixture
async def client(node: FakeLocks) -> AsyncIterator[Cluster]:
    async with (
        served(locks_pb2.DESCRIPTOR.services_by_name["Locks"], node) as address,
        Cluster(address, auto_discovery=False, timeouts=PATIENT) as opened,
    ):
        yield opened


async def test_a_repeat_that_fails_does_not_let_go_of_what_its_owner_may_hold(
    node: FakeLocks, client: Cluster
) -> None:
    node.says = ["error"]
    with pytest.raises(ClusterError):
        await client.locks.acquire("door", owner="me")
    assert node.calls == [("acquire", "me")]


async def test_a_repeat_that_is_cancelled_does_not_let_go_of_what_its_owner_may_hold(
    node: FakeLocks, client: Cluster
) -> None:
    node.says = ["wait"]
    asking = asyncio.create_task(client.locks.acquire("door", owner="me"))
    await node.asked(1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert node.calls == [("acquire", "me")]


async def test_an_owner_that_stands_in_the_queue_leaves_it(node: FakeLocks, client: Cluster) -> None:
    """After an answer that says so, which comes at once: nothing that it held before can be let go of."""
    node.says = ["queued", "wait"]
    asking = asyncio.create_task(client.locks.acquire("door", owner="me"))
    await node.asked(2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert node.calls == [("acquire", "me"), ("acquire", "me"), ("release", "me")]
    assert node.waits_ms[0] == 1 < node.waits_ms[1]


async def test_who_has_no_name_of_its_own_leaves_whatever_was_answered(
    node: FakeLocks, client: Cluster
) -> None:
    node.says = ["wait"]
    asking = asyncio.create_task(client.locks.acquire("door"))
    await node.asked(1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert [method for method, _ in node.calls] == ["acquire", "release"]
    assert len({owner for _, owner in node.calls}) == 1


async def test_who_is_cancelled_while_the_client_closes_is_cancelled(
    node: FakeLocks, client: Cluster
) -> None:
    node.says = ["queued", "wait"]
    asking = asyncio.create_task(client.locks.acquire("door"))
    await node.asked(2)
    asking.cancel()
    await client.close()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()


class OneLock:
    """In place of the cluster: it was asked some time ago, and the answer says what is left."""

    def __init__(self, asked_ago: float, left: float) -> None:
        self._ago, self._left = asked_ago, left
        self.renewed = asyncio.Event()

    async def _take(self, name: str, *given: object) -> tuple[LockInfo, float]:
        asked_at = asyncio.get_running_loop().time() - self._ago
        return LockInfo(name, "me", 7, self._left), asked_at

    async def renew(self, name: str, token: int) -> None:
        self.renewed.set()
        await asyncio.sleep(0)

    async def release(self, name: str, token: int) -> bool:
        return True


def held(locks: OneLock, ttl: float) -> HeldLock:
    return HeldLock(cast("Locks", locks), "door", ttl, None)


async def test_a_lease_of_an_answer_that_was_long_on_its_way_is_renewed_at_once() -> None:
    locks = OneLock(asked_ago=100.0, left=150.0)
    async with held(locks, 150.0) as lock:
        async with asyncio.timeout(20):
            await locks.renewed.wait()
        assert not lock.lost


async def test_a_first_lease_is_counted_from_before_the_call() -> None:
    """Asked 40 s ago, and 40 s were left when it was said: it may have ended, so it is not relied on."""
    locks = OneLock(asked_ago=40.0, left=40.0)
    lock = held(locks, 150.0)
    with pytest.raises(LockLost):
        async with lock:
            assert lock._renewing is not None
            async with asyncio.timeout(20):
                await lock._renewing
            assert lock.lost
