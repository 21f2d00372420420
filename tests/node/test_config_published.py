"""Every key of the published files: it changes what a node is told, or is refused or named with the reason.

The files are loaded with one key changed at a time, so that a key that is read and dropped is found."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.node.config import (
    BreakerSettings,
    ConfigError,
    LoadedConfig,
    NodeSettings,
    RebalanceSettings,
    load_config,
    node_settings,
)
from coterie.node.config.support import NO_EFFECT, NOT_YET
from tests.node.test_config import SEED_FILES

FIXTURES = Path(__file__).parent / "fixtures"
MULTI_AGENT = FIXTURES / "multi_agent.yaml"
NODE = Path(__file__).resolve().parents[2] / "node" / "coterie" / "node"

# Path, another value, and the setting that follows it: of node-01 unless another node is named.
EFFECTS: list[tuple[str, Any, str, Any]] = [
    ("cluster.name", "other", "cluster_name", "other"),
    ("cluster.region", "eu", "labels", {"region": "eu"}),
    ("cluster.nodes.0.id", "node-00", "node_id", "node-00"),
    ("cluster.nodes.0.host", "10.0.9.9", "advertise", "10.0.9.9:8080"),
    ("cluster.nodes.0.role", "worker", "preferred_leaders", ()),
    ("cluster.nodes.0.capacity", 7, "capacity", 7),
    ("cluster.consensus.electionTimeout", "6s", "election_timeout_ms", 6_000),
    ("cluster.consensus.heartbeatInterval", "500ms", "heartbeat_ms", 500),
    ("cluster.discovery.nodes", ["node-01:99"], "grpc_port", 99),
    ("distribution.strategy", "hash", "routing.strategy", "hash"),
    ("distribution.adaptive.rebalanceInterval", "31s", "rebalance.rebalance_interval_ms", 31_000),
    ("distribution.adaptive.threshold", 0.7, "rebalance.rebalance_threshold", 0.7),
    ("distribution.taskQueue.maxPending", 9, "policy.pending_tasks_max", 9),
    ("distribution.taskQueue.retryPolicy.maxAttempts", 4, "retry.attempts_max", 4),
    ("distribution.taskQueue.retryPolicy.backoff", "constant", "retry.backoff_max_ms", 200),
    ("distribution.taskQueue.retryPolicy.maxBackoff", "6m", "retry.backoff_max_ms", 360_000),
    ("distribution.routing.affinity", False, "routing.affinity", False),
    ("distribution.routing.locality", "cross-zone", "routing.locality", "cross-zone"),
    ("faultTolerance.healthCheck.interval", "9s", "health.down_after_ms", 27_000),
    ("faultTolerance.healthCheck.timeout", "4s", "health.timeout_ms", 4_000),
    ("faultTolerance.healthCheck.unhealthyThreshold", 4, "health.down_after_ms", 40_000),
    ("faultTolerance.healthCheck.healthyThreshold", 5, "plan_policy.up_after_reports", 5),
    (
        "faultTolerance.failover.taskMigration.checkpointInterval",
        "2m",
        "rebalance.checkpoint_interval_ms",
        120_000,
    ),
    (
        "faultTolerance.failover.taskMigration.migrateInProgress",
        False,
        "rebalance.migrate_in_progress",
        False,
    ),
    ("faultTolerance.circuitBreaker.enabled", False, "breaker.breaker_enabled", False),
    ("faultTolerance.circuitBreaker.failureThreshold", 6, "breaker.breaker_failures", 6),
    ("faultTolerance.circuitBreaker.recoveryTimeout", "61s", "breaker.breaker_recovery_ms", 61_000),
    ("faultTolerance.circuitBreaker.halfOpenRequests", 4, "breaker.breaker_probes", 4),
]
# Another value than the printed one is refused, or changes what is warned about.
JUDGED: list[tuple[str, Any, str]] = [
    ("cluster.discovery.method", "dns", "discovery.name: missing"),
    ("cluster.consensus.protocol", "paxos", "Paxos is not implemented"),
    ("distribution.taskQueue.type", "fifo", "the queue is ordered by priority"),
    ("distribution.routing.antiAffinity", True, "cannot be gathered and spread"),
    ("faultTolerance.failover.taskMigration.enabled", False, "always go on elsewhere"),
]
WARNED: list[tuple[str, Any, str]] = [
    ("faultTolerance.failover.strategy", "active-active", "no node is on standby"),
    ("faultTolerance.failover.failoverTime", "35s", "30s cannot be kept"),
]


def published(directory: Path, change: str = "", value: Any = None) -> LoadedConfig:
    """The files as printed, with one key changed."""
    tls = directory / "tls.yaml"
    tls.write_text("security: {tls: {dir: certs}}", encoding="utf-8")
    paths = [tls]
    for file in SEED_FILES:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        if change.split(".")[0] in document:
            _change(document, change.split("."), value)
        paths.append(directory / file.name)
        paths[-1].write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_config(paths, {})


def _change(document: Any, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        document = document[int(part) if part.isdecimal() else part]
    assert path[-1] in document, path
    document[path[-1]] = value
    if path[-1] == "id":
        document["port"] = 8080  # the list of the discovery names the old id


def setting(loaded: LoadedConfig, path: str) -> Any:
    node_id = loaded.config.node_ids[0]
    value: Any = node_settings(loaded.config, node_id)
    for part in path.split("."):
        value = getattr(value, part)
    return dict(value) if isinstance(value, dict) else value


def printed_keys() -> set[str]:
    """Every key of the files that holds a value; of lists of nodes, those of the first one."""
    return {
        path for file in SEED_FILES for path in _keys(yaml.safe_load(file.read_text(encoding="utf-8")), "")
    }


def _keys(value: Any, at: str) -> list[str]:
    if isinstance(value, dict):
        return [path for key, inner in value.items() for path in _keys(inner, f"{at}.{key}".lstrip("."))]
    if isinstance(value, list) and isinstance(value[0], dict):
        return _keys(value[0], f"{at}.0")
    return [at]


def test_every_printed_key_is_tested_here() -> None:
    known = {path for path, *_ in EFFECTS} | {path for path, *_ in JUDGED} | {path for path, *_ in WARNED}
    assert printed_keys() == known


@pytest.mark.parametrize(("path", "value", "name", "expected"), EFFECTS, ids=[e[0] for e in EFFECTS])
def test_a_key_changes_what_a_node_is_told(
    tmp_path: Path, path: str, value: Any, name: str, expected: Any
) -> None:
    before = published(tmp_path)
    if path == "cluster.nodes.0.id":
        with pytest.raises(ConfigError, match=r"no node has this id or host; did you mean node-0"):
            published(tmp_path, path, value)
        return
    after = published(tmp_path, path, value)
    assert setting(after, name) == expected != setting(before, name)


@pytest.mark.parametrize(("path", "value", "reason"), JUDGED, ids=[j[0] for j in JUDGED])
def test_a_value_that_cannot_be_had_is_refused_with_the_reason(
    tmp_path: Path, path: str, value: Any, reason: str
) -> None:
    published(tmp_path)
    with pytest.raises(ConfigError, match=reason):
        published(tmp_path, path, value)


@pytest.mark.parametrize(("path", "value", "reason"), WARNED, ids=[w[0] for w in WARNED])
def test_a_printed_value_that_cannot_be_kept_is_warned_about(
    tmp_path: Path, path: str, value: Any, reason: str
) -> None:
    assert reason in "\n".join(published(tmp_path).warnings)
    assert reason not in "\n".join(published(tmp_path, path, value).warnings)


# --- multi_agent


def test_the_printed_multi_agent_section_is_refused_for_two_reasons_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([*SEED_FILES[:1], MULTI_AGENT], {})
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "multi_agent.agents",
        "multi_agent.message_bus",
    ]


def without_refused(directory: Path, **changes: Any) -> LoadedConfig:
    document = yaml.safe_load(MULTI_AGENT.read_text(encoding="utf-8"))
    del document["multi_agent"]["agents"], document["multi_agent"]["message_bus"]
    for path, value in changes.items():
        section, key = path.split("__")
        document["multi_agent"][section][key] = value
    file = directory / "multi_agent.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    base = directory / "base.yaml"
    base.write_text(
        "cluster: {nodes: [{id: a, host: 127.0.0.1}]}\nsecurity: {allowInsecureLoopback: true}",
        encoding="utf-8",
    )
    return load_config([base, file], {})


def test_the_rest_of_the_section_means_other_keys(tmp_path: Path) -> None:
    settings = node_settings(without_refused(tmp_path).config)
    assert settings.max_running == 10
    assert settings.default_attempt_timeout_ms == 300_000
    assert (settings.health.interval_ms, settings.health.unhealthy_threshold) == (10_000, 3)
    assert settings.health.down_after_ms == 30_000


@pytest.mark.parametrize(
    ("change", "value", "name", "expected"),
    [
        ("coordinator__max_concurrent_tasks", 11, "max_running", 11),
        ("coordinator__task_timeout", "6m", "default_attempt_timeout_ms", 360_000),
        ("monitoring__heartbeat_interval", 5, "health.interval_ms", 5_000),
        ("monitoring__agent_timeout", 40, "health.down_after_ms", 40_000),
    ],
)
def test_a_key_of_the_section_changes_what_a_node_is_told(
    tmp_path: Path, change: str, value: Any, name: str, expected: Any
) -> None:
    changed: dict[str, Any] = {change: value}
    assert setting(without_refused(tmp_path, **changed), name) == expected
    assert setting(without_refused(tmp_path), name) != expected


def test_the_section_says_what_it_need_not_do(tmp_path: Path) -> None:
    loaded = without_refused(tmp_path, monitoring__agent_timeout=31)
    assert {note.split(":")[0] for note in loaded.notes} == {
        "multi_agent.state_sync.sync_interval",
        "multi_agent.state_sync.conflict_resolution",
    }
    assert any("serial" in note for note in loaded.notes)
    assert any("31s is not a multiple of the interval; it is 40s in effect" in w for w in loaded.warnings)


# --- what waits for a reader


def attributes_read() -> set[str]:
    rooms = {"config", "tls"}
    files = [path for path in NODE.rglob("*.py") if path.relative_to(NODE).parts[0] not in rooms]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("keys", sorted(NOT_YET), ids=".".join)
def test_a_key_called_not_effective_has_a_setting_that_nobody_reads(keys: tuple[str, ...]) -> None:
    """When this fails because somebody reads it: take the key out of NOT_YET, it is effective now."""
    late = NOT_YET[keys]
    kinds = (NodeSettings, RebalanceSettings, BreakerSettings)
    assert late.setting in {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert late.setting not in attributes_read()


def test_nothing_is_in_two_tables() -> None:
    assert set(NOT_YET).isdisjoint(NO_EFFECT)
