"""What is remembered of graphs and texts is bounded by its size."""

from __future__ import annotations

import pytest

from coterie.core.graph import refs
from coterie.core.graph.kept import Kept
from coterie.core.graph.model import GRAPH_BYTES_MAX, GraphError
from coterie.core.graph.reading import graph_of
from coterie.core.graph.refs import KNOWN_CHARS_MAX, parse_text


def test_the_latest_are_remembered() -> None:
    made: list[bytes] = []

    def make(raw: bytes) -> int:
        made.append(raw)
        if raw == b"bad":
            raise GraphError(())
        return len(raw)

    kept = Kept(make, count_max=3, bytes_max=10)
    assert [kept(raw) for raw in (b"a", b"b", b"c", b"a", b"d")] == [1] * 5 and len(kept) == 3
    assert made == [b"a", b"b", b"c", b"d"]
    kept(b"a")
    kept(b"b")
    assert made[4:] == [b"b"] and kept.misses == 5, "b was used longest ago"
    assert kept(b"x" * 9) == 9 and (len(kept), kept.bytes) == (2, 10)
    assert kept(b"y" * 11) == 11 and (len(kept), kept.bytes) == (0, 0), "more than may be remembered"
    for _ in range(2):
        with pytest.raises(GraphError):
            kept(b"bad")
    assert made[-2:] == [b"bad", b"bad"] and len(kept) == 0
    kept.clear()
    assert kept.misses == 0


def test_who_is_made_twice_at_the_same_time_counts_once() -> None:
    """As when two threads ask for it."""
    nested: list[int] = []

    def make(raw: bytes) -> int:
        if not nested:
            nested.append(0)
            nested[0] = kept(raw)
        return len(raw)

    kept = Kept(make, count_max=3, bytes_max=10)
    assert kept(b"abc") == 3 and (len(kept), kept.bytes) == (1, 3)


def test_large_graphs_are_few() -> None:
    graph_of.clear()
    for number in range(30):
        graph_of(b'{"name":"%d%s","nodes":[]}' % (number, b"x" * (1 << 20)))
    assert 3 * GRAPH_BYTES_MAX <= graph_of.bytes_max <= 16 << 20
    assert 0 < graph_of.bytes <= graph_of.bytes_max
    graph_of.clear()


def test_long_texts_are_not_remembered() -> None:
    long = "{{ a }}" + "x" * KNOWN_CHARS_MAX
    before = refs._known.cache_info()
    assert parse_text(long) == parse_text(long) and len(parse_text(long)) == 2
    assert refs._known.cache_info() == before
    assert parse_text("{{ a }}x" * 3) is parse_text("{{ a }}x" * 3)
