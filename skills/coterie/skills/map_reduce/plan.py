"""What is to be mapped and reduced, read from the payload and checked."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from coterie.skills import jsonio
from coterie.skills.children import CHILDREN_MAX, PAYLOAD_BYTES_MAX, WINDOW, WINDOW_MAX
from coterie.skills.errors import BadInput

REDUCERS = ("list", "keyed", "tree")
FAILURES = ("fail", "skip", "dead-letter")
FAN_IN = 16
_NAMED = ("sha256", "size_bytes", "ticket")  # of a batch, as the cluster gave it
KEYS = frozenset(
    {
        *("map", "reduce", "documents", "batches", "reducer", "on_map_failure", "failures_max", "window"),
        *("map_options", "reduce_options", "reduce_input", "results_as", "fan_in"),
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One map and reduce. `reduce` empty: none."""

    map: str
    reduce: str
    documents: Sequence[Any]
    batches: Sequence[Mapping[str, Any]]
    ends: Sequence[int]  # of each batch: how many documents there are up to its end
    count: int
    reducer: str = "list"
    on_map_failure: str = "fail"
    failures_max: int = 0
    window: int = WINDOW
    fan_in: int = FAN_IN
    map_options: Mapping[str, Any] = field(default_factory=dict)
    reduce_options: Mapping[str, Any] = field(default_factory=dict)
    reduce_input: Mapping[str, Any] = field(default_factory=dict)
    results_as: str = "results"

    def mapper(self, place: int) -> dict[str, Any]:
        """What the node is told about the child for that document."""
        options = dict(self.map_options)
        if self.on_map_failure == "dead-letter":
            options["retry"] = {**(options.get("retry") or {}), "dead_letter": True}
        child = {"name": f"m{place}", "type": self.map, "options": options}
        if not self.batches:
            text = jsonio.encode(self.documents[place], f"document {place}", PAYLOAD_BYTES_MAX)
            return {**child, "payload": text.decode()}
        number = bisect_right(self.ends, place)
        batch = self.batches[number]
        line = place - (self.ends[number - 1] if number else 0)
        return {**child, "line": {**{name: batch[name] for name in _NAMED}, "line": line}}

    @property
    def stop_after(self) -> int:
        """How many failed maps end everything; 0: no number does."""
        return {"fail": 1, "skip": self.failures_max + 1}.get(self.on_map_failure, 0)


def read_plan(input: Any) -> Plan:
    """Raises BadInput naming what is wrong."""
    if not isinstance(input, Mapping):
        raise BadInput("an object with map and documents or batches is expected")
    if unknown := sorted(set(input) - KEYS):
        raise BadInput(f"unknown key {unknown[0]!r}; known: {', '.join(sorted(KEYS))}")
    documents, batches = _list(input, "documents"), _list(input, "batches")
    if documents and batches:
        raise BadInput("documents and batches: give one of the two")
    ends = list(accumulate(_counts(batches)))
    count = ends[-1] if ends else len(documents)
    if count > CHILDREN_MAX:
        raise BadInput(f"{count} documents, the limit is {CHILDREN_MAX}; put several into one document")
    return Plan(
        map=_text(input, "map"),
        reduce=_text(input, "reduce", needed=False),
        documents=documents,
        batches=batches,
        ends=ends,
        count=count,
        reducer=_one_of(input, "reducer", REDUCERS),
        on_map_failure=_one_of(input, "on_map_failure", FAILURES),
        failures_max=_number(input, "failures_max", 0, 0, CHILDREN_MAX),
        window=_number(input, "window", WINDOW, 1, WINDOW_MAX),
        fan_in=_number(input, "fan_in", FAN_IN, 2, 1_000),
        map_options=_object(input, "map_options"),
        reduce_options=_object(input, "reduce_options"),
        reduce_input=_object(input, "reduce_input"),
        results_as=_text(input, "results_as", needed=False) or "results",
    )


def _counts(batches: Sequence[Any]) -> list[int]:
    try:
        for batch in batches:
            str(batch["sha256"]), int(batch["size_bytes"]), str(batch["ticket"])
        return [_number(batch, "count", 0, 1, CHILDREN_MAX) for batch in batches]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise BadInput("batches: each is an object with sha256, size_bytes, ticket and count") from error


def _list(input: Mapping[str, Any], key: str) -> list[Any]:
    value = input.get(key)
    if value is not None and not isinstance(value, list):
        raise BadInput(f"{key}: {type(value).__name__} is no list")
    return value or []


def _object(input: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = input.get(key)
    if value is not None and not isinstance(value, dict):
        raise BadInput(f"{key}: {type(value).__name__} is no object")
    return value or {}


def _text(input: Mapping[str, Any], key: str, needed: bool = True) -> str:
    value = input.get(key) or ""
    if not isinstance(value, str) or (needed and not value):
        raise BadInput(f"{key}: {value!r} is no text; name a skill" if needed else f"{key}: not a text")
    return value


def _one_of(input: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
    value = input.get(key) or known[0]
    if value not in known:
        raise BadInput(f"{key}: {value!r} is none of {', '.join(known)}")
    return str(value)


def _number(input: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = input.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadInput(f"{key}: {value!r} is not a whole number in {low}..{high}")
    return value
