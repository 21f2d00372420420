"""What a node is told: typed, frozen settings with every default filled in and every unit resolved.

Times are milliseconds, sizes are bytes; a name says so at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.core.fairness import ATTEMPT_MS
from coterie.core.nouns import Policy, RetryPolicy
from coterie.core.routing import RoutingRules
from coterie.core.view import PlanPolicy
from coterie.node.config.goal_settings import GoalSettings
from coterie.node.config.llm_settings import LlmSettings
from coterie.node.config.mcp_settings import McpServerSettings


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """PEM files of one party: the authority it trusts, its certificate and its private key."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """How soon a silent node is given up, and how soon a cut-off worker stops its own skills.

    `down_after_ms` = interval x unhealthyThreshold, on the coordinator's monotonic clock, from the last
    report it received (or from its own election, when that is later).
    `lease_ms` = down_after_ms - electionTimeout - interval, on the worker's monotonic clock, counted from the
    moment it *sent* the last report that a leader with a live quorum acknowledged. A leader deposed unnoticed
    can acknowledge for up to an election timeout; the interval is what the worker may take to notice and to
    kill its skills. So a worker has stopped before its tasks are given away, and fencing by attempt number
    catches what no clock can promise.
    `report_interval_ms` = the smallest of interval, one second and a third of the lease, so that one lost
    report never costs the lease."""

    interval_ms: int
    timeout_ms: int
    unhealthy_threshold: int
    healthy_threshold: int
    down_after_ms: int
    lease_ms: int
    report_interval_ms: int
    flap_memory_ms: int
    failover_ms: int  # the objective: from the last good report to the next assignment; 0: none


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node has for tasks beside its slots."""

    memory_bytes: int = 0  # 0: not counted
    gpus: int = 0
    standby: bool = False


