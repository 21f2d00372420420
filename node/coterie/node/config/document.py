"""The part of the configuration that the cluster agrees on: it is in the replicated state, the same on every
node, and changed while they run. The rest is of each node's own file, and takes effect when it starts.

A document is a JSON object of what was written, by dotted keys: {"distribution.taskQueue.maxPending": 500}.
What is not in it has its default."""

from __future__ import annotations

from typing import Any, Final

from coterie.node.config.findings import KeyPath
from coterie.node.config.model import ClusterConfig
from coterie.node.config.read import written_path

Document = dict[str, Any]

_QUEUE: Final = ("distribution", "task_queue")
KEYS: Final[tuple[tuple[str, ...], ...]] = (  # each stands for all below it
    ("distribution", "strategy"),
    ("distribution", "adaptive"),
    ("distribution", "routing"),
    _QUEUE,
    ("fault_tolerance", "circuit_breaker"),
    ("fault_tolerance", "health_check", "flap_memory"),
    ("goals",),
    ("routing_rules",),
    ("limits", "live_bytes_max"),
    ("limits", "task_bytes_max"),
    ("limits", "steps_per_task_max"),
)
ALIASES: Final = (
    ("multi_agent", "coordinator", "max_concurrent_tasks"),
    ("multi_agent", "coordinator", "task_timeout"),
)


def is_replicated(path: KeyPath) -> bool:
    """Whether the cluster agrees on the key."""
    return any(path[: len(known)] == known for known in (*KEYS, *ALIASES))


def document_of(config: ClusterConfig) -> Document:
    """What was written of the replicated part."""
    return flat(config.model_dump(mode="json", exclude_unset=True))


def flat(dumped: dict[str, Any]) -> Document:
    """By dotted keys; the values as they are written in files."""
    found: Document = {}
    for path in KEYS:
        value: Any = dumped
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        _flatten(value, path, found)
    return dict(sorted(found.items()))


def _flatten(value: Any, path: KeyPath, found: Document) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, (*path, key), found)
    elif value is not None:
        found[written_path(path)] = value
