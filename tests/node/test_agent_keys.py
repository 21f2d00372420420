"""Every key that the published files of an agent and of its registry may have: it has an effect that is
seen here, or it is refused or declined with a reason. A key that is missing here fails the last test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from coterie.core.agentbook import Pledge
from coterie.core.agentstats import DAY_MS
from coterie.node.agents.definition import Definition, read_definition
from coterie.node.agents.files import AgentProblems
from coterie.node.agents.limits import limits_of
from coterie.node.agents.model import AgentConfig, RegistryEntry, ToolsConfig
from coterie.node.agents.pledge import ineffective, pledge_of
from tests.core.builders import CoreCluster


def definition(config: dict[str, Any], entry: dict[str, Any] | None = None, tools: Any = None) -> Definition:
    files = {"config.yaml": yaml.safe_dump({"agent": {"id": "a", **config}})}
    if entry is not None:
        files["registry.json"] = json.dumps({"id": "a", **entry})
    if tools is not None:
        files["tools-config.json"] = json.dumps(tools)
    return read_definition(files)


def prompt(config: dict[str, Any]) -> str:
    return definition(config).system_prompt()


def limits(config: dict[str, Any]) -> str:
    return repr(limits_of(definition(config), CoreCluster().state))


def pledged(entry: dict[str, Any], **config: Any) -> Pledge:
    return pledge_of(definition(config, entry))


SKILL = {"skill_id": "shared/x"}
# What a key does, as far as the files alone show it. The loop's part: tests/cluster/test_agents.py,
# tests/skills/test_agent.py; that of the skills' permissions: tests/skills/shipped.
EFFECTS: dict[str, Callable[[], object]] = {
    "id": lambda: definition({"id": "b"}).agent_id == "b",
    "name": lambda: prompt({"name": "Ann"}).startswith("You are Ann."),
    "description": lambda: "Trains models." in prompt({"description": "Trains models."}),
    "version": lambda: definition({"version": "2.1"}).version == "2.1",
    "aliases": lambda: definition({"aliases": ["b"]}).config.aliases == ("b",),
    "capabilities": lambda: definition({"capabilities": ["ml"]}).domains == ("ml",),
    "permissions.gpu_access": lambda: pledged({}, permissions={"gpu_access": True}).gpus == 1,
    "permissions.max_allocation": lambda: (
        pledged({}, permissions=[{"gpu_access": True, "max_allocation": 2}]).gpus == 2
    ),
    "memory.ttl": lambda: definition({"memory": {"ttl": 60}}).config.memory.ttl == 60_000,
    "rate_limits.requests_per_minute": lambda: (
        "requests=7" in limits({"rate_limits": {"requests_per_minute": 7}})
    ),
    "rate_limits.tokens_per_day": lambda: "tokens=7" in limits({"rate_limits": {"tokens_per_day": 7}}),
    "rate_limits.usd_per_day": lambda: "micro_usd=7000" in limits({"rate_limits": {"usd_per_day": 0.007}}),
    "rate_limits.concurrent_sessions": lambda: (
        "concurrent=7" in limits({"rate_limits": {"concurrent_sessions": 7}})
    ),
    "monitoring.enabled": lambda: pledged({}, monitoring={"enabled": False}).unwatched,
    "monitoring.metrics_enabled": lambda: pledged({}, monitoring={"metrics_enabled": False}).unexported,
    "registry.id": lambda: definition({"aliases": ["b"]}, {"id": "b"}).registry,
    "registry.version": lambda: definition({}, {"version": "3"}).version == "3",
    "registry.replicas": lambda: definition({}, {"replicas": 3}).concurrent == 3,
    "registry.domains": lambda: definition({}, {"domains": ["ml"]}).domains == ("ml",),
    "registry.slo.availability": lambda: (
        pledged({"slo": {"availability": "99.9%"}}).availability_ppm == 999_000
    ),
    "registry.slo.response_time_p99": lambda: (
        pledged({"slo": {"response_time_p99": "5000ms"}}).response_ms == 5_000
    ),
    "registry.slo.throughput": lambda: pledged({"slo": {"throughput": "100req/min"}}).runs_per_hour == 6_000,
    "registry.slo.window": lambda: pledged({"slo": {"window": "7d"}}).window_ms == 7 * DAY_MS,
    "registry.resources.requests.memory": lambda: (
        pledged({"resources": {"requests": {"memory": "4Gi"}}}).memory_bytes == 4 << 30
    ),
    "registry.autoscaling.enabled": lambda: pledged({"autoscaling": {"enabled": True}}).scaling,
    "registry.autoscaling.min_replicas": lambda: (
        pledged({"autoscaling": {"enabled": True, "min_replicas": 2, "max_replicas": 9}}).replicas_min == 2
    ),
    "registry.autoscaling.max_replicas": lambda: (
        pledged({"autoscaling": {"enabled": True, "max_replicas": 9}}).replicas_max == 9
    ),
    "registry.autoscaling.target_cpu_utilization": lambda: (
        pledged({"autoscaling": {"target_cpu_utilization": "70%"}}).slots_percent == 70
    ),
    "registry.autoscaling.target_memory_utilization": lambda: (
        pledged({"autoscaling": {"target_memory_utilization": "75%"}}).memory_percent == 75
    ),
}
# Seen where a run reads them: node/agents/calls.py `load`, test_agent_loaded below.
LOADED: dict[str, tuple[dict[str, Any], str, object]] = {
    "model.provider": ({"model": {"provider": "p"}}, "model", "p/"),
    "model.name": ({"model": {"provider": "p", "name": "m"}}, "model", "p/m"),
    "model.temperature": ({"model": {"temperature": 0.3}}, "temperature", 0.3),
    "model.max_tokens": ({"model": {"max_tokens": 9}}, "max_tokens", 9),
    "model.thinking": ({"model": {"thinking": "moderate"}}, "effort", "medium"),
    "memory.type": ({"memory": {"type": "persistent", "ttl": 60}}, "memory_ttl_s", 60),
    "monitoring.log_level": ({"monitoring": {"log_level": "DEBUG"}}, "log_level", "DEBUG"),
    "loop.stop": ({"loop": {"stop": ["x"]}}, "stop", ["x"]),
    "loop.handoff": ({"loop": {"handoff": ["x"]}}, "handoff", [{"id": "x", "about": "x"}]),
}
LOOP = {
    "max_steps": 3,
    "budget_tokens": 5,
    "window": 2_000,
    "result_chars": 200,
    "parallel": 2,
    "ask_human": True,
    "add_nodes": True,
}
BINDING: dict[str, tuple[Any, str, object]] = {
    "skills.skill_id": (SKILL, "skill", "x"),
    "skills.timeout": ({**SKILL, "timeout": 30}, "options", {"timeout": 30.0}),
    "skills.version": ({**SKILL, "version": "1.2"}, "options", {"constraints": {"skill_version": "1.2"}}),
    "skills.retry_policy.max_retries": (
        {**SKILL, "retry_policy": {"max_retries": 3}},
        "options",
        {"max_attempts": 4},
    ),
    "skills.retry_policy.max_backoff": (
        {**SKILL, "retry_policy": {"max_backoff": 9}},
        "options",
        {"retry": {"max_attempts": 1, "max_backoff": 9.0}},
    ),
    "skills.retry_policy.backoff": (
        {**SKILL, "retry_policy": {"max_retries": 1, "backoff": "fixed", "max_backoff": 2}},
        "options",
        {"retry": {"max_attempts": 2, "initial_backoff": 2.0, "max_backoff": 2.0}},
    ),
}
# Where their effect is tested.
ELSEWHERE = {
    "permissions.file_access": "tests/skills/shipped/test_file_management.py",
    "permissions.paths": "tests/skills/shipped/test_file_management.py",
    "permissions.network_access": "tests/skills/shipped/test_web_fetch.py",
    "permissions.allowed_endpoints": "tests/skills/shipped/test_web_fetch.py",
    "registry.status": "tests/node/test_agent_loaded.py",
    "tools.allow": "tests/node/test_agent_files.py",
    "tools.deny": "tests/node/test_agent_files.py",
    "tools.approve": "tests/cluster/test_agents.py",
    "tools.mcp_servers.allow": "tests/node/test_agent_files.py",
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "memory.storage.backend": (
        {"memory": {"storage": {"backend": "postgresql"}}},
        "kept by the cluster itself",
    ),
    "memory.storage.connection_string": (
        {"memory": {"storage": {"connection_string": "postgresql://u:p@db/x"}}},
        "never write a password",
    ),
}
DECLINED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "model.version": ({"model": {"version": "3"}}, {}, "agent.model.version: no effect: "),
    "monitoring.tracing_enabled": (
        {"monitoring": {"tracing_enabled": True}},
        {},
        "agent.monitoring.tracing_enabled: no effect: ",
    ),
    "registry.name": ({"name": "Ann"}, {"name": "Bob"}, "name: Bob of the registry gives way to Ann"),
    "registry.resources.requests.cpu": ({}, {"resources": {"requests": {"cpu": 2}}}, "cpu: no effect: "),
    "registry.resources.limits.cpu": ({}, {"resources": {"limits": {"cpu": "500m"}}}, "cpu: no effect: "),
    "registry.resources.limits.memory": (
        {},
        {"resources": {"limits": {"memory": "8Gi"}}},
        "memory: no effect: ",
    ),
}


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_has_its_effect(key: str) -> None:
    assert EFFECTS[key]()


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_is_refused_with_the_reason(key: str) -> None:
    config, reason = REFUSED[key]
    with pytest.raises(AgentProblems) as refused:
        definition(config)
    assert reason in str(refused.value)


@pytest.mark.parametrize("key", DECLINED)
def test_a_key_without_effect_says_why_and_only_where_it_is_used(key: str) -> None:
    config, entry, said = DECLINED[key]
    [note] = ineffective(definition(config, entry))
    assert said in note
    assert not list(ineffective(definition({}, {})))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"slo": {"availability": "100%"}}, "slo.availability: no run may ever fail then"),
        ({"slo": {"availability": 0}}, "slo.availability: "),
        (
            {"slo": {"throughput": "fast"}},
            "slo.throughput: 'fast' is not a throughput: write it like 100req/min",
        ),
        ({"slo": {"throughput": 100}}, "slo.throughput: 100 is not a throughput"),
        ({"slo": {"window": "5m"}}, "slo.window: "),
        ({"slo": {"window": "90d"}}, "slo.window: "),
        ({"slo": {"availabilty": 1}}, "slo.availabilty: unknown key; did you mean availability?"),
        ({"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas 3 is above max_replicas 2"),
        (
            {"resources": {"requests": {"memory": "8Gi"}, "limits": {"memory": "4Gi"}}},
            "is above limits.memory",
        ),
        ({"resources": {"requests": {"cpu": "lots"}}}, "resources.requests.cpu: "),
        ({"status": "asleep"}, "status: "),
    ],
)
def test_what_is_wrong_in_a_registry_is_named(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(AgentProblems) as refused:
        definition({}, entry)
    assert said in str(refused.value)


def keys(kind: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every key of the model, down to what is no map."""
    for name, field in kind.model_fields.items():
        inner = [one for one in _kinds(field.annotation) if issubclass(one, BaseModel)]
        if inner:
            yield from keys(inner[0], f"{path}{name}.")
        else:
            yield f"{path}{name}"


def _kinds(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for one in get_args(annotation):
        yield from _kinds(one)


def test_no_key_is_left_out() -> None:
    known = {*keys(AgentConfig), *keys(RegistryEntry, "registry."), *keys(ToolsConfig, "tools.")}
    told = {*EFFECTS, *LOADED, *BINDING, *ELSEWHERE, *REFUSED, *DECLINED, *(f"loop.{name}" for name in LOOP)}
    assert known == told
