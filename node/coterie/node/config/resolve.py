"""The configuration of a cluster as one of its nodes sees it: defaults filled in, addresses resolved."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import replace
from typing import Any

from coterie.core.nouns import RetryPolicy
from coterie.core.routing import RoutingRules
from coterie.node.config.address import is_loopback, join_address
from coterie.node.config.check import down_after_ms, lease_ms, node_ports, report_interval_ms
from coterie.node.config.discovery import discovery_name, with_entry
from coterie.node.config.document import document_of
from coterie.node.config.findings import ConfigError
from coterie.node.config.goal_model import goals_of
from coterie.node.config.llm_model import Llm
from coterie.node.config.llm_settings import llm_settings
from coterie.node.config.mcp_model import Mcp
from coterie.node.config.mcp_settings import mcp_settings
from coterie.node.config.model import ClusterConfig, NodeEntry, Tls
from coterie.node.config.settings import (
    BreakerSettings,
    DiskSettings,
    HealthSettings,
    KeepSettings,
    Limits,
    LogSettings,
    MembershipSettings,
    NodeSettings,
    Offer,
    QueueSettings,
    RebalanceSettings,
    SecuritySettings,
    TlsPaths,
)
from coterie.node.config.skill_settings import skill_settings, without_secrets


def node_settings(
    config: ClusterConfig,
    node_id: str = "",
    *,
    insecure: bool = False,
    join: bool = False,
    secrets: bool = True,
) -> NodeSettings:
    """What the node `node_id` needs to start; empty: the only node there is. `insecure` allows plain text on
    loopback; `join` stands for the key of that name. Without `secrets` nothing that runs tasks is resolved:
    no keys of models, no MCP servers, no settings of skills. Raises ConfigError when there is no such node,
    nobody to join, or when it would listen in plain text where that is not allowed."""
    config = config if secrets else _without_secrets(config)
    own = _settings(with_entry(config, node_id), node_id, insecure, join)
    goals = goals_of(config.goals, config.routing_rules)
    return replace(own, goals=goals, replicated=json.dumps(document_of(config)))


def _settings(config: ClusterConfig, node_id: str, insecure: bool, join: bool) -> NodeSettings:
    entry = _entry(config, node_id)
    port, consensus = node_ports(config)[entry.id], config.cluster.consensus
    queue, listen, advertise = config.distribution.task_queue, config.listen, config.listen.advertise
    tls, allowed = _tls(config.security.tls, entry.id), insecure or config.security.allow_insecure_loopback
    _check_transport(host := listen.grpc.host or entry.host, tls, allowed)
    return NodeSettings(
        cluster_name=config.cluster.name,
        node_id=entry.id,
        host=host,
        grpc_port=listen.grpc.port or port,
        raft_port=entry.raft_port,
        http_host=(listen.http.host if listen.http else "") or "127.0.0.1",
        http_port=(listen.http.port if listen.http else None) or entry.http_port,
        advertise=join_address(advertise.host or entry.host, advertise.port or port),
        data_dir=config.storage.dir.absolute() / entry.id,
        peers=_peers(config, entry.id),
        founders=_founders(config, entry, join),
        join=join or entry.join,
        capacity=entry.capacity,
        offer=Offer(entry.memory or 0, entry.gpus, entry.standby),
        zone=entry.zone,
        labels=_labels(config, entry),
        election_timeout_ms=consensus.election_timeout,
        heartbeat_ms=consensus.heartbeat_interval,
        snapshot_every=consensus.snapshot_every,
        health=_health(config),
        routing=routing_of(config),
        preferred_leaders=_preferred(config),
        max_running=queue.max_running or 0,
        rebalance=_rebalance(config),
        breaker=breaker_of(config),
        max_pending=queue.max_pending,
        retry=retry_of(config),
        default_attempt_timeout_ms=queue.attempt_timeout,
        limits=_limits(config),
        tls=tls,
        allow_insecure_loopback=allowed,
        skill_dirs=tuple(path for path in (config.skills.dir, *config.skills.dirs) if path),
        skill_trust=config.skills.trust,
        skill_networks=config.skills.inside_networks,
        metrics=config.observability.metrics,
        log=_log(config),
        membership=_membership(config),
        disk=_disk(config),
        keep=_kept(config),
        queue=queue_of(config),
        security=_security(config, entry, host, tls),
        **_with_secrets(config),
    )


def _without_secrets(config: ClusterConfig) -> ClusterConfig:
    skills = config.skills.model_copy(update={"settings": {}})
    return config.model_copy(update={"llm": Llm(), "mcp": Mcp(), "skills": skills})


def _with_secrets(config: ClusterConfig) -> dict[str, Any]:
    """What names secrets of the environment or of files."""
    return {
        "llm": llm_settings(config.llm, os.environ),
        "mcp": mcp_settings(config.mcp, os.environ),
        "skill_settings": skill_settings(config.skills.settings, os.environ),
        "confined_settings": without_secrets(config.skills.settings),
    }


def _membership(config: ClusterConfig) -> MembershipSettings:
    section = config.cluster.membership
    return MembershipSettings(section.max_voters, section.replace_voter_after, discovery_name(config))


def _labels(config: ClusterConfig, entry: NodeEntry) -> dict[str, str]:
    """The node's own labels, and its region, so that tasks can ask for it."""
    region = {"region": config.cluster.region} if config.cluster.region else {}
    return dict(sorted({**region, **entry.labels}.items()))


