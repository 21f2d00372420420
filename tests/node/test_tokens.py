"""Words of running model calls: kept in order, told once, and joined again."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coterie.client import ClusterError, TokenChunk, TokenText
from coterie.client.watch import Watch
from coterie.core.nouns import TaskId
from coterie.core.task_rules import STEP_KEY_CHARS_MAX
from coterie.node import token_watch
from coterie.node.cli.following import Words
from coterie.node.errors import ApiError
from coterie.node.llm.tokens import CHUNK_BYTES_MAX, Piece, TokenBoard, TokenHub
from coterie.node.token_watch import STEPS_MAX, _Reading, answer_of, split_token
from coterie.v1 import tasks_pb2

TEXT = "Wörter 一二三 und noch eines. "


def piece(text: str, offset: int = 0, *, attempt: int = 1, stream: int = 1) -> Piece:
    return Piece("llm", attempt, stream, offset, text.encode())


def chunk(text: str, offset: int = 0, *, attempt: int = 1, stream: int = 1) -> TokenChunk:
    return TokenChunk("llm", attempt, stream, offset, text, False)


def test_pieces_that_overlap_or_come_again_add_what_is_new() -> None:
    board = TokenBoard()
    for one in (piece("abc"), piece("abc"), piece("bcd", 1), piece("zz", 9), piece("ef", 4)):
        board.add(one)
    assert board.words["llm"].text == b"abcdef"


def test_a_later_try_makes_an_earlier_one_void_and_never_the_other_way() -> None:
    board = TokenBoard()
    board.add(piece("first"))
    board.add(piece("second", stream=2))
    board.add(piece("late", stream=1))
    assert board.beyond({"llm": (1, 1, 5)}) == [piece("second", stream=2)]
    board.add(piece("", attempt=2))
    assert board.beyond({"llm": (1, 2, 6)}) == [piece("", attempt=2)], "said at once, before its first word"
    assert board.beyond({"llm": (2, 1, 0)}) == []


def test_long_texts_come_in_chunks_that_end_between_characters() -> None:
    board, text = TokenBoard(), "一" * CHUNK_BYTES_MAX
    board.add(piece(text))
    joined, at = "", (0, 0, 0)
    while found := board.beyond({"llm": at}):
        assert found[0].offset == len(joined.encode()) and len(found[0].text) <= CHUNK_BYTES_MAX
        joined += found[0].text.decode()
        at = (1, 1, len(joined.encode()))
    assert joined == text


async def test_followers_hear_all_of_a_text_whenever_they_come() -> None:
    hub, task_id, dice = TokenHub(), TaskId("t"), random.Random(5)
    write = hub.writer(task_id, "llm", 1, 1)

    async def read() -> str:
        said = ""
        async with aclosing(hub.follow(task_id)) as pieces:
            async for one in pieces:
                assert one.offset == len(said.encode())
                said += one.text.decode()
                if said.endswith("END"):
                    break
        return said

    readers = []
    for _ in range(40):
        write(TEXT)
        if dice.random() < 0.3:
            readers.append(asyncio.create_task(read()))
        await asyncio.sleep(0)
    write("END")
    assert len(readers) > 5
    assert set(await asyncio.gather(*readers)) == {TEXT * 40 + "END"}
    hub.close(task_id, "llm", 1)
    assert hub._boards == {}, "nothing is kept of a call that has ended"


async def test_an_attempt_that_ends_late_takes_nothing_from_the_next_one_on_its_node() -> None:
    hub, task_id = TokenHub(), TaskId("t")
    late, write = hub.writer(task_id, "llm", 1, 1), hub.writer(task_id, "llm", 2, 1)
    late("void")
    hub.close(task_id, "llm", 1)
    for text in ("You s", "aid: 一二三", "abc"):
        write(text)
    async with asyncio.timeout(20), aclosing(hub.follow(task_id)) as pieces:
        assert await anext(pieces) == piece("You said: 一二三abc", attempt=2)
    hub.close(task_id, "llm", 2)
    write("more")
    assert hub._boards == {}, "what comes after the end is kept nowhere"


def test_the_client_joins_whatever_comes_twice_and_refuses_a_hole() -> None:
    text = TokenText()
    for one in (chunk("Wö"), chunk("Wört", 0), chunk("rter", 3), chunk("X", stream=0)):
        text.add(one)
    assert text["llm"] == "Wörter"
    with pytest.raises(ValueError, match="a piece at 9 does not follow"):
        text.add(chunk("s", 9))
    text.add(chunk("anew", attempt=2))
    assert text["llm"] == "anew" and text.steps() == ["llm"]


@pytest.mark.parametrize("token", ["t.3~x", "t.3~W1sxXQ", "t.3~W1siYSIsMSwxLC01XV0", "t.3~AAAAA"])
def test_a_token_of_nobody_is_refused(token: str) -> None:
    with pytest.raises(ApiError, match="is not a token of a task"):
        split_token(token)


@pytest.mark.parametrize("task_id", ["t", "run~fetch~0", "a.b~c.d"])
@pytest.mark.parametrize("place", [".7", "@epoch.7", ".0"])
def test_a_token_of_a_task_of_any_name_is_understood_again(task_id: str, place: str) -> None:
    """The ids of children have the very mark in them that stands before the places in the texts."""
    durable = f"{task_id}{place}"
    before = "" if place == ".0" else durable
    reading = _Reading(TaskId(task_id), durable, {}, TokenBoard())
    assert split_token(reading._token()) == (before, {})
    told = reading.chunk(Piece("llm", 2, 1, 3, "Wört".encode()))
    assert split_token(told.resume_token) == (before, {"llm": (2, 1, 8)})


def test_a_reader_who_says_that_he_stands_within_a_character_is_served() -> None:
    """No token that was given out says so; whoever makes one up gets what can be read."""
    board = TokenBoard()
    board.add(piece("Wört"))
    reading = _Reading(TaskId("t"), "t.7", {"llm": (1, 1, 2)}, board)
    [rest] = reading.fresh(lambda task_id, step: False)
    assert reading.chunk(rest).token.text == "\N{REPLACEMENT CHARACTER}rt"


def coded(text: str) -> str:
    return "t.3~" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        '[["a",1,1,Infinity]]',
        '[["a",1,1,NaN]]',
        f'[["a",1,1,{1 << 63}]]',
        "[" * 100_000,
        "7",
        '{"a":1}',
        "[[]]",
    ],
)
def test_whatever_is_in_a_token_of_nobody_it_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="is not a token of a task"):
        split_token(coded(text))


def test_a_token_too_large_to_be_one_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def loads(text: bytes) -> Any:
        read.append(len(text))
        return json.loads(text)

    monkeypatch.setattr(token_watch, "json", SimpleNamespace(loads=loads, dumps=json.dumps))
    steps = [[chr(0x1F600) * (STEP_KEY_CHARS_MAX - 3) + f"{n:03}", 9, 9, 1 << 62] for n in range(STEPS_MAX)]
    assert len(split_token(coded(json.dumps(steps, separators=(",", ":"))))[1]) == STEPS_MAX
    for text in (json.dumps([*steps, ["x", 1, 1, 1]]), json.dumps([["x", 1, 1, 1]] * 1_000_000)):
        with pytest.raises(ApiError, match="is not a token of a task"):
            split_token(coded(text))
    assert max(read) < 1 << 20


def test_a_step_that_is_no_answer_of_a_model_has_no_words() -> None:
    assert answer_of(b'{"object":"other"}') is None
    assert answer_of(b'{"object":"llm.completion","text":"a","attempt":2,"stream":3}') == (2, 3, b"a")


def told(watch: Watch, text: str, offset: int, *, attempt: int = 1, stream: int = 1) -> list[str]:
    """What a watch gives out of a chunk that a node sent."""
    raw = tasks_pb2.TokenChunk(step="llm", attempt=attempt, stream=stream, offset=offset, text=text)
    events = watch._accept(tasks_pb2.TaskEvent(resume_token="t.1~x", token=raw))
    return [event.token.text for event in events if event.token is not None]


def test_a_watch_tells_words_once_whatever_nodes_send_again() -> None:
    watch = Watch(cast(Any, None), "tasks/t", tokens=True)
    assert told(watch, "Wört", 0) == ["Wört"]
    assert told(watch, "Wört", 0) == [], "the next node began at an earlier place"
    assert told(watch, "örter", 1) == ["er"]
    for _ in range(5):
        with pytest.raises(ClusterError, match="text before byte 9 is missing"):
            told(watch, "s", 9)
    raw = tasks_pb2.TokenChunk(step="llm", attempt=1, stream=1, offset=9, text="s")
    events = watch._accept(tasks_pb2.TaskEvent(resume_token="t.1~x", token=raw))
    assert [event.type for event in events] == ["gap", "token"], "what no node has is said to be missing"
    assert told(watch, "an", 0, stream=2) == ["an"]
    assert told(watch, "s", 7) == [], "of the try before"
    assert told(watch, "", 0, attempt=2) == [""], "a new attempt is told, also before its first word"


def test_a_watch_that_goes_on_from_a_token_begins_where_that_stands() -> None:
    watch = Watch(cast(Any, None), "tasks/t", "t.3~x", tokens=True)
    assert told(watch, "er", 5) == ["er"]
    assert told(watch, "ters", 6) == ["ers"]
    with pytest.raises(ClusterError, match="missing"):
        told(watch, "!", 20)


def test_printed_words_say_whose_they_are_and_when_they_begin_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = Words(to_stderr=False)
    for one in (
        chunk("a "),
        chunk("b", 2),
        replace(chunk("c"), step="llm#2"),
        chunk(""),
        chunk("d", stream=2),
    ):
        words.print(one)
    words.end()
    words.end()
    said = capsys.readouterr().out.splitlines()
    assert said == ["[llm] a b", "[llm#2] c", "[llm] ", "[llm, from the beginning, attempt 1.2] d"]