@dataclass(frozen=True, slots=True)
class RebalanceSettings:
    """When nodes hand work to each other, and how often a task saves where it is. Without
    `migrate_in_progress` what runs on a draining node ends there, if it does before the deadline."""

    rebalance_interval_ms: int = 30_000
    rebalance_threshold: float = 0.8  # share of a node's slots
    checkpoint_interval_ms: int = 60_000
    migrate_in_progress: bool = True


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a node or skill that fails gets no more work for a while."""

    breaker_enabled: bool
    breaker_failures: int  # that open it
    breaker_recovery_ms: int
    breaker_probes: int  # let through before it closes again


@dataclass(frozen=True, slots=True)
class Limits:
    """Every size and count has an end. Requests beyond it are refused at the door, before commit."""

    payload_inline_max: int = 256 * 1024  # larger payloads, results and checkpoints travel as blobs
    blob_max: int = 64 * 1024 * 1024
    blob_quota: int = 10 * 1024**3  # of one node's disk
    result_max: int = 16 * 1024 * 1024
    checkpoint_max: int = 16 * 1024 * 1024
    step_result_max: int = 1024 * 1024
    live_bytes_max: int = 256 * 1024 * 1024  # inline bytes of all live tasks
    task_bytes_max: int = 32 * 1024 * 1024  # inline bytes of one task and its steps
    steps_per_task_max: int = 10_000


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """The name under which a node that is to join finds some member to ask. `port` is for A records;
    `nameserver` is host:port, "" the system's."""

    name: str
    port: int
    nameserver: str = ""


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """How many nodes vote, and how long a voter may be down before a runner takes its place (0: for ever).
    The node that leads goes by its own settings, so they should be equal on all."""

    max_voters: int = 7
    replace_voter_after_ms: int = 600_000
    discovery: DiscoverySettings | None = None


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Whose turn it is, how many may wait, and when the cluster gives a task up. They enter the log when the
    cluster is first started."""

    ageing_ms: int = 60_000
    tenant_pending_percent: int = 100
    dead_letters_max: int = 1_000  # of one tenant
    crash_nodes_max: int = 3
    node_losses_max: int = 10


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """Whether callers must prove who they are, and where those may call who only have a token."""

    auth: bool = False
    clients_port: int = 0  # of the gRPC listener's host; 0: nowhere


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """When the disk of the log counts as nearly full, and as slow."""

    low_water_bytes: int = 64 * 1024**2
    reserve_bytes: int = 8 * 1024**2
    slow_sync_ms: int = 100


@dataclass(frozen=True, slots=True)
class KeepSettings:
    """How long things are kept, in ms: a finished task with its events, and a blob that nothing refers to,
    since it was put last (what is about to be submitted is such a blob)."""

    history_ms: int = 30 * 86_400_000
    unused_blob_ms: int = 86_400_000

    @property
    def look_s(self) -> float:
        """Seconds between two rounds: a tenth of the shorter time, an hour at most."""
        return min(3600.0, max(1.0, min(self.unused_blob_ms, self.history_ms) / 10_000))


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Level is a name of the logging module; format is json or text."""

    level: str = "INFO"
    format: str = "json"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything one node process needs to start."""

    cluster_name: str
    node_id: str
    host: str  # to listen on
    grpc_port: int
    raft_port: int | None  # for Raft frames; None: any free one; 0: no socket of their own
    http_host: str
    http_port: int | None  # None: no HTTP listener
    advertise: str  # host:port that clients and peers are told
    data_dir: Path  # of this node alone
    peers: Mapping[str, str]  # every other node of the file: id -> host:port
    founders: tuple[str, ...]  # the nodes that form the cluster at its first start
    join: bool  # this node waits until a running cluster takes it in
    capacity: int
    offer: Offer
    zone: str
    labels: Mapping[str, str]
    election_timeout_ms: int  # elections start after a random time in [T, 2T)
    heartbeat_ms: int
    snapshot_every: int  # log entries between snapshots
    health: HealthSettings
    routing: RoutingRules
    preferred_leaders: tuple[str, ...]  # nodes that lead while they are up, the first of them first
    max_running: int  # tasks in the whole cluster at once; 0: as many as there are slots
    rebalance: RebalanceSettings
    breaker: BreakerSettings
    max_pending: int
    retry: RetryPolicy
    default_attempt_timeout_ms: int
    limits: Limits
    tls: TlsPaths | None  # None: plain text on loopback, allowed expressly
    allow_insecure_loopback: bool
    skill_dirs: tuple[Path, ...]
    skill_trust: tuple[str, ...]  # published skills that need no sandbox: names, or patterns such as shared/*
    skill_networks: tuple[str, ...]  # private networks that confined skills may reach
    metrics: bool
    log: LogSettings = field(default_factory=LogSettings)
    membership: MembershipSettings = field(default_factory=MembershipSettings)
    disk: DiskSettings = field(default_factory=DiskSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    llm: LlmSettings = field(default_factory=LlmSettings)
    skill_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)  # with secrets
    confined_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # without secrets
    mcp: Mapping[str, McpServerSettings] = field(default_factory=dict)
    goals: GoalSettings = field(default_factory=GoalSettings)
    replicated: str = "{}"  # what the file says of the part that the cluster agrees on; see config.document

    @property
    def members(self) -> dict[str, str]:
        """Every node of the file, this one included: id -> host:port. Who belongs to the cluster is in the
        log, once it has begun."""
        return dict(sorted({**self.peers, self.node_id: self.advertise}.items()))

    @property
    def policy(self) -> Policy:
        """The limits that decide outcomes and so enter the log when the cluster is first started."""
        return Policy(
            pending_tasks_max=self.max_pending,
            live_bytes_max=self.limits.live_bytes_max,
            steps_per_task_max=self.limits.steps_per_task_max,
            task_bytes_max=self.limits.task_bytes_max,
            ageing_ms=self.queue.ageing_ms,
            tenant_pending_percent=self.queue.tenant_pending_percent,
            dead_letters_max=self.queue.dead_letters_max,
            crash_nodes_max=self.queue.crash_nodes_max,
            node_losses_max=self.queue.node_losses_max,
            breaker_failures=self.breaker.breaker_failures if self.breaker.breaker_enabled else 0,
            breaker_recovery_ms=self.breaker.breaker_recovery_ms,
            breaker_probes=self.breaker.breaker_probes,
            flap_memory_ms=self.health.flap_memory_ms,
            attempt_ms_min=ATTEMPT_MS,
        )

    @property
    def plan_policy(self) -> PlanPolicy:
        """How this node decides when it is the coordinator."""
        return PlanPolicy(
            routing=self.routing,
            down_after_ms=self.health.down_after_ms,
            up_after_reports=self.health.healthy_threshold,
            rebalance_interval_ms=self.rebalance.rebalance_interval_ms,
            rebalance_share=self.rebalance.rebalance_threshold,
            migrate_running=self.rebalance.migrate_in_progress,
        )
