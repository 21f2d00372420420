"""What tells one kind of task from another where nodes are concerned."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from coterie.core.nouns import NO_CONSTRAINTS, Constraints


class Typed(Protocol):
    """A task, or the command that will make one."""

    @property
    def type(self) -> str: ...
    @property
    def constraints(self) -> Constraints: ...


def kind(task: Typed) -> Hashable:
    """What decides which nodes are fit for a task: tasks of one kind are refused alike."""
    wanted = task.constraints
    if wanted is NO_CONSTRAINTS or wanted == NO_CONSTRAINTS:
        return task.type
    return (
        task.type,
        wanted.require_gpu,
        wanted.labels,
        wanted.zones,
        wanted.target_node,
        wanted.skill_version,
        wanted.memory_bytes,
        wanted.gpus,
        wanted.require_coordinator,
        (wanted.max_latency_ms, wanted.origin) if wanted.max_latency_ms else 0,
        wanted.companions,
    )
