"""Blobs that something refers to stay, wherever it stands; all others go after their time."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.core.nouns import Data
from coterie.core.ports import NoQuorum
from coterie.node.collecting import Collector, mentions, references
from coterie.node.config import KeepSettings
from coterie.node.errors import ApiError
from coterie.node.ledger import Ledger, LedgerEvent
from coterie.v1 import log_pb2
from tests.node.ledger_tools import event, opened, task
from tests.node.test_blob_exchange import World, world

DAY_MS = 86_400_000
_ = world  # a fixture


class Node:
    """The parts of a node which a collector looks at, and the collector."""

    def __init__(self, world: World, ledger: Ledger, root: Path) -> None:
        self.world, self.ledger, self.root = world, ledger, root
        self.state: list[bytes] = []
        self.now_ms, self.incomplete, self.cut_off = 0, False, False
        self.collector = Collector(
            world.store,
            ledger,
            world.exchange.read,
            lambda: iter(self.state),
            self.barrier,
            lambda: self.now_ms,
            lambda: self.incomplete,
            KeepSettings(history_ms=DAY_MS, unused_blob_ms=DAY_MS),
        )

    async def barrier(self) -> None:
        if self.cut_off:
            raise NoQuorum("no majority")

    async def old_blob(self, content: bytes) -> str:
        """A blob that was put two days ago."""
        name = await self.world.store.put_bytes(content)
        self.age(name)
        return name

    def age(self, name: str) -> None:
        long_ago = time.time() - 2 * DAY_MS / 1000
        os.utime(self.root / "n1" / name[:2] / name[2:], (long_ago, long_ago))

    async def left(self) -> set[str]:
        """What is there after a round."""
        await self.collector.collect()
        return {entry.sha256 for entry in await self.world.store.entries()}


@pytest.fixture
async def node(world: World, tmp_path: Path) -> AsyncIterator[Node]:
    async with opened(tmp_path / "ledger" / "ledger.db") as ledger:
        yield Node(world, ledger, tmp_path)


def reference(name: str) -> bytes:
    """As a record of the state or of the ledger names a blob."""
    return log_pb2.Data(sha256=name, size_bytes=5).SerializeToString()


def noted(number: int, record: bytes) -> LedgerEvent:
    return LedgerEvent(f"task-{number}", 1, number, record)


async def test_what_nothing_refers_to_goes_after_its_time(node: Node) -> None:
    old, new = await node.old_blob(b"old"), await node.world.store.put_bytes(b"new")
    assert await node.left() == {new}
    assert not await node.world.store.has(old)
    assert node.world.store.total_bytes == 3


async def test_a_clock_that_jumps_makes_nothing_old_that_was_put_just_now(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward by two days, then back by four."""
    new = await node.world.store.put_bytes(b"about to be submitted")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2 * DAY_MS / 1000)
    assert await node.left() == {new}
    monkeypatch.setattr(time, "time", lambda: real() - 2 * DAY_MS / 1000)
    later = await node.world.store.put_bytes(b"put by a clock that is late")
    long_ago = real() - 2 * DAY_MS / 1000
    os.utime(node.root / "n1" / later[:2] / later[2:], (long_ago, long_ago))
    assert await node.left() == {new, later}


async def test_what_only_a_blob_of_another_node_names_stays(node: Node) -> None:
    """The state names the first, which is here; it names the second, which is not; that names the third."""
    third = await node.old_blob(b"third")
    second = await node.world.peers["n2"].store.put_bytes(b'{"next": "%s"}' % third.encode())
    first = await node.old_blob(b'["%s", "%s"]' % (second.encode(), b"ab" * 32))
    node.state = [reference(first)]
    for _ in range(2):  # also when what they hold is known already
        assert await node.left() == {first, third}
    node.state = []
    assert await node.left() == set()


async def test_blobs_elsewhere_are_forgotten_with_what_named_them(node: Node) -> None:
    await node.old_blob(b"else there is nothing to look for")
    for number in range(3):
        elsewhere = await node.world.peers["n2"].store.put_bytes(b"only at n2: %d" % number)
        kept = await node.old_blob(b"kept: " + elsewhere.encode())
        node.state = [reference(kept)]
        assert await node.left() == {kept}
        assert set(node.collector._inside) == {kept.encode(), elsewhere.encode()}


