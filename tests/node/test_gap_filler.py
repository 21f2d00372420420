"""Copying history from peers: in messages of a bounded size, from whoever has it, and without trusting it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coterie.core.commands import CancelTask
from coterie.core.nouns import Data, TaskId
from coterie.node.ledger import Gap
from coterie.node.ledger.feed import MESSAGE_BYTES, GapFiller, pages
from coterie.v1 import peer_pb2
from tests.core.builders import submit_command
from tests.node.fakes import QuietNode

Answer = list[peer_pb2.LedgerRows] | grpc.StatusCode | QuietNode


class Call:
    def __init__(self, answer: Answer, request: peer_pb2.FetchLedgerRequest) -> None:
        self._answer, self._request = answer, request

    async def __aiter__(self) -> AsyncIterator[peer_pb2.LedgerRows]:
        if isinstance(self._answer, grpc.StatusCode):
            raise grpc.aio.AioRpcError(self._answer, grpc.aio.Metadata(), grpc.aio.Metadata())
        if isinstance(self._answer, list):
            for rows in self._answer:
                yield rows
            return
        request = self._request
        async for rows in pages(self._answer.ledger, request.after_index, request.up_to_index):
            yield rows

    def cancel(self) -> None:
        pass


class Channels:
    metadata = ()

    def __init__(self, **answers: Answer) -> None:
        self.peers = answers

    def stub(self, peer: str) -> Any:
        class Stub:
            @staticmethod
            def FetchLedger(request: peer_pb2.FetchLedgerRequest, **_: Any) -> Call:
                return Call(self.peers[peer], request)

        return Stub


@pytest.fixture
async def late(tmp_path: Path) -> AsyncIterator[QuietNode]:
    """A node that got the state up to index 50 as a snapshot."""
    made = await QuietNode.open(tmp_path / "late")
    made.ledger.note_snapshot(50)
    yield made
    await made.ledger.close()


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[QuietNode]:
    """A node with the history of 40 large tasks."""
    made = await QuietNode.open(tmp_path / "full")
    made.core.index = 10
    for n in range(20):
        made.do(submit_command(f"t{n}", payload=Data(b"x" * 256 * 1024)))
        made.do(CancelTask(TaskId(f"t{n}")))
    await made.ledger.flush(50)
    yield made
    await made.ledger.close()


def filler(node: QuietNode, **answers: Answer) -> GapFiller:
    channels: Any = Channels(**answers)
    return GapFiller(node.ledger, channels)


async def test_pages_travel_in_messages_that_fit(full: QuietNode) -> None:
    messages = [rows async for rows in pages(full.ledger, 0, 50)]
    assert len(messages) > 1
    assert max(rows.ByteSize() for rows in messages) < 2 * MESSAGE_BYTES
    assert [rows.through_index for rows in messages][-1] == 50
    assert all(rows.through_index == 0 for rows in messages[:-1]), "an incomplete message claims nothing"


async def test_history_comes_from_whoever_has_it(late: QuietNode, full: QuietNode) -> None:
    filling = filler(late, n2=grpc.StatusCode.UNAVAILABLE, n3=full)
    assert filling.catching_up
    await filling._fill()
    assert late.ledger.gaps == ()
    assert not filling.catching_up
    assert await late.reader.in_history(TaskId("t7"))


@pytest.mark.parametrize("broken", [b"\xff\xff\xff", b"\x0a\x05\x0a\x03\x80\x01\x63"])
async def test_rows_that_are_no_use_do_not_end_the_node(
    late: QuietNode, full: QuietNode, broken: bytes
) -> None:
    filling = filler(late, n2=[peer_pb2.LedgerRows(tasks=[broken], through_index=50)], n3=full)
    await filling._fill()
    assert late.ledger.gaps == ()


async def test_what_no_peer_has_is_not_waited_for(late: QuietNode) -> None:
    nothing: Answer = [peer_pb2.LedgerRows(through_index=0)]
    filling = filler(late, n2=nothing, n3=grpc.StatusCode.UNAVAILABLE)
    await filling._fill()
    assert filling.catching_up, "the one that did not answer may have it"
    filling = filler(late, n2=nothing, n3=nothing)
    await filling._fill()
    assert late.ledger.gaps == (Gap(0, 50),)
    assert not filling.catching_up


async def test_a_new_node_that_looked_for_gaps_too_early_is_catching_up_all_the_same(full: QuietNode) -> None:
    """It looked before there were any, and denied tasks until the first round of copying was over."""
    filling = filler(full, n2=full)
    await filling._fill()
    assert not filling.catching_up
    full.ledger.note_snapshot(full.core.index + 100)
    assert filling.catching_up


async def test_a_gap_that_nobody_was_asked_about_is_not_hopeless(late: QuietNode) -> None:
    nothing: Answer = [peer_pb2.LedgerRows(through_index=0)]
    filling = filler(late, n2=nothing)
    await filling._fill()
    assert not filling.catching_up
    late.ledger.note_snapshot(60)
    assert filling.catching_up
