"""Watching keys: what is told once, and what again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from coterie.client import Cluster
from coterie.v1 import kv_pb2
from tests.client.conftest import PATIENT, served


class FakeKeys:
    """Tells one part of its script on each stream, and ends it."""

    def __init__(self, *parts: list[kv_pb2.KeyChange]) -> None:
        self._parts: Iterator[list[kv_pb2.KeyChange]] = iter(parts)
        self.asked: list[int] = []

    async def WatchKeys(self, request: kv_pb2.WatchKeysRequest, context: Any) -> AsyncIterator[Any]:
        self.asked.append(request.after_version)
        for change in next(self._parts):
            yield change


def put(key: str, version: int) -> kv_pb2.KeyChange:
    return kv_pb2.KeyChange(entry=kv_pb2.KeyEntry(key=key, version=version, value=b"1"), version=version)


def synced(version: int) -> kv_pb2.KeyChange:
    return kv_pb2.KeyChange(synced=True, version=version)


async def told(servicer: FakeKeys, count: int) -> list[tuple[str, str]]:
    """Kind and key of the first changes that a watcher of this node is given."""
    changes: list[tuple[str, str]] = []
    async with (
        served(kv_pb2.DESCRIPTOR.services_by_name["KeyValue"], servicer) as address,
        Cluster(address, auto_discovery=False, timeouts=PATIENT) as client,
        aclosing(client.kv.watch()) as watch,
    ):
        async for change in watch:
            changes.append((change.kind, change.key))
            if len(changes) == count:
                break
    return changes


async def test_synced_is_told_once_over_all_streams() -> None:
    servicer = FakeKeys([put("a", 1), synced(1)], [synced(1), put("b", 2)], [synced(2), put("c", 3)])
    changes = await told(servicer, 4)
    assert changes == [("put", "a"), ("synced", ""), ("put", "b"), ("put", "c")]
    assert servicer.asked == [0, 1, 2]


async def test_synced_is_told_again_after_a_reset() -> None:
    reset = kv_pb2.KeyChange(reset=True, version=9)
    servicer = FakeKeys(
        [put("a", 1), synced(1)], [reset, put("b", 9)], [put("b", 9), synced(9), put("c", 10)]
    )
    changes = await told(servicer, 7)
    first = [("put", "a"), ("synced", "")]
    assert changes == [*first, ("reset", ""), ("put", "b"), ("put", "b"), ("synced", ""), ("put", "c")]
    assert servicer.asked == [0, 1, 9]
