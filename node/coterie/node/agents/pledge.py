"""What an agent's files promise of its runs, as the cluster keeps it."""

from __future__ import annotations

from collections.abc import Iterable

from coterie.core.agent_slo import MILLION
from coterie.core.agentbook import NO_PLEDGE, Pledge
from coterie.node.agents.definition import Definition
from coterie.node.agents.model import RegistryEntry


def pledge_of(definition: Definition) -> Pledge:
    """By the registry entry and `monitoring`; without an entry nothing is promised."""
    watch, may = definition.config.monitoring, definition.config.permissions
    given = _promised(definition.registry) if definition.registry is not None else NO_PLEDGE
    return Pledge(
        given.availability_ppm,
        given.response_ms,
        given.runs_per_hour,
        given.window_ms,
        definition.concurrent,
        given.scaling,
        given.replicas_min,
        given.replicas_max,
        given.slots_percent,
        given.memory_percent,
        given.memory_bytes,
        not watch.enabled,
        not watch.metrics_enabled,
        (may.max_allocation or 1) if may.gpu_access else 0,
    )


def _promised(entry: RegistryEntry) -> Pledge:
    slo, scaling = entry.slo, entry.autoscaling
    return Pledge(
        availability_ppm=round((slo.availability or 0) * MILLION),
        response_ms=slo.response_time_p99 or 0,
        runs_per_hour=slo.throughput or 0,
        window_ms=slo.window or 0,
        scaling=scaling.enabled,
        replicas_min=scaling.min_replicas,
        replicas_max=scaling.max_replicas if scaling.enabled else 0,
        slots_percent=round((scaling.target_cpu_utilization or 0) * 100),
        memory_percent=round((scaling.target_memory_utilization or 0) * 100),
        memory_bytes=entry.resources.requests.memory or 0,
    )


def ineffective(definition: Definition) -> Iterable[str]:
    """Keys that change nothing, each with the reason: said when the files are applied."""
    config, entry = definition.config, definition.registry
    if config.monitoring.tracing_enabled:
        yield "agent.monitoring.tracing_enabled: no effect: every run has its history (`coterie history`)"
    if config.model.version not in ("", "latest"):
        yield "agent.model.version: no effect: the model's name says it all; the answer's own is recorded"
    if entry is None:
        return
    resources = entry.resources
    if resources.requests.cpu is not None or resources.limits.cpu is not None:
        yield (
            "resources.*.cpu: no effect: a run holds a slot of its node and waits for its model most of the "
            "time; the CPU of its tools is that of their skills (skill-registry.yaml)"
        )
    if resources.limits.memory is not None:
        yield (
            "resources.limits.memory: no effect: what needs memory are the tools; their skills have limits "
            "(skill-registry.yaml), requests.memory is set aside for each run"
        )
    if entry.name and entry.name != definition.name:
        yield f"name: {entry.name} of the registry gives way to {definition.name} of the agent's own files"
