"""One byte string per value, the same on every machine and every Python: the basis of the state hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

from coterie.core.coordination.tables import ORDERED, SORTED
from coterie.core.llm.state import LlmState
from coterie.core.state import ClusterState

PORTION = 500  # records of a family that are hashed together


def canonical(value: Any) -> bytes:
    """A type-tagged, length-prefixed encoding of None, bool, int, str, bytes, tuples and frozen records.
    A record's fields go by name, and those at their default are left out: a field that a later version adds
    changes nothing as long as nobody uses it."""
    return b"".join(_parts(value))


def _parts(value: Any) -> Iterator[bytes]:
    if value is None:
        yield b"n"
    elif isinstance(value, int):  # bool and IntEnum are ints: equal values hash alike
        yield b"i%d;" % int(value)
    elif isinstance(value, str):
        yield _text(value)
    elif isinstance(value, bytes):
        yield b"b%d:" % len(value)
        yield value
    elif isinstance(value, tuple):
        yield b"t%d:" % len(value)
        for item in value:
            yield from _parts(item)
    elif is_dataclass(value):
        yield from _record_parts(value)
    else:
        raise TypeError(f"no canonical form for {type(value).__name__}")


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"s%d:" % len(raw) + raw


def _record_parts(record: Any) -> Iterator[bytes]:
    yield b"r" + type(record).__name__.encode() + b":"
    for name, text, default in _fields_of(type(record)):
        value = getattr(record, name)
        if value is not default and value != default:
            yield text
            yield from _parts(value)
    yield b"e"


_FIELDS: dict[type, tuple[tuple[str, bytes, Any], ...]] = {}


def _fields_of(record: type) -> tuple[tuple[str, bytes, Any], ...]:
    """Name, encoded name and default of each field; one without a default is never left out."""
    known = _FIELDS.get(record)
    if known is None:
        known = tuple((field.name, _text(field.name), field.default) for field in fields(record))
        _FIELDS[record] = known
    return known


def state_hash(state: ClusterState) -> str:
    """SHA-256 over everything replicated. Dicts whose order is log order are hashed in that order."""
    digest = hashlib.sha256()
    digest.update(canonical(state.meta))
    for task_id in sorted(state.tasks):
        digest.update(canonical(state.tasks[task_id]))
        digest.update(canonical(tuple(state.steps.get(task_id, ()))))
    for node_id in sorted(state.nodes):
        digest.update(canonical(state.nodes[node_id]))
    ordered = (state.finished, state.requests, state.anchors, state.dead_letters, state.buckets, state.meters)
    for records in ordered:
        for record in records.values():  # the order is part of the state: what came first is forgotten first
            digest.update(canonical(record))
    for named in (
        state.agents,
        state.agent_runs,
        state.agent_tallies,
        state.agent_loads,
        state.limits,
        state.tenants,
        state.shares,
        state.breakers,
        state.tokens,
        state.users,
        state.skillbook,
    ):
        for name in sorted(named):
            digest.update(canonical(named[name]))
    digest.update(b"".join(map(canonical, _decisions(state))))
    for parent_id in sorted(state.families):
        for part in state.families[parent_id].parts(parent_id, PORTION):
            digest.update(canonical(part))
    config = (state.config[number] for number in sorted(state.config))
    for part in chain(config, _llm_parts(state.llm), _coordination(state), _runs(state)):
        digest.update(canonical(part))
    return digest.hexdigest()


def _decisions(state: ClusterState) -> Iterator[Any]:
    yield from state.doubts.values()
    for named in (state.open_steps, state.approvals):
        for task_id in sorted(named):
            yield named[task_id]


def _llm_parts(llm: LlmState) -> Iterator[Any]:
    for task_id in sorted(llm.calls):
        yield llm.calls[task_id]
    for ordered in (llm.accounts, llm.doubtful, llm.cache):
        yield from ordered.values()
    for named in (llm.budgets, llm.usage):
        for name in sorted(named):
            yield named[name]


def _runs(state: ClusterState) -> Iterator[Any]:
    for key in sorted(state.workflows):
        yield state.workflows[key]
    for run_id in sorted(state.runs):
        run = state.runs[run_id]
        yield run.head
        for name in sorted(run.nodes):
            yield run.nodes[name]


def _coordination(state: ClusterState) -> Iterator[Any]:
    for table in ORDERED:
        yield from getattr(state, table).values()
    for table in SORTED:
        for _, record in sorted(getattr(state, table).items()):
            yield record