def _founders(config: ClusterConfig, entry: NodeEntry, join: bool) -> tuple[str, ...]:
    founders = sorted(other.id for other in config.cluster.nodes if not other.join)
    if not join and not entry.join:
        return tuple(founders)
    others = tuple(founder for founder in founders if founder != entry.id)
    if not others:
        text = f"{entry.id} is to join, and the file names no node of the cluster that takes it in; list some"
        raise ConfigError([f"cluster.nodes: {text}"])
    return others


def _peers(config: ClusterConfig, node_id: str) -> dict[str, str]:
    ports = node_ports(config)
    others = sorted((entry.id, entry.host) for entry in config.cluster.nodes if entry.id != node_id)
    return {peer: join_address(host, ports[peer]) for peer, host in others}


def _entry(config: ClusterConfig, node_id: str) -> NodeEntry:
    ids = config.node_ids
    if not node_id:
        if len(ids) == 1:
            return config.cluster.nodes[0]
        raise ConfigError(
            [f"which node is this? Give --id, one of: {', '.join(ids) or 'none is configured'}"]
        )
    entry = config.node(node_id)
    if entry is None:
        near = difflib.get_close_matches(node_id, ids, n=1)
        hint = f"did you mean {near[0]}?" if near else f"configured: {', '.join(ids) or 'none'}"
        raise ConfigError([f"--id {node_id}: cluster.nodes has no node with this id; {hint}"])
    return entry


def _check_transport(host: str, tls: TlsPaths | None, allowed: bool) -> None:
    if tls is not None:
        return
    if not is_loopback(host):
        text = f"missing, and {host} can be reached from outside; make certificates with `coterie tls init`"
        raise ConfigError([f"security.tls: {text}"])
    if not allowed:
        text = f"missing, and plain text on {host} is not allowed; make certificates with `coterie tls init`"
        raise ConfigError([f"security.tls: {text}, or set security.allowInsecureLoopback: true (--insecure)"])


def _security(config: ClusterConfig, entry: NodeEntry, host: str, tls: TlsPaths | None) -> SecuritySettings:
    """Raises ConfigError where callers would be let in unknown, or could not be known."""
    section = config.security
    auth = section.auth == "required" or (section.auth is None and not is_loopback(host))
    if not auth and not is_loopback(host) and not section.allow_open_access:
        text = f"off, and {host} can be reached from outside: every holder of a certificate could do all"
        raise ConfigError([f"security.auth: {text}; remove the key, or set security.allowOpenAccess: true"])
    if auth and tls is None:
        text = "required, and security.tls is missing: without it tokens could be overheard; set it too"
        raise ConfigError([f"security.auth: {text}"])
    if entry.clients_port and not auth:
        text = "needs security.auth: required, because who calls there has no certificate"
        raise ConfigError([f"cluster.nodes: clientsPort of {entry.id} {text}"])
    return SecuritySettings(auth, entry.clients_port or 0)


