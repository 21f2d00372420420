"""The words of running model calls, as they come: kept on the node that runs them, for whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from coterie.core.nouns import TaskId
from coterie.node.llm.completion import OnText

CHUNK_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the answer that a step will be. `offset` is in bytes of UTF-8."""

    step: str
    attempt: int
    stream: int  # number of the try within the attempt
    offset: int
    text: bytes


@dataclass(slots=True)
class Words:
    """The text of one call so far."""

    attempt: int
    stream: int
    text: bytearray = field(default_factory=bytearray)

    @property
    def order(self) -> tuple[int, int]:
        """A later attempt or try of a step makes what was seen of an earlier one void."""
        return self.attempt, self.stream


class TokenBoard:
    """The texts of one task's steps, and who is told when they grow."""

    def __init__(self) -> None:
        self.words: dict[str, Words] = {}
        self._bells: list[asyncio.Event] = []

    def listener(self) -> asyncio.Event:
        """Set whenever something is new."""
        bell = asyncio.Event()
        self._bells.append(bell)
        return bell

    def dismiss(self, bell: asyncio.Event) -> None:
        self._bells.remove(bell)

    @property
    def watched(self) -> bool:
        return bool(self._bells)

    def add(self, piece: Piece) -> None:
        """Put a piece where it belongs; what is known already, or void, adds nothing."""
        words = self.words.get(piece.step)
        if words is None or words.order < (piece.attempt, piece.stream):
            words = self.words[piece.step] = Words(piece.attempt, piece.stream)
        known = len(words.text) - piece.offset
        if words.order == (piece.attempt, piece.stream) and known >= 0:
            words.text += piece.text[known:]
            for bell in self._bells:
                bell.set()

    def beyond(self, cursors: dict[str, tuple[int, int, int]]) -> list[Piece]:
        """What a reader has not seen, who stands at (attempt, stream, offset) of each step."""
        found = []
        for step, words in self.words.items():
            attempt, stream, offset = cursors.get(step, (0, 0, 0))
            if words.order < (attempt, stream):
                continue
            start = offset if words.order == (attempt, stream) else 0
            end = _boundary(words.text, start + CHUNK_BYTES_MAX)
            if end > start or words.order > (attempt, stream):
                found.append(Piece(step, *words.order, start, bytes(words.text[start:end])))
        return found


def _boundary(text: bytearray, end: int) -> int:
    """Not within a character."""
    end = min(end, len(text))
    while 0 < end < len(text) and text[end] & 0xC0 == 0x80:
        end -= 1
    return end


class TokenHub:
    """The boards of the tasks that run on this node."""

    def __init__(self) -> None:
        self._boards: dict[TaskId, TokenBoard] = {}

    def writer(self, task_id: str, step: str, attempt: int, stream: int) -> OnText:
        """Where the text of a call goes, piece by piece."""
        board = self._boards.setdefault(TaskId(task_id), TokenBoard())
        board.add(Piece(step, attempt, stream, 0, b""))
        words = board.words[step]

        def write(text: str) -> None:
            if board.words.get(step) is words:  # else the call has ended, or a later one has begun
                board.add(Piece(step, attempt, stream, len(words.text), text.encode()))

        return write

    def close(self, task_id: str, step: str, attempt: int) -> None:
        """The attempt's call has ended: its text is recorded, or void. A later one may have begun here."""
        board = self._boards.get(TaskId(task_id))
        words = board.words.get(step) if board is not None else None
        if board is not None and words is not None and words.attempt <= attempt:
            del board.words[step]
            self._tidy(TaskId(task_id), board)

    async def follow(self, task_id: TaskId) -> AsyncGenerator[Piece, None]:
        """All there is of a task, then what comes. Ends with its reader only."""
        board = self._boards.setdefault(task_id, TokenBoard())
        bell = board.listener()
        cursors: dict[str, tuple[int, int, int]] = {}
        try:
            while True:
                bell.clear()
                pieces = board.beyond(cursors)
                for piece in pieces:
                    cursors[piece.step] = (piece.attempt, piece.stream, piece.offset + len(piece.text))
                    yield piece
                if not pieces:
                    await bell.wait()
        finally:
            board.dismiss(bell)
            self._tidy(task_id, board)

    def _tidy(self, task_id: TaskId, board: TokenBoard) -> None:
        if not board.words and not board.watched and self._boards.get(task_id) is board:
            del self._boards[task_id]
