"""The shape of the configuration: every key, its type, its range and its default.

Keys are snake_case here; in files camelCase is equal. Times come out as milliseconds, sizes as bytes.
To add a key: add it here, give it an effect in resolve.py or a line in support.py; test it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator

from coterie.node.config.address import Address, check_networks
from coterie.node.config.goal_model import Goals, RoutingRules
from coterie.node.config.kinds import (
    FilePath,
    Host,
    Listener,
    Name,
    NodeId,
    Port,
    Ratio,
    Section,
    duration,
    size,
    upper,
)
from coterie.node.config.llm_model import Llm
from coterie.node.config.mcp_model import Mcp

NODES_MAX: Final = 64


class NodeEntry(Section):
    """One node. It runs skills, and unless it is a runner it votes, and schedules when it leads."""

    id: NodeId
    host: Host
    port: Port | None = None  # clients and peers
    # Raft frames between nodes; none: any free port, told to the peers; 0: the peers' gRPC streams carry them
    raft_port: Annotated[StrictInt, Field(ge=0, le=65_535)] | None = None
    http_port: Port | None = None  # metrics and health, when listen.http gives none of its own
    clients_port: Port | None = None  # for callers with a token and without a certificate; none: nowhere
    join: StrictBool = False  # it was added to a cluster that runs; the others form one at their first start
    role: Literal["coordinator", "worker"] = "worker"
    capacity: Annotated[StrictInt, Field(ge=1, le=1_024)] = 16  # skill slots, a process each
    memory: Annotated[int, size("1MiB", "64TiB")] | None = None  # that tasks may set aside; none: not counted
    gpus: Annotated[StrictInt, Field(ge=0, le=1_024)] = 0
    standby: StrictBool = False  # takes work only in the place of a node that is gone
    zone: Annotated[StrictStr, Field(max_length=100)] = ""
    labels: dict[StrictStr, StrictStr] = Field(default_factory=dict)


class Consensus(Section):
    protocol: StrictStr = "raft"
    election_timeout: Annotated[int, duration("50ms", "5m")] = 500
    heartbeat_interval: Annotated[int, duration("5ms", "1m")] = 100
    snapshot_every: Annotated[StrictInt, Field(ge=100, le=10_000_000)] = 10_000
    fsync: StrictBool = True


class Discovery(Section):
    """Where a node that is to join asks to be taken in, and where clients ask first. Who belongs to the
    cluster is in its log alone."""

    method: StrictStr = "static"
    nodes: tuple[Listener, ...] = ()
    name: Annotated[StrictStr, Field(max_length=253)] = ""  # dns: A/AAAA, or SRV when it begins with _
    port: Port | None = None  # of what A records name; none: that of the nodes
    nameserver: Listener | None = None  # another than the system's, such as a service registry's
    service: Annotated[StrictStr, Field(max_length=63)] = ""  # k8s: a headless service
    namespace: Annotated[StrictStr, Field(max_length=63)] = "default"


class Membership(Section):
    """Who votes: beyond max_voters, nodes are runners, which have everything and take work but no vote."""

    max_voters: Annotated[StrictInt, Field(ge=1, le=NODES_MAX)] = 7
    replace_voter_after: Annotated[int, duration("0s", "30d")] = 600_000  # of being down; 0: never


class Cluster(Section):
    name: Name = "coterie"
    region: Annotated[StrictStr, Field(max_length=100)] = ""
    nodes: Annotated[tuple[NodeEntry, ...], Field(max_length=NODES_MAX)] = ()
    consensus: Consensus = Consensus()
    discovery: Discovery = Discovery()
    membership: Membership = Membership()


class Adaptive(Section):
    rebalance_interval: Annotated[int, duration("1s", "1d")] = 30_000
    threshold: Ratio = 0.8


ErrorCode = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Retry(Section):
    max_attempts: Annotated[StrictInt, Field(ge=1, le=100)] = 3
    backoff: Literal["exponential", "constant"] = "exponential"
    initial_backoff: Annotated[int, duration("1ms", "1h")] = 200
    max_backoff: Annotated[int, duration("1ms", "1d")] = 300_000
    non_retryable: Annotated[tuple[ErrorCode, ...], Field(max_length=32)] = ()  # end a task at once
    dead_letter: StrictBool = False  # a task out of attempts is kept as a dead letter


class TaskQueue(Section):
    type: StrictStr = "priority"
    max_pending: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000
    max_running: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None  # in the whole cluster at once
    attempt_timeout: Annotated[int, duration("10ms", "30d")] = 600_000
    retry_policy: Retry = Retry()
    ageing: Annotated[int, duration("0s", "7d")] = 60_000  # waiting that long is worth a class; 0: strict
    tenant_pending_percent: Annotated[StrictInt, Field(ge=1, le=100)] = 100  # of max_pending, for one tenant
    dead_letters_max: Annotated[StrictInt, Field(ge=1, le=100_000)] = 1_000  # of one tenant
    crash_nodes_max: Annotated[StrictInt, Field(ge=0, le=100)] = 3  # on which its process died; 0: any
    node_losses_max: Annotated[StrictInt, Field(ge=0, le=100)] = 10  # in a row with its node; 0: any


class Routing(Section):
    affinity: StrictBool = True
    anti_affinity: StrictBool = False
    locality: Literal["zone", "same-zone", "cross-zone", "any"] = "any"


class Distribution(Section):
    strategy: Literal["round-robin", "hash", "least-loaded", "adaptive"] = "adaptive"
    adaptive: Adaptive = Adaptive()
    task_queue: TaskQueue = TaskQueue()
    routing: Routing = Routing()


class HealthCheck(Section):
    interval: Annotated[int, duration("10ms", "10m")] = 1_000
    timeout: Annotated[int, duration("10ms", "10m")] = 1_000
    unhealthy_threshold: Annotated[StrictInt, Field(ge=1, le=1_000)] = 4
    healthy_threshold: Annotated[StrictInt, Field(ge=1, le=1_000)] = 2
    flap_memory: Annotated[int, duration("0s", "1d")] = 600_000  # 0: losses are not remembered


class TaskMigration(Section):
    enabled: StrictBool = True
    migrate_in_progress: StrictBool = True
    checkpoint_interval: Annotated[int, duration("100ms", "1d")] = 60_000


class Failover(Section):
    strategy: StrictStr = "active-passive"
    failover_time: Annotated[int, duration("10ms", "1d")] | None = None
    task_migration: TaskMigration = TaskMigration()


class CircuitBreaker(Section):
    enabled: StrictBool = True
    failure_threshold: Annotated[StrictInt, Field(ge=1, le=10_000)] = 5
    recovery_timeout: Annotated[int, duration("100ms", "1d")] = 60_000
    half_open_requests: Annotated[StrictInt, Field(ge=1, le=10_000)] = 3


class FaultTolerance(Section):
    health_check: HealthCheck = HealthCheck()
    failover: Failover = Failover()
    circuit_breaker: CircuitBreaker = CircuitBreaker()


class AgentCoordinator(Section):
    """Other names of distribution.taskQueue.maxRunning and attemptTimeout."""

    enabled: StrictBool = True
    max_concurrent_tasks: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    task_timeout: Annotated[int, duration("10ms", "30d")] | None = None


class StateSync(Section):
    enabled: StrictBool = True
    sync_interval: Annotated[int, duration("1ms", "1d")] | None = None
    conflict_resolution: StrictStr = "serial"


class Monitoring(Section):
    """Other names of faultTolerance.healthCheck interval, and of interval x unhealthyThreshold."""

    enabled: StrictBool = True
    heartbeat_interval: Annotated[int, duration("10ms", "10m")] | None = None
    agent_timeout: Annotated[int, duration("10ms", "1d")] | None = None
    alert_on_failure: StrictBool = True


class MultiAgent(Section):
    coordinator: AgentCoordinator = AgentCoordinator()
    state_sync: StateSync = StateSync()
    monitoring: Monitoring = Monitoring()


class Listen(Section):
    grpc: Listener = Address()
    http: Listener | None = None
    advertise: Listener = Address()


class Storage(Section):
    dir: FilePath = Path("data")  # a node keeps its own data in <dir>/<node id>
    max_inline_payload: Annotated[int, size("1KiB", "1MiB")] | None = None  # = limits.payloadInlineMax
    # With less free than low_water only what ends work is taken; reserve is allocated ahead for just that.
    # Neither is more than 1/20 of the disk.
    low_water: Annotated[int, size("1MiB", "1TiB")] = 64 * 1024**2
    reserve: Annotated[int, size("1MiB", "1GiB")] = 8 * 1024**2
    slow_sync: Annotated[int, duration("1ms", "1m")] = 100  # a leader above it hands over to a faster disk
    history_retention: Annotated[int, duration("1s", "365d")] = 30 * 86_400_000  # of finished tasks
    # A blob that nothing refers to, since it was put last: what is about to be submitted is one.
    unused_blob_retention: Annotated[int, duration("1h", "365d")] = 86_400_000


class Tls(Section):
    """Either `dir`, holding ca.crt, <node id>.crt and <node id>.key, or the three files."""

    dir: FilePath | None = None
    ca: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Tls:
        files = (self.ca, self.cert, self.key)
        if self.dir is not None and any(files):
            raise ValueError("give either dir or the files ca, cert and key, not both")
        if self.dir is None and not all(files):
            raise ValueError("give dir (made by `coterie tls init`), or all of ca, cert and key")
        return self


class Security(Section):
    tls: Tls | None = None
    # Without it: required where the node can be reached from outside, off on loopback.
    auth: Literal["required", "off"] | None = None
    allow_open_access: StrictBool = False  # auth: off also where the node can be reached from outside
    allow_insecure_loopback: StrictBool = False
    allow_plain_metrics: StrictBool = False  # metrics and health beyond this machine too, in plain HTTP


class LimitsSection(Section):
    payload_inline_max: Annotated[int, size("1KiB", "1MiB")] = 256 * 1024
    blob_max: Annotated[int, size("1MiB", "1GiB")] = 64 * 1024**2
    blob_quota: Annotated[int, size("1MiB", "100TiB")] = 10 * 1024**3
    result_max: Annotated[int, size("1KiB", "1GiB")] = 16 * 1024**2
    checkpoint_max: Annotated[int, size("1KiB", "1GiB")] = 16 * 1024**2
    step_result_max: Annotated[int, size("1KiB", "1GiB")] = 1024**2
    live_bytes_max: Annotated[int, size("1MiB", "64GiB")] = 256 * 1024**2
    # A finished task goes to a peer that lacks it in one message: see ROW_BYTES_MAX.
    task_bytes_max: Annotated[int, size("1MiB", "48MiB")] = 32 * 1024**2
    steps_per_task_max: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000


class Skills(Section):
    settings: dict[StrictStr, dict[StrictStr, Any]] = Field(
        default_factory=dict
    )  # by skill; opaque to the node
    dir: FilePath | None = None
    dirs: tuple[FilePath, ...] = ()
    sandbox: StrictStr = "process"
    trust: tuple[StrictStr, ...] = ()  # published skills that run without a sandbox
    inside_networks: Annotated[tuple[StrictStr, ...], AfterValidator(check_networks)] = ()


class Log(Section):
    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(upper)] = "INFO"
    format: Literal["json", "text"] = "json"


class Observability(Section):
    metrics: StrictBool = True
    log: Log = Log()


class ClusterConfig(Section):
    """The whole configuration, as every node of the cluster is given it."""

    cluster: Cluster = Cluster()
    distribution: Distribution = Distribution()
    fault_tolerance: FaultTolerance = FaultTolerance()
    multi_agent: MultiAgent | None = None
    listen: Listen = Listen()
    storage: Storage = Storage()
    security: Security = Security()
    limits: LimitsSection = LimitsSection()
    skills: Skills = Skills()
    llm: Llm = Llm()
    mcp: Mcp = Mcp()
    goals: Goals = Goals()
    routing_rules: RoutingRules = ()
    observability: Observability = Observability()

    def node(self, node_id: str) -> NodeEntry | None:
        """The entry of that node, if there is one."""
        return next((entry for entry in self.cluster.nodes if entry.id == node_id), None)

    @property
    def node_ids(self) -> tuple[str, ...]:
        return tuple(entry.id for entry in self.cluster.nodes)
