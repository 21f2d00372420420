"""The `multi_agent` section: other names for keys that live elsewhere. It is folded into those, so that the
rest of the node knows one name for each thing; where both are written they must agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from coterie.node.config.findings import Finding, KeyPath
from coterie.node.config.model import ClusterConfig
from coterie.node.units import format_duration

_HEALTH: KeyPath = ("fault_tolerance", "health_check")
_QUEUE: KeyPath = ("distribution", "task_queue")


@dataclass(frozen=True, slots=True)
class Alias:
    """What a key of the section means: a value of another key."""

    path: KeyPath
    target: KeyPath
    value: int


def fold(config: ClusterConfig) -> ClusterConfig:
    """The configuration with the section's values where they belong."""
    for alias in aliases(config):
        config = _set(config, alias.target, alias.value)
    return config


def contradictions(config: ClusterConfig) -> Iterator[Finding]:
    """Both names written, with different values."""
    for alias in aliases(config):
        section: Any = config
        for key in alias.target[:-1]:
            section = getattr(section, str(key))
        name = str(alias.target[-1])
        written = getattr(section, name)
        if name in section.model_fields_set and written != alias.value:
            where = ".".join(str(key) for key in alias.target)
            yield Finding(
                alias.path,
                f"means {alias.value} for {where}, which says {written}; remove one",
                (alias.target,),
            )


def aliases(config: ClusterConfig) -> list[Alias]:
    """Every key of the section that was written and stands for another one."""
    section = config.multi_agent
    if section is None:
        return []
    coordinator, monitoring = section.coordinator, section.monitoring
    found = []
    if coordinator.max_concurrent_tasks is not None:
        path: KeyPath = ("multi_agent", "coordinator", "max_concurrent_tasks")
        found.append(Alias(path, (*_QUEUE, "max_running"), coordinator.max_concurrent_tasks))
    if coordinator.task_timeout is not None:
        path = ("multi_agent", "coordinator", "task_timeout")
        found.append(Alias(path, (*_QUEUE, "attempt_timeout"), coordinator.task_timeout))
    interval = monitoring.heartbeat_interval
    if interval is not None:
        path = ("multi_agent", "monitoring", "heartbeat_interval")
        found.append(Alias(path, (*_HEALTH, "interval"), interval))
    if monitoring.agent_timeout is not None:
        every = interval or config.fault_tolerance.health_check.interval
        threshold = max(1, -(-monitoring.agent_timeout // every))
        path = ("multi_agent", "monitoring", "agent_timeout")
        found.append(Alias(path, (*_HEALTH, "unhealthy_threshold"), threshold))
    return found


def rounding(config: ClusterConfig) -> Iterator[Finding]:
    """An agent_timeout that is no multiple of the interval is rounded up, and that is said."""
    section = config.multi_agent
    wanted = section.monitoring.agent_timeout if section is not None else None
    every = config.fault_tolerance.health_check.interval
    if wanted is not None and wanted % every:
        kept = format_duration(-(-wanted // every) * every)
        text = f"{format_duration(wanted)} is not a multiple of the interval; it is {kept} in effect"
        yield Finding(("multi_agent", "monitoring", "agent_timeout"), text)


def _set(section: Any, target: KeyPath, value: int) -> Any:
    key, rest = str(target[0]), target[1:]
    inner = _set(getattr(section, key), rest, value) if rest else value
    assert isinstance(section, BaseModel)
    return section.model_copy(update={key: inner})
