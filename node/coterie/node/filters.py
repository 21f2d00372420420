"""The filter of a list: `state=RUNNING AND type="map" AND labels.team="x" AND create_time>"2026-11-01"`.

Clauses are joined by AND; OR joins alternatives of one field and, as in AIP-160, binds tighter than AND:
`type="map" AND state=FAILED OR state=TIMED_OUT`. Parentheses may stand around such a group."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from coterie.core.nouns import TaskState
from coterie.node.ledger.rows import LedgerQuery

FILTER_CHARS_MAX = 2_048
CLAUSES_MAX = 32
FIELDS = ("state", "type", "labels.<key>", "create_time")
STATES = tuple(state.name for state in TaskState)

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<operator><=|>=|!=|[=<>():])"""
    r"""|(?P<word>[^\s"'=<>!():]+)|(?P<end>$)|(?P<bad>.))""",
    re.DOTALL,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class FilterError(ValueError):
    """The filter is refused. `position` counts characters from 0; `field` is empty when none was read yet."""

    def __init__(self, reason: str, position: int, field: str = "") -> None:
        super().__init__(f"filter: at character {position + 1}: {reason}")
        self.reason = reason
        self.position = position
        self.field = field


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # quoted, operator, word or end
    text: str  # without quotes and escapes
    position: int


@dataclass(frozen=True, slots=True)
class _Clause:
    field: str
    operator: str
    value: str
    position: int  # of the value


def parse_filter(text: str, tenant: str | None = None) -> LedgerQuery:
    """The query that `text` asks for, within `tenant` when given; an empty text asks for everything.

    Raises FilterError naming position, field and what is allowed there."""
    if len(text) > FILTER_CHARS_MAX:
        raise FilterError(f"{len(text)} characters, at most {FILTER_CHARS_MAX} are allowed", FILTER_CHARS_MAX)
    query = _Query()
    if text.strip():
        for group in _Parser(text).groups():
            query.add(group)
    return LedgerQuery(
        tenant=tenant,
        states=query.states,
        types=query.types,
        labels=tuple(query.labels),
        created_from_ms=query.created_from_ms,
        created_before_ms=query.created_before_ms,
    )


