"""The words of language models, joined as they come."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coterie.v1 import tasks_pb2


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Some text of the answer that `step` will be. `offset` counts the bytes of UTF-8 before it; at 0 another
    attempt, or try within it, begins, and what was seen of an earlier one is void. `replayed`: it comes from
    the recorded answer."""

    step: str
    attempt: int
    stream: int
    offset: int
    text: str
    replayed: bool

    @classmethod
    def of(cls, raw: tasks_pb2.TokenChunk) -> TokenChunk:
        """The dataclass for a message."""
        return cls(raw.step, raw.attempt, raw.stream, raw.offset, raw.text, raw.replayed)

    def after(self, end: int) -> TokenChunk:
        """What of it lies behind that byte."""
        skipped = max(0, end - self.offset)
        text = self.text.encode()[skipped:].decode() if skipped else self.text
        return replace(self, offset=self.offset + skipped, text=text)

    @property
    def order(self) -> tuple[int, int]:
        """What comes later makes what was earlier void."""
        return self.attempt, self.stream


class TokenText:
    """The texts of a task's steps, joined from its chunks: `text["llm"]` is what is known of that answer."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[tuple[int, int], bytes]] = {}

    def add(self, chunk: TokenChunk) -> None:
        """Take in the next chunk of a watch from the beginning. Raises ValueError for a hole."""
        order, text = self._texts.get(chunk.step, ((0, 0), b""))
        if chunk.order < order:
            return
        kept = text if chunk.order == order else b""
        if chunk.offset > len(kept):
            raise ValueError(f"step {chunk.step}: a piece at {chunk.offset} does not follow what is there")
        self._texts[chunk.step] = (chunk.order, kept + chunk.after(len(kept)).text.encode())

    def __getitem__(self, step: str) -> str:
        return self._texts[step][1].decode()

    def steps(self) -> list[str]:
        """The steps of which something is known, in their order."""
        return list(self._texts)
