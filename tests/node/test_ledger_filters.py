"""The filter of a list means what it says, and a wrong one is refused with its place and its remedy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coterie.node.filters import CLAUSES_MAX, FILTER_CHARS_MAX, STATES, FilterError, parse_filter
from coterie.node.ledger import LedgerQuery

MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", LedgerQuery()),
        ("  \n", LedgerQuery()),
        ("state=RUNNING", LedgerQuery(states=frozenset({"RUNNING"}))),
        ('state = "RUNNING"', LedgerQuery(states=frozenset({"RUNNING"}))),
        ("type='a \\'b\\''", LedgerQuery(types=frozenset({"a 'b'"}))),
        ("type=shared/web-search", LedgerQuery(types=frozenset({"shared/web-search"}))),
        (
            'state=RUNNING AND type="map" AND labels.team="x" AND create_time>"2026-01-01"',
            LedgerQuery(
                states=frozenset({"RUNNING"}),
                types=frozenset({"map"}),
                labels=(("team", "x"),),
                created_from_ms=MS + 1,
            ),
        ),
        (
            "type=map AND (state=FAILED OR state=TIMED_OUT)",
            LedgerQuery(types=frozenset({"map"}), states=frozenset({"FAILED", "TIMED_OUT"})),
        ),
        (
            "state=FAILED OR state=TIMED_OUT AND type=map OR type=reduce",
            LedgerQuery(states=frozenset({"FAILED", "TIMED_OUT"}), types=frozenset({"map", "reduce"})),
        ),
        ("state=FAILED AND state=PENDING", LedgerQuery(states=frozenset())),
        ('labels.a.b="1" AND labels.c=""', LedgerQuery(labels=(("a.b", "1"), ("c", "")))),
        ('create_time>="2026-01-01T00:00:00Z"', LedgerQuery(created_from_ms=MS)),
        ('create_time<"2026-01-01T01:00:00+01:00"', LedgerQuery(created_before_ms=MS)),
        ('create_time<="2026-01-01"', LedgerQuery(created_before_ms=MS + 1)),
        ("create_time=2026-01-01", LedgerQuery(created_from_ms=MS, created_before_ms=MS + 1)),
        (
            'create_time>"2026-01-01" AND create_time>="2025-01-01" AND create_time<"2026-01-02"',
            LedgerQuery(created_from_ms=MS + 1, created_before_ms=MS + 86_400_000),
        ),
    ],
)
def test_a_filter_means(text: str, query: LedgerQuery) -> None:
    assert parse_filter(text) == query


def test_the_tenant_is_set_beside_the_filter() -> None:
    assert parse_filter("type=map", tenant="acme") == LedgerQuery(tenant="acme", types=frozenset({"map"}))


@pytest.mark.parametrize(
    ("text", "position", "field", "words"),
    [
        (
            "status=RUNNING",
            0,
            "status",
            "allowed are state, type, labels.<key>, create_time; did you mean state?",
        ),
        ("state=RUNING", 6, "state", "allowed are PENDING"),
        ("state=RUNING", 6, "state", "did you mean RUNNING?"),
        ("state=running", 6, "state", "did you mean RUNNING?"),
        ("labels.=x", 0, "labels.", "unknown field labels."),
        ("state", 5, "state", "the end after state, expected one of ="),
        ("state=", 6, "state", "the end where the value of state was expected"),
        ("state=AND", 6, "state", "unknown state 'AND'"),
        ("=RUNNING", 0, "", "'=' where a field was expected"),
        ("state=FAILED type=map", 13, "", "'type' where AND or the end was expected"),
        ("state=FAILED AND", 16, "", "the end where a field was expected"),
        ("state=FAILED and type=map", 13, "", "'and' where AND or the end was expected"),
        ('type="map', 5, "", "a quoted text does not end"),
        ("state!=FAILED", 5, "state", "'!=' after state, expected one of ="),
        ("type>map", 4, "type", "type can only be compared with =, not >"),
        ("(state=FAILED OR state=PENDING", 30, "", "the end where ) was expected"),
        ("state=FAILED OR type=map", 21, "type", "OR joins values of one field, here state"),
        ("labels.a=1 OR labels.a=2", 23, "labels.a", "OR is possible for state and type"),
        ("create_time>yesterday", 12, "create_time", "'yesterday' is not a time; write it as 2026-"),
        ('create_time>"0001-01-01T00:00:00+23:59"', 12, "create_time", "is not a time"),
        ("state=FAILED!", 12, "", "unexpected character '!'"),
    ],
)
def test_a_wrong_filter_is_refused_at_its_place(text: str, position: int, field: str, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert (caught.value.position, caught.value.field) == (position, field)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"filter: at character {position + 1}: ")


def test_a_filter_is_bounded() -> None:
    with pytest.raises(FilterError, match=f"at most {FILTER_CHARS_MAX} are allowed"):
        parse_filter("x" * (FILTER_CHARS_MAX + 1))
    clause = "type=a"
    parse_filter(" AND ".join([clause] * CLAUSES_MAX))
    with pytest.raises(FilterError, match=f"more than {CLAUSES_MAX} conditions"):
        parse_filter(" AND ".join([clause] * (CLAUSES_MAX + 1)))


@given(st.text(max_size=60) | st.text(alphabet="state=typelabcr._<>()\"' \\ANDOR0-", max_size=60))
@example('type="\\')
@example("\x00=")
def test_any_text_is_either_a_query_or_a_filter_error(text: str) -> None:
    try:
        parse_filter(text)
    except FilterError as error:
        assert 0 <= error.position <= len(text)


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


KEYS = st.text(alphabet="abcXYZ019_.-/é", min_size=1, max_size=8)
SPACES = st.sampled_from(["", " ", "  ", "\t", "\n"])
GAPS = st.sampled_from([" ", "  ", "\t", "\n "])


@given(
    st.frozensets(st.sampled_from(STATES), min_size=1),
    st.frozensets(st.text(max_size=10), min_size=1, max_size=4),
    st.lists(st.tuples(KEYS, st.text(max_size=10)), max_size=4),
    SPACES,
    GAPS,
)
def test_what_is_written_is_what_is_read(
    states: frozenset[str],
    types: frozenset[str],
    labels: list[tuple[str, str]],
    space: str,
    gap: str,
) -> None:
    def either(field: str, values: frozenset[str]) -> str:
        clauses = f"{gap}OR{gap}".join(f"{field}{space}={space}{quoted(value)}" for value in sorted(values))
        return f"({space}{clauses}{space})"

    groups = [either("state", states), either("type", types)]
    groups += [f"labels.{key}{space}={space}{quoted(value)}" for key, value in labels]
    expected = LedgerQuery(states=states, types=types, labels=tuple(labels))
    assert parse_filter(f"{gap}AND{gap}".join(groups)) == expected


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(
    st.sampled_from(["<", "<=", "=", ">=", ">"]),
    st.integers(-(10**9), 2 * 10**15),
    st.integers(-2, 2),
    st.integers(-720, 720),
)
def test_times_compare_as_written_to_the_microsecond(
    operator: str, limit_us: int, near_ms: int, zone_minutes: int
) -> None:
    zone = timedelta(minutes=zone_minutes)
    limit = EPOCH + timedelta(microseconds=limit_us)
    written = (limit + zone).replace(tzinfo=None).isoformat()
    sign, minutes = ("-", -zone_minutes) if zone_minutes < 0 else ("+", zone_minutes)
    query = parse_filter(f'create_time {operator} "{written}{sign}{minutes // 60:02}:{minutes % 60:02}"')
    created_at_ms = limit_us // 1_000 + near_ms
    created_us = created_at_ms * 1_000
    expected = {
        "<": created_us < limit_us,
        "<=": created_us <= limit_us,
        "=": created_us == limit_us,
        ">=": created_us >= limit_us,
        ">": created_us > limit_us,
    }[operator]
    assert (
        query.matches(tenant="t", state="FAILED", type="map", labels={}, created_at_ms=created_at_ms)
        == expected
    )
