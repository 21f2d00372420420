"""One byte string per value, the same on every machine and every Python: the basis of the state hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from coterie.core.state import ClusterState


def canonical(value: Any) -> bytes:
    """A type-tagged, length-prefixed encoding of None, bool, int, str, bytes, tuples and frozen records.
    Fields that came later are named, and left out while they hold their default."""
    return b"".join(_parts(value))


def _parts(value: Any) -> Iterator[bytes]:
    if value is None:
        yield b"n"
    elif isinstance(value, int):  # bool and IntEnum are ints: equal values hash alike
        yield b"i%d;" % int(value)
    elif isinstance(value, str):
        raw = value.encode()
        yield b"s%d:" % len(raw)
        yield raw
    elif isinstance(value, bytes):
        yield b"b%d:" % len(value)
        yield value
    elif isinstance(value, tuple):
        yield b"t%d:" % len(value)
        for item in value:
            yield from _parts(item)
    elif is_dataclass(value):
        yield b"r" + type(value).__name__.encode() + b":"
        yield from _record(value)
    else:
        raise TypeError(f"no canonical form for {type(value).__name__}")


def _record(record: Any) -> Iterator[bytes]:
    """The fields in their order. Younger ones only when they are set, under their names: so the hash of a
    state that does not use them stays what it was."""
    for field in fields(record):
        value = getattr(record, field.name)
        if "added" not in field.metadata:
            yield from _parts(value)
        elif value != field.default:
            yield b"f" + field.name.encode() + b":"
            yield from _parts(value)


def state_hash(state: ClusterState) -> str:
    """SHA-256 over everything replicated. Dicts whose order is log order are hashed in that order."""
    digest = hashlib.sha256()
    digest.update(canonical(state.meta))
    for task_id in sorted(state.tasks):
        digest.update(canonical(state.tasks[task_id]))
        digest.update(canonical(state.steps.get(task_id, ())))
    for finished in state.finished.values():
        digest.update(canonical(finished))
    for node_id in sorted(state.nodes):
        digest.update(canonical(state.nodes[node_id]))
    for request in state.requests.values():
        digest.update(canonical(request))
    for anchor in state.anchors.values():
        digest.update(canonical(anchor))
    return digest.hexdigest()