async def test_what_the_state_or_the_ledger_refers_to_stays(node: Node) -> None:
    in_state, of_task, of_event, queued = [await node.old_blob(b"%d" % number) for number in range(4)]
    node.state = [b"", reference(in_state)]
    node.ledger.append(1, [task(1, record=reference(of_task))], [noted(1, reference(of_event))])
    await node.ledger.flush(1)
    node.ledger.append(2, [], [noted(2, b'{"chart": "%s"}' % queued.encode())])
    assert await node.left() == {in_state, of_task, of_event, queued}


async def test_blobs_in_blobs_stay_also_across_chunks_and_nodes(node: Node) -> None:
    inner = [await node.old_blob(b"inner %d" % number) for number in range(3)]
    first = await node.old_blob(b"." * ((1 << 20) - 30) + inner[0].encode() + b"." * 99)
    elsewhere = await node.world.peers["n2"].store.put_bytes(b"only at n2: " + inner[1].encode())
    node.state = [reference(first), reference(elsewhere)]
    assert await node.left() == {first, inner[0], inner[1]}
    assert not await node.world.store.has(elsewhere), "it was only looked at"


async def test_nothing_goes_while_a_blob_in_use_cannot_be_read(node: Node) -> None:
    unused = await node.old_blob(b"unused")
    node.state = [reference(sha256(b"of a node that is down").hexdigest())]
    node.world.peers["n3"].down = True
    with pytest.raises(ApiError, match="n3 did not answer"):
        await node.collector.collect()
    node.world.peers["n3"].down = False
    assert await node.left() == set(), "a blob that no node has keeps nothing"
    assert not await node.world.store.has(unused)


async def test_a_node_that_is_cut_off_removes_nothing(node: Node) -> None:
    """It may not know yet what has come into use."""
    unused, node.cut_off = await node.old_blob(b"unused"), True
    with pytest.raises(NoQuorum):
        await node.collector.collect()
    assert await node.world.store.has(unused)


async def test_rows_that_are_lost_during_the_search_are_missing(node: Node) -> None:
    unused = await node.old_blob(b"unused")

    class Image(list[bytes]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            node.incomplete = True
            yield b""

    node.state = Image()
    assert await node.left() == {unused}


async def test_a_blob_that_mentions_more_than_is_remembered_is_read_again(node: Node) -> None:
    inner = await node.old_blob(b"inner")
    outer = await node.old_blob(os.urandom(400_000).hex().encode() + b"|" + inner.encode())
    node.state = [reference(outer)]
    for _ in range(2):
        assert await node.left() == {outer, inner}
    assert outer.encode() not in node.collector._inside


async def test_nothing_goes_while_rows_of_the_ledger_are_missing_here(node: Node) -> None:
    unused, node.incomplete = await node.old_blob(b"unused"), True
    assert await node.left() == {unused}


async def test_what_is_put_or_referred_to_again_is_new_again(node: Node) -> None:
    again, secured = await node.old_blob(b"again"), await node.old_blob(b"secured")
    for peer in node.world.peers.values():
        await peer.store.put_bytes(b"secured")
    await node.world.store.put_bytes(b"again")
    await node.world.exchange.secure(Data(sha256=secured, size_bytes=7))
    assert await node.left() == {again, secured}


async def test_what_comes_into_use_during_the_search_stays(node: Node) -> None:
    late = await node.old_blob(b"late")

    class Image(list[bytes]):
        """The state was read; then a command refers to the blob."""

        def __iter__(self):  # type: ignore[no-untyped-def]
            yield b""
            os.utime(node.root / "n1" / late[:2] / late[2:])

    node.state = Image()
    assert await node.left() == {late}


async def test_history_goes_by_the_time_of_the_log(node: Node) -> None:
    node.ledger.append(1, [task(1)], [event(1, 1)])
    node.ledger.append(2, [task(2, finished_at_ms=task(1).finished_at_ms + DAY_MS)], [event(2, 1)])
    await node.ledger.flush(2)
    node.now_ms = task(1).finished_at_ms + DAY_MS + 1
    assert await node.collector.prune() == 1
    assert await node.ledger.task("task-1") is None and not await node.ledger.events("task-1", 0, 9)
    assert await node.ledger.task("task-2") is not None and await node.ledger.events("task-2", 0, 9)


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(min_size=32, max_size=32))
def test_a_hash_is_seen_whatever_stands_beside_it(before: bytes, after: bytes, digest: bytes) -> None:
    name = digest.hex().encode()
    assert name in mentions(before + name + after)
    assert name in mentions(b"abc0" + name + b"9f")
    assert name in references(before + b"\x12\x40" + name + after)
