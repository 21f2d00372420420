"""Frames, strict JSON and the lease board, without processes."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
import tracemalloc
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.skills import jsonio
from coterie.skills.errors import NotJson, TooLarge
from coterie.skills.frames import (
    JOINED_BYTES_MAX,
    LENGTHS,
    Frame,
    FrameDecoder,
    FrameError,
    FrameSocket,
    encode_frame,
    encode_parts,
)
from coterie.skills.lease import LeaseBoard
from coterie.skills.limits import Limits
from coterie.skills.runframe import pack_run, unpack_run
from coterie.skills.status import describe_status

HEADERS = st.dictionaries(st.text(), st.text() | st.integers() | st.none()).map(lambda h: {**h, "op": "x"})
FRAMES = st.lists(st.tuples(HEADERS, st.binary(max_size=300)), max_size=6)


@given(frames=FRAMES, cuts=st.lists(st.integers(1, 50), min_size=1))
def test_frames_survive_any_cutting(frames: list[tuple[dict[str, Any], bytes]], cuts: list[int]) -> None:
    data = b"".join(encode_frame(header, body) for header, body in frames)
    decoder, got, turn = FrameDecoder(300), [], 0
    while data:
        size = cuts[turn % len(cuts)]
        got += decoder.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert got == [Frame(header, body) for header, body in frames]


@given(st.binary(max_size=200))
def test_garbage_is_a_frame_error_or_nothing(garbage: bytes) -> None:
    decoder = FrameDecoder(100, 100)
    try:
        frames = decoder.feed(garbage)
    except FrameError:
        return
    assert all(isinstance(frame.header["op"], str) for frame in frames)


@pytest.mark.parametrize("lengths", [(101, 0), (2, 101), (2**32 - 1, 2**32 - 1)])
def test_a_frame_above_the_limit_is_refused_before_it_is_read(lengths: tuple[int, int]) -> None:
    with pytest.raises(FrameError, match="above the limit"):
        FrameDecoder(100, 100).feed(LENGTHS.pack(*lengths))


@pytest.mark.parametrize("header", [b"[]", b"{}", b'{"op":1}', b"\xff", b"{", b"[" * 60_000])
def test_a_header_without_op_is_refused(header: bytes) -> None:
    with pytest.raises(FrameError):
        FrameDecoder(100).feed(LENGTHS.pack(len(header), 0) + header)


def test_few_pieces_are_made_of_many_parts_and_large_ones_are_not_copied() -> None:
    large, small = b"x" * (JOINED_BYTES_MAX + 1), [b"%04d" % number for number in range(10_000)]
    parts = [*small, large, b"", large, *small]
    pieces = encode_parts({"op": "x"}, parts)
    assert len(pieces) == 4 and sum(piece is large for piece in pieces) == 2
    assert b"".join(pieces) == encode_frame({"op": "x"}, b"".join(parts))


async def test_a_large_journal_is_sent_without_a_copy_of_it() -> None:
    """It would take the loop's time, and several times the memory."""
    ours, theirs = socket.socketpair()
    frames = FrameSocket(
        asyncio.get_running_loop(), ours, FrameDecoder(0), lambda frame: None, lambda error: None
    )
    steps = {f"s{number}": bytes([number]) * 1_000_000 for number in range(20)}
    tracemalloc.start()
    try:
        frames.send_parts(*pack_run({"skill": "s"}, b"1", None, steps))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        frames.close()
        theirs.close()
    assert peak < 1_000_000