class _Parser:
    """filter := group ("AND" group)*; group := clause ("OR" clause)* | "(" clause ("OR" clause)* ")"."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0
        self._clauses = 0

    def groups(self) -> Iterator[list[_Clause]]:
        yield self._group()
        while not self._is_end():
            self._expect_word("AND")
            yield self._group()

    def _group(self) -> list[_Clause]:
        opened = self._skip("operator", "(")
        clauses = [self._clause()]
        while self._skip("word", "OR"):
            clauses.append(self._clause())
        if opened and not self._skip("operator", ")"):
            raise FilterError(f"{_shown(self._peek())} where ) was expected", self._peek().position)
        return clauses

    def _clause(self) -> _Clause:
        name = self._take()
        if name.kind != "word" or name.text in ("AND", "OR"):
            raise FilterError(f"{_shown(name)} where a field was expected: {_fields()}", name.position)
        operator = self._take()
        if operator.kind != "operator" or operator.text not in ("=", "<", "<=", ">", ">="):
            reason = f"{_shown(operator)} after {name.text}, expected one of = < <= > >="
            raise FilterError(reason, operator.position, name.text)
        value = self._take()
        if value.kind not in ("word", "quoted"):
            reason = f"{_shown(value)} where the value of {name.text} was expected"
            raise FilterError(reason, value.position, name.text)
        self._clauses += 1
        if self._clauses > CLAUSES_MAX:
            raise FilterError(f"more than {CLAUSES_MAX} conditions", name.position, name.text)
        _check_field(name, operator)
        return _Clause(name.text, operator.text, value.text, value.position)

    def _is_end(self) -> bool:
        return self._peek().kind == "end"

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek()
        if token.kind != "end":
            self._next += 1
        return token

    def _skip(self, kind: str, text: str) -> bool:
        token = self._peek()
        found = (token.kind, token.text) == (kind, text)
        self._next += found
        return found

    def _expect_word(self, word: str) -> None:
        if not self._skip("word", word):
            token = self._peek()
            raise FilterError(f"{_shown(token)} where {word} or the end was expected", token.position)


class _Query:
    """A LedgerQuery in the making."""

    def __init__(self) -> None:
        self.states: frozenset[str] | None = None
        self.types: frozenset[str] | None = None
        self.labels: list[tuple[str, str]] = []
        self.created_from_ms: int | None = None
        self.created_before_ms: int | None = None

    def add(self, group: list[_Clause]) -> None:
        """Narrow the query by one group of alternatives."""
        field = group[0].field
        for clause in group[1:]:
            if clause.field != field:
                reason = f"OR joins values of one field, here {field}; use AND between different fields"
                raise FilterError(reason, clause.position, clause.field)
        if field == "state":
            states = frozenset(map(_state, group))
            self.states = states if self.states is None else self.states & states
        elif field == "type":
            types = frozenset(clause.value for clause in group)
            self.types = types if self.types is None else self.types & types
        elif len(group) > 1:
            reason = f"OR is possible for state and type, not for {field}"
            raise FilterError(reason, group[1].position, field)
        elif field == "create_time":
            self._add_time(group[0])
        else:
            self.labels.append((field.removeprefix("labels."), group[0].value))

    def _add_time(self, clause: _Clause) -> None:
        moment = _moment(clause)
        floor = (moment - _EPOCH) // _MS
        ceiling = -((_EPOCH - moment) // _MS)
        # Creation times are whole milliseconds, so every comparison becomes a half-open range of them.
        if clause.operator in (">", ">=", "="):
            lowest = floor + 1 if clause.operator == ">" else ceiling
            self.created_from_ms = max(
                lowest, lowest if self.created_from_ms is None else self.created_from_ms
            )
        if clause.operator in ("<", "<=", "="):
            end = ceiling if clause.operator == "<" else floor + 1
            self.created_before_ms = min(
                end, end if self.created_before_ms is None else self.created_before_ms
            )


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        assert match is not None  # the last two alternatives leave nothing out
        kind = str(match.lastgroup)
        position, raw = match.start(kind), match.group(kind)
        if kind == "bad":
            reason = "a quoted text does not end" if raw in "\"'" else f"unexpected character {raw!r}"
            raise FilterError(reason, position)
        yield _Token(kind, _unquoted(raw) if kind == "quoted" else raw, position)
        if kind == "end":
            return
        at = match.end()


def _unquoted(raw: str) -> str:
    return re.sub(r"\\(.)", r"\1", raw[1:-1], flags=re.DOTALL)


def _check_field(name: _Token, operator: _Token) -> None:
    field = name.text
    if field not in ("state", "type", "create_time") and not (field.startswith("labels.") and field[7:]):
        near = difflib.get_close_matches(field, ("state", "type", "create_time", "labels."), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FilterError(f"unknown field {field}, allowed are {_fields()}{hint}", name.position, field)
    if field != "create_time" and operator.text != "=":
        reason = f"{field} can only be compared with =, not {operator.text}"
        raise FilterError(reason, operator.position, field)


def _state(clause: _Clause) -> str:
    if clause.value not in STATES:
        near = difflib.get_close_matches(clause.value.upper(), STATES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        reason = f"unknown state {clause.value!r}, allowed are {', '.join(STATES)}{hint}"
        raise FilterError(reason, clause.position, "state")
    return clause.value


def _moment(clause: _Clause) -> datetime:
    try:
        moment = datetime.fromisoformat(clause.value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        reason = f"{clause.value!r} is not a time; write it as 2026-11-21T08:30:00Z or 2026-11-21"
        raise FilterError(reason, clause.position, "create_time") from None


def _fields() -> str:
    return ", ".join(FIELDS)


def _shown(token: _Token) -> str:
    return "the end" if token.kind == "end" else repr(token.text)
