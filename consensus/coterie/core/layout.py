"""How records without slots lie in memory.

CPython keeps the attributes of an instance in a short array, whose places it gives to names as the first
instances of the class use them. Some thirty instances later the places are closed, and whatever has an
attribute without a place gets a dict of its own: a delayed task took 1.6 KB in place of 0.9 where the first
tasks of the process had been others. So the names that all queued tasks need come first."""

from __future__ import annotations

QUEUED = (  # what a new task may hold: see submit_rules
    *("task_id", "order", "tenant", "type", "payload", "priority", "retry", "created_at_ms", "request_id"),
    *("sequence", "version", "bytes_held", "start_at_ms", "not_before_ms", "attempt_timeout_ms"),
    *("deadline_at_ms", "labels", "constraints", "key", "agent", "parent_id", "step_count", "retry_of"),
    "checkpointing",
)


def give_places(record: type, names: tuple[str, ...]) -> None:
    """To these names, in that order. Before the first instance of the class."""
    first: object = object.__new__(record)
    for name in names:
        object.__setattr__(first, name, None)
