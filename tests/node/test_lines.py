"""Lines of large texts: the same as if the text had been split, without all of them in memory."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.node import lines
from coterie.node.lines import Lines


@given(st.lists(st.sampled_from([b"", b"a", b"bcd", b"\r", b"x" * 9])), st.integers(1, 12))
def test_lines_are_those_of_a_split(parts: list[bytes], stretch: int) -> None:
    content = b"\n".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "STRETCH_BYTES", stretch)
        found = asyncio.run(Lines.of(content))
        assert [found[number] for number in range(len(found))] == content.split(b"\n")
        for number in (-1, len(found)):
            with pytest.raises(IndexError):
                found[number]


async def test_many_short_lines_take_little_memory_and_no_long_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "AT_ONCE_BYTES", 64 * 1024)
    content, turns = b"ab\n" * 400_000, 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    tracemalloc.start()
    try:
        found = await Lines.of(content)
        got = [found[number] for number in (399_999, 0, 200_000)], len(found)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        counting.cancel()
    assert got == ([b"ab"] * 3, 400_001)
    assert peak < len(content) // 2 and turns >= len(content) // (64 * 1024)