def _tls(section: Tls | None, node_id: str) -> TlsPaths | None:
    if section is None:
        return None
    if section.dir is not None:
        return TlsPaths(
            section.dir / "ca.crt", section.dir / f"{node_id}.crt", section.dir / f"{node_id}.key"
        )
    assert (
        section.ca is not None and section.cert is not None and section.key is not None
    )  # the model checked
    return TlsPaths(section.ca, section.cert, section.key)


def _health(config: ClusterConfig) -> HealthSettings:
    health = config.fault_tolerance.health_check
    return HealthSettings(
        interval_ms=health.interval,
        timeout_ms=health.timeout,
        unhealthy_threshold=health.unhealthy_threshold,
        healthy_threshold=health.healthy_threshold,
        down_after_ms=down_after_ms(health),
        lease_ms=lease_ms(config),
        report_interval_ms=report_interval_ms(config),
        flap_memory_ms=health.flap_memory,
        failover_ms=config.fault_tolerance.failover.failover_time or 0,
    )


def routing_of(config: ClusterConfig) -> RoutingRules:
    routing = config.distribution.routing
    return RoutingRules(
        strategy=config.distribution.strategy,
        affinity=routing.affinity and not routing.anti_affinity,
        anti_affinity=routing.anti_affinity,
        locality="same-zone" if routing.locality == "zone" else routing.locality,
    )


def _preferred(config: ClusterConfig) -> tuple[str, ...]:
    return tuple(node.id for node in config.cluster.nodes if node.role == "coordinator")


def _log(config: ClusterConfig) -> LogSettings:
    return LogSettings(config.observability.log.level, config.observability.log.format)


def _rebalance(config: ClusterConfig) -> RebalanceSettings:
    adaptive = config.distribution.adaptive
    migration = config.fault_tolerance.failover.task_migration
    return RebalanceSettings(
        adaptive.rebalance_interval,
        adaptive.threshold,
        migration.checkpoint_interval,
        migration.migrate_in_progress,
    )


def breaker_of(config: ClusterConfig) -> BreakerSettings:
    breaker = config.fault_tolerance.circuit_breaker
    return BreakerSettings(
        breaker.enabled, breaker.failure_threshold, breaker.recovery_timeout, breaker.half_open_requests
    )


def retry_of(config: ClusterConfig) -> RetryPolicy:
    retry = config.distribution.task_queue.retry_policy
    ceiling = retry.max_backoff if retry.backoff == "exponential" else retry.initial_backoff
    codes = tuple(sorted(set(retry.non_retryable)))
    return RetryPolicy(retry.max_attempts, retry.initial_backoff, ceiling, codes, retry.dead_letter)


def _disk(config: ClusterConfig) -> DiskSettings:
    storage = config.storage
    return DiskSettings(storage.low_water, storage.reserve, storage.slow_sync)


def _kept(config: ClusterConfig) -> KeepSettings:
    return KeepSettings(config.storage.history_retention, config.storage.unused_blob_retention)


def queue_of(config: ClusterConfig) -> QueueSettings:
    queue = config.distribution.task_queue
    return QueueSettings(
        queue.ageing,
        queue.tenant_pending_percent,
        queue.dead_letters_max,
        queue.crash_nodes_max,
        queue.node_losses_max,
    )


def _limits(config: ClusterConfig) -> Limits:
    section = config.limits
    return Limits(
        payload_inline_max=config.storage.max_inline_payload or section.payload_inline_max,
        blob_max=section.blob_max,
        blob_quota=section.blob_quota,
        result_max=min(section.result_max, section.blob_max),
        checkpoint_max=min(section.checkpoint_max, section.blob_max),
        step_result_max=min(section.step_result_max, section.blob_max),
        live_bytes_max=section.live_bytes_max,
        task_bytes_max=section.task_bytes_max,
        steps_per_task_max=section.steps_per_task_max,
    )
