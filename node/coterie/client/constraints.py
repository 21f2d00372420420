"""What a node must offer, and what a task would like: a dict of words, checked and turned into a message.

    {"require_gpu": True, "memory": "2GiB", "gpus": 1, "zones": ["a", "b"], "labels": {"disk": "ssd"},
     "skill_version": "1.2.0", "target_node": "node-1", "require_node": "coordinator", "max_latency": "100ms",
     "session": "s-17", "prefer_zone": "a", "prefer_same_zone": True,
     "affinity": [{"label": "job=7"}], "anti_affinity": [{"type": "map", "zone": True, "required": True}]}

camelCase works too. The last two lines of keys are wishes, unless one says `required`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coterie.client.units import duration_ms
from coterie.v1 import tasks_pb2

Problems = list[tuple[str, str]]
COORDINATOR = "coordinator"
_COMPANION_KEYS = ("task", "type", "label", "required", "zone")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def unknown_key(key: str, known: Sequence[str]) -> str:
    """The sentence for an unknown key, with the nearest known one."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; known: {', '.join(known)}"


def fill_constraints(given: Any, into: tasks_pb2.Constraints, problems: Problems) -> None:
    """Copy the words into the message; everything wrong is added to `problems`."""
    if not isinstance(given, Mapping):
        problems.append(("constraints", f"{given!r} is not a dict"))
        return
    flat = {key.replace("_", ""): key for key in _FILLERS}
    for raw_key, value in given.items():
        # requireGPU, requireGpu and require_gpu are one key.
        key = flat.get(str(raw_key).replace("_", "").lower())
        field = f"constraints.{raw_key}"
        if key is None:
            problems.append((field, unknown_key(str(raw_key), tuple(_FILLERS))))
            continue
        try:
            _FILLERS[key](value, into, field)
        except _Wrong as wrong:
            problems += wrong.problems
        except ValueError as error:
            problems.append((field, str(error)))


def fill_labels(field: str, labels: Any, into: Any, problems: Problems) -> None:
    """Copy a dict of texts."""
    if not isinstance(labels, Mapping):
        problems.append((field, f"{labels!r} is not a dict of texts"))
        return
    for key, value in labels.items():
        if isinstance(key, str) and isinstance(value, str):
            into[key] = value
        else:
            problems.append((f"{field}.{key}", f"{value!r}: labels are texts, write it in quotes"))


class _Wrong(Exception):
    """More than one thing is wrong, or it is wrong deeper inside."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(problems)
        self.problems = problems


Filler = Callable[[Any, tasks_pb2.Constraints, str], None]


def _flag(name: str) -> Filler:
    def fill(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is not true or false")
        setattr(into, name, value)

    return fill


def _text(name: str) -> Filler:
    def fill(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a text")
        setattr(into, name, value)

    return fill


def _labels(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
    problems: Problems = []
    fill_labels(field, value, into.labels, problems)
    if problems:
        raise _Wrong(problems)


def _zones(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(zone, str) and zone for zone in value):
        raise ValueError(f"{value!r}: zones are non-empty texts")
    into.zones.extend(value)


def _zone(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
    _zones([value], into, field)


def _target(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    if into.target_node not in ("", value):
        raise ValueError(f"{value!r} contradicts target_node={into.target_node!r}: give one of them")
    into.target_node = value


def _require_node(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
    """The coordinator, whoever that is when the task is placed, or a node by its id."""
    if value == COORDINATOR:
        into.require_coordinator = True
    else:
        _target(value, into, field)


def _memory(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
    into.memory_bytes = _bytes(value)


def _gpus(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_024:
        raise ValueError(f"{value!r} is not a whole number from 0 to 1024")
    into.gpus = value


def _max_latency(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
    into.max_latency_ms = duration_ms(value)
    if into.max_latency_ms == 0:
        raise ValueError(f"{value!r}: nothing is that near; give 1ms or more, or leave it out")


def _companions(*, away: bool) -> Filler:
    def fill(value: Any, into: tasks_pb2.Constraints, field: str) -> None:
        entries = [value] if isinstance(value, Mapping) else value
        if not isinstance(entries, list | tuple):
            raise ValueError(f'{value!r} is not a list such as [{{"type": "map"}}]')
        for place, entry in enumerate(entries):
            _companion(entry, into.companions.add(away=away), f"{field}[{place}]")

    return fill


def _companion(entry: Any, into: tasks_pb2.Companion, field: str) -> None:
    if not isinstance(entry, Mapping):
        raise _Wrong([(field, f'{entry!r} is not a dict such as {{"label": "job=7"}}')])
    problems = [
        (f"{field}.{key}", unknown_key(str(key), _COMPANION_KEYS))
        for key in entry
        if key not in _COMPANION_KEYS
    ]
    problems += [
        (f"{field}.{key}", f"{entry[key]!r} is not a non-empty text")
        for key in ("task", "type", "label")
        if key in entry and (not isinstance(entry[key], str) or not entry[key])
    ]
    problems += [
        (f"{field}.{key}", f"{entry[key]!r} is not true or false")
        for key in ("required", "zone")
        if not isinstance(entry.get(key, False), bool)
    ]
    if not any(key in entry for key in ("task", "type", "label")):
        problems.append((field, "names no tasks: give a task, a type or a label"))
    if problems:
        raise _Wrong(problems)
    into.task_id, into.type = entry.get("task", ""), entry.get("type", "")
    into.label_key, _, into.label_value = entry.get("label", "").partition("=")
    into.required, into.zone = entry.get("required", False), entry.get("zone", False)


def _bytes(value: Any) -> int:
    """Bytes of 1048576, "512MiB", "2G"; the grammar of the cluster's files."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= 40 else None
    if match is None:
        raise ValueError(f"{value!r} is not a size: write it like 512MiB, 2G or 1048576")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].lower()])


_FILLERS: Mapping[str, Filler] = {
    "require_gpu": _flag("require_gpu"),
    "gpus": _gpus,
    "memory": _memory,
    "labels": _labels,
    "zones": _zones,
    "zone": _zone,
    "target_node": _target,
    "require_node": _require_node,
    "skill_version": _text("skill_version"),
    "max_latency": _max_latency,
    "prefer_zone": _text("prefer_zone"),
    "prefer_node": _text("prefer_node"),
    "prefer_same_zone": _flag("prefer_same_zone"),
    "session": _text("session"),
    "affinity": _companions(away=False),
    "anti_affinity": _companions(away=True),
}
CONSTRAINT_KEYS = tuple(_FILLERS)
