"""What is remembered of graphs and texts is bounded by its size."""

from __future__ import annotations

from typing import Any

from coterie.core.graph import refs
from coterie.core.graph.model import GRAPH_BYTES_MAX
from coterie.core.graph.reading import SMALL_BYTES_MAX, graph_of, large_graph_of, small_graph_of
from coterie.core.graph.refs import KNOWN_CHARS_MAX, KNOWN_REFS_MAX, parse_text
from coterie.core.nouns import NO_DATA
from coterie.core.runs.book import unreadable
from coterie.core.runs.outline import known_outline

MEMORY_PER_BYTE = 5  # that a graph takes when it has been read
MEMORY_MAX = 100 << 20


def named(number: int, size: int) -> bytes:
    return b'{"name":"%d%s","nodes":[]}' % (number, b"x" * size)


def room(cache: Any, bytes_max: int) -> int:
    return int(cache.cache_parameters()["maxsize"] * bytes_max * MEMORY_PER_BYTE)


def test_of_large_graphs_few_are_remembered() -> None:
    small_graph_of.cache_clear()
    large_graph_of.cache_clear()
    large = [named(number, SMALL_BYTES_MAX) for number in range(20)]
    for raw in large:
        graph_of(raw)
    assert room(large_graph_of, GRAPH_BYTES_MAX) + room(small_graph_of, SMALL_BYTES_MAX) <= MEMORY_MAX
    assert large_graph_of.cache_info().currsize < len(large) and small_graph_of.cache_info().currsize == 0
    assert graph_of(large[-1]) is graph_of(large[-1])
    small = [named(number, 10) for number in range(20)]
    for raw in small:
        graph_of(raw)
    assert all(graph_of(raw) is graph_of(raw) for raw in small)
    assert small_graph_of.cache_info().misses == len(small)


def test_large_graphs_that_were_read_ahead_are_not_read_again() -> None:
    """More of them than are remembered as graphs: each is at hand with its outline."""
    large = [named(number, SMALL_BYTES_MAX) for number in range(8)]
    for raw in large:
        known_outline(raw)
    read = large_graph_of.cache_info().misses
    for raw in large:
        assert unreadable(raw, NO_DATA) == ""
    assert large_graph_of.cache_info().misses == read


def test_long_texts_are_not_remembered() -> None:
    long = "{{ a }}" + "x" * KNOWN_CHARS_MAX
    before = refs._known.cache_info()
    assert parse_text(long) == parse_text(long) and len(parse_text(long)) == 2
    assert refs._known.cache_info() == before
    assert parse_text("{{ a }}x" * 3) is parse_text("{{ a }}x" * 3)


def test_short_texts_of_very_many_references_are_not_remembered() -> None:
    refs._known.cache_clear()
    parse_text("{{ a }}" * (KNOWN_REFS_MAX + 1))
    assert refs._known.cache_info().currsize == 0
    parse_text("{{ a }}" * KNOWN_REFS_MAX)
    assert refs._known.cache_info().currsize == 1