async def test_a_slow_reader_gets_all_frames_and_descriptors_in_order() -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[Exception | None] = loop.create_future()
    frames = FrameSocket(loop, ours, FrameDecoder(0), lambda frame: None, closed.set_result)
    pipes = [os.pipe() for _ in range(3)]
    body = b"x" * 1_000_000
    for number, (_, write_end) in enumerate(pipes):
        frames.send({"op": "big", "n": number}, body, fds=(write_end,))
    decoder, got, fds = FrameDecoder(len(body)), list[Frame](), list[int]()
    theirs.setblocking(False)
    while len(got) < 3:
        try:
            data, received, _, _ = socket.recv_fds(theirs, 65_536, 4)
        except BlockingIOError:
            await asyncio.sleep(0)
            continue
        got += decoder.feed(data)
        fds += received
    assert [frame.header["n"] for frame in got] == [0, 1, 2]
    for number, ((read_end, _), fd) in enumerate(zip(pipes, fds, strict=True)):
        os.write(fd, bytes([number]))
        assert os.read(read_end, 9) == bytes([number])
        os.close(fd)
        # Our own copy is closed: with theirs gone too, the pipe has ended.
        assert os.read(read_end, 9) == b""
        os.close(read_end)
    theirs.close()
    assert await closed is None


@given(st.binary(), st.none() | st.binary(), st.dictionaries(st.text(), st.binary()))
def test_a_run_arrives_as_it_was_sent(
    payload: bytes, checkpoint: bytes | None, steps: dict[str, bytes]
) -> None:
    facts = {"skill": "s", "task_id": "t", "attempt": 3, "node_id": "n"}
    pieces = encode_parts(*pack_run(facts, payload, checkpoint, steps))
    [frame] = FrameDecoder(10_000_000, 10_000_000).feed(b"".join(pieces))
    got, run = unpack_run(frame, Limits())
    assert (got, run.checkpoint, run.steps) == (payload, checkpoint, steps)
    assert (run.task_id, run.attempt, run.node_id) == ("t", 3, "n")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_json_goes_round(value: Any) -> None:
    try:
        data = jsonio.encode(value, "it", 1_000_000)
    except NotJson as error:
        assert "surrogates not allowed" in str(error)
        return
    assert jsonio.decode(data) == value


@dataclass
class Point:
    x: int
    y: int


def test_dataclasses_are_dumped() -> None:
    assert jsonio.encode([Point(1, 2)], "it", 100) == b'[{"x":1,"y":2}]'


def test_what_is_not_json_or_too_large_is_refused_by_name() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (object(), {1, 2}, b"x", math.inf, cycle, {(1, 2): 3}, "\ud800", Point):
        with pytest.raises(NotJson, match="the thing cannot be written as JSON"):
            jsonio.encode(value, "the thing", 100)
    with pytest.raises(TooLarge, match="the thing takes 102 bytes as JSON, the limit is 101"):
        jsonio.encode("x" * 100, "the thing", 101)


@given(st.text(alphabet=st.characters(codec=None), max_size=200), st.integers(2, 100))
def test_clipped_text_is_short_and_encodable(text: str, limit: int) -> None:
    clipped = jsonio.clip(text, limit)
    assert len(clipped.encode()) <= 4 * (limit + 60)
    if len(text) <= limit:
        assert clipped == text.encode("utf-8", "replace").decode()


def test_the_lease_board_is_shared_with_forked_processes() -> None:
    board = LeaseBoard(4)
    assert board.deadline == math.inf and not board.expired
    pid = os.fork()
    if pid == 0:
        board.mark(2, True)
        board.deadline = time.monotonic()
        os._exit(0)
    os.waitpid(pid, 0)
    assert [board.is_busy(slot) for slot in range(4)] == [False, False, True, False]
    assert board.expired


def test_an_unknown_signal_has_a_number() -> None:
    assert describe_status(3 << 8) == "exited with status 3"
    assert describe_status(11) == "killed by SIGSEGV"
    assert describe_status(33) == "killed by signal 33"


async def test_a_side_that_dies_with_something_unread_has_closed_and_broken_nothing() -> None:
    """What it had said is heard all the same."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[Exception | None] = loop.create_future()
    heard: list[Frame] = []
    frames = FrameSocket(loop, ours, FrameDecoder(10), heard.append, closed.set_result)
    frames.send({"op": "job"})
    theirs.sendall(encode_frame({"op": "ready"}))
    theirs.close()
    assert await asyncio.wait_for(closed, 5) is None
    assert [frame.header for frame in heard] == [{"op": "ready"}]
