"""Lines of a large text, each found when it is asked for: millions of them would take many times the memory
of the text, and to part them at once would hold the loop up."""

from __future__ import annotations

import asyncio
from bisect import bisect_left

STRETCH_BYTES = 8 * 1024  # within which a line is looked for
AT_ONCE_BYTES = 1024 * 1024  # looked through in one turn of the loop


class Lines:
    """What `content.split(b"\\n")` has, by number; made by `of`."""

    def __init__(self, content: bytes, ends: list[int]) -> None:
        self._content = content
        self._ends = ends  # how many line ends there are up to the end of each stretch

    @classmethod
    async def of(cls, content: bytes) -> Lines:
        ends, total = [], 0
        for at in range(0, len(content), STRETCH_BYTES):
            total += content.count(b"\n", at, at + STRETCH_BYTES)
            ends.append(total)
            if not (at + STRETCH_BYTES) % AT_ONCE_BYTES:
                await asyncio.sleep(0)
        return cls(content, ends)

    def __len__(self) -> int:
        return (self._ends[-1] if self._ends else 0) + 1

    def __getitem__(self, number: int) -> bytes:
        """Raises IndexError."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        begin = self._begin_of(number)
        end = self._content.find(b"\n", begin)
        return self._content[begin : end if end >= 0 else len(self._content)]

    def _begin_of(self, number: int) -> int:
        """The place behind as many line ends."""
        if number == 0:
            return 0
        place = bisect_left(self._ends, number)
        before = self._ends[place - 1] if place else 0
        stretch = self._content[place * STRETCH_BYTES : (place + 1) * STRETCH_BYTES]
        rest = stretch.split(b"\n", number - before)[-1]
        return place * STRETCH_BYTES + len(stretch) - len(rest)
