"""What no single key can say: checks across keys. Errors stop a start, warnings are worth a thought."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from coterie.node.config.address import is_loopback, join_address
from coterie.node.config.discovery import GRPC_PORT, discovery_problems
from coterie.node.config.findings import Finding, KeyPath
from coterie.node.config.llm_check import unknown_default
from coterie.node.config.model import ClusterConfig, HealthCheck, NodeEntry
from coterie.node.config.multi_agent import rounding
from coterie.node.config.read import Tree
from coterie.node.config.support import CHOICES, NO_EFFECT, NOT_YET, REFUSED_VALUES
from coterie.node.units import format_duration, format_size
from coterie.skills import shipped_settings

REPORT_INTERVAL_MAX_MS = 1_000
LEASE_MIN_MS: Final = 100
_BLOB_SIZES: Final = ("result_max", "checkpoint_max", "step_result_max")


Check = Callable[[ClusterConfig], Iterator[Finding]]
_ELECTION: Final[KeyPath] = ("cluster", "consensus", "election_timeout")
_HEARTBEAT: Final[KeyPath] = ("cluster", "consensus", "heartbeat_interval")
_HEALTH: Final[KeyPath] = ("fault_tolerance", "health_check")
_NODES: Final[KeyPath] = ("cluster", "nodes")


def errors(config: ClusterConfig) -> list[Finding]:
    """Every reason why no node may start with this configuration."""
    return [finding for check in _ERRORS for finding in check(config)]


def warnings(config: ClusterConfig) -> list[Finding]:
    """What will work otherwise than its author may think."""
    return [finding for check in _WARNINGS for finding in check(config)]


def refused_values(tree: Tree) -> list[Finding]:
    """Values this version has no machinery for, with the reason."""
    findings = []
    for keys, allowed in CHOICES.items():
        value = _lookup(tree, keys)
        if isinstance(value, str) and value not in allowed and (keys, value) not in REFUSED_VALUES:
            findings.append(Finding(keys, f"{value!r} is not known; write {' or '.join(allowed)}"))
    for (keys, refused), reason in REFUSED_VALUES.items():
        value = _lookup(tree, keys)
        if type(value) is type(refused) and value == refused:
            findings.append(Finding(keys, f"{_yaml(refused)}: {reason}"))
    return findings


def notes(tree: Tree) -> list[Finding]:
    """The keys that were written and change nothing, because there is nothing to change."""
    return [
        Finding(keys, f"no effect: {reason}")
        for keys, reason in NO_EFFECT.items()
        if _lookup(tree, keys) is not None
    ]


def not_yet(tree: Tree) -> list[Finding]:
    """The keys that were written and that this version does not act on yet."""
    return [
        Finding(keys, f"not effective yet: {late.reason}")
        for keys, late in NOT_YET.items()
        if _lookup(tree, keys) is not None
    ]


def node_ports(config: ClusterConfig) -> dict[str, int]:
    """The gRPC port at which each node is dialled: its own, the discovery list's, listen.grpc's, or 8080."""
    listed = _discovered(config)
    default = config.listen.grpc.port or GRPC_PORT
    return {entry.id: entry.port or listed.get(entry.id, default) for entry in config.cluster.nodes}


def lease_ms(config: ClusterConfig) -> int:
    """How long a worker may run skills after sending a report that was acknowledged; see HealthSettings."""
    health = config.fault_tolerance.health_check
    return down_after_ms(health) - config.cluster.consensus.election_timeout - health.interval


def report_interval_ms(config: ClusterConfig) -> int:
    """How often a node reports to the leader: one lost report must not cost the lease."""
    interval = config.fault_tolerance.health_check.interval
    return min(interval, REPORT_INTERVAL_MAX_MS, lease_ms(config) // 3)


def down_after_ms(health: HealthCheck) -> int:
    """Silence after which the coordinator gives a node up."""
    return health.interval * health.unhealthy_threshold


def _discovered(config: ClusterConfig) -> dict[str, int]:
    by_host = {entry.host: entry.id for entry in config.cluster.nodes}
    ids = set(config.node_ids)
    ports: dict[str, int] = {}
    for address in config.cluster.discovery.nodes:
        node_id = address.host if address.host in ids else by_host.get(address.host, "")
        if node_id and address.port is not None:
            ports.setdefault(node_id, address.port)
    return ports


def _nodes(config: ClusterConfig) -> Iterator[Finding]:
    if not config.cluster.nodes:
        yield Finding(_NODES, "no node is listed; give at least one with id and host")
    elif all(entry.join for entry in config.cluster.nodes):
        text = "every node is to join; list some nodes of the cluster that takes them in, without join"
        yield Finding(_NODES, text)
    counts = Counter(entry.id.lower() for entry in config.cluster.nodes)
    for place, entry in enumerate(config.cluster.nodes):
        if counts[entry.id.lower()] > 1 and _is_repeat(config, place):
            yield Finding((*_NODES, place, "id"), f"{entry.id}: another node has this id; ids must differ")


def _is_repeat(config: ClusterConfig, place: int) -> bool:
    nodes = config.cluster.nodes
    return nodes[place].id.lower() in {entry.id.lower() for entry in nodes[:place]}


def _addresses(config: ClusterConfig) -> Iterator[Finding]:
    ports = node_ports(config)
    taken: dict[tuple[str, int], str] = {}
    for place, entry in enumerate(config.cluster.nodes):
        own = ((key, getattr(entry, key)) for key in ("http_port", "raft_port", "clients_port"))
        for key, port in (("port", ports[entry.id]), *own):
            if not port:
                continue
            owner = taken.setdefault((entry.host.lower(), port), f"{entry.id} {key}")
            if owner != f"{entry.id} {key}" and not _same_id(config, owner, entry):
                text = (
                    f"{join_address(entry.host, port)} is taken by {owner.split()[0]}; give each its own port"
                )
                yield Finding((*_NODES, place), text, (("listen", "grpc"), ("cluster", "discovery")))


def _same_id(config: ClusterConfig, owner: str, entry: NodeEntry) -> bool:
    """The same id twice is said elsewhere; one node with two equal ports is not that."""
    return owner.split()[0] == entry.id and config.node_ids.count(entry.id) > 1


def _discovery(config: ClusterConfig) -> Iterator[Finding]:
    yield from discovery_problems(config.cluster.discovery)
    ids = config.node_ids
    hosts = {entry.host for entry in config.cluster.nodes}
    seen: set[str] = set()
    for place, address in enumerate(config.cluster.discovery.nodes):
        path: KeyPath = ("cluster", "discovery", "nodes", place)
        if address.host not in ids and address.host not in hosts:
            near = difflib.get_close_matches(address.host, ids, n=1)
            hint = f"did you mean {near[0]}?" if near else "list it under cluster.nodes"
            yield Finding(path, f"{address}: no node has this id or host; {hint}", (_NODES,))
        elif address.host in ids and address.host in seen:
            yield Finding(path, f"{address.host} is listed twice; remove one")
        entry = config.node(address.host)
        if entry and entry.port and address.port and entry.port != address.port:
            yield Finding(
                path, f"{address} differs from port {entry.port} of that node; remove one of the two"
            )
        seen.add(address.host)


def _shared_listener(config: ClusterConfig) -> Iterator[Finding]:
    hosts = Counter(entry.host for entry in config.cluster.nodes)
    shared = [host for host, count in hosts.items() if count > 1]
    for key in ("grpc", "http"):
        listener = getattr(config.listen, key)
        if shared and listener is not None and listener.port is not None:
            remedy = "port" if key == "grpc" else "httpPort"
            text = (
                f"several nodes are on {shared[0]} and cannot share one port; give each node its own {remedy}"
            )
            yield Finding(("listen", key), text, (_NODES,))


def _timing(config: ClusterConfig) -> Iterator[Finding]:
    election = config.cluster.consensus.election_timeout
    heartbeat = config.cluster.consensus.heartbeat_interval
    if heartbeat * 3 >= election:
        text = (
            f"{format_duration(heartbeat)} is not less than a third of electionTimeout "
            f"({format_duration(election)}): one late heartbeat would start an election; lower it"
        )
        yield Finding(_HEARTBEAT, text, (_ELECTION,))


def _lease(config: ClusterConfig) -> Iterator[Finding]:
    lease = lease_ms(config)
    if lease >= LEASE_MIN_MS:
        return
    health = config.fault_tolerance.health_check
    needed = config.cluster.consensus.election_timeout + LEASE_MIN_MS
    threshold = 1 + -(-needed // health.interval)
    text = (
        f"a cut-off worker could not stop its skills before its tasks are given away: the lease, interval x "
        f"(unhealthyThreshold - 1) - electionTimeout, is {lease} ms and must be at least {LEASE_MIN_MS} ms; "
        f"raise unhealthyThreshold to {threshold}, or interval, or lower electionTimeout"
    )
    yield Finding((*_HEALTH, "unhealthy_threshold"), text, ((*_HEALTH, "interval"), _ELECTION))


def _sizes(config: ClusterConfig) -> Iterator[Finding]:
    limits = config.limits
    inline = config.storage.max_inline_payload
    if (
        inline is not None
        and "payload_inline_max" in limits.model_fields_set
        and inline != limits.payload_inline_max
    ):
        text = "differs from limits.payloadInlineMax, which is the same limit; remove one of the two"
        yield Finding(("storage", "max_inline_payload"), text)
    for key in _BLOB_SIZES:
        if key in limits.model_fields_set and getattr(limits, key) > limits.blob_max:
            text = (
                f"{format_size(getattr(limits, key))} is more than blobMax ({format_size(limits.blob_max)})"
            )
            yield Finding(("limits", key), text, (("limits", "blob_max"),))
    if limits.blob_quota < limits.blob_max:
        text = f"{format_size(limits.blob_quota)} has no room for one blob of {format_size(limits.blob_max)}"
        yield Finding(("limits", "blob_quota"), text, (("limits", "blob_max"),))
    if limits.live_bytes_max < limits.task_bytes_max:
        text = f"{format_size(limits.live_bytes_max)} is less than taskBytesMax, the share of one task"
        yield Finding(("limits", "live_bytes_max"), text, (("limits", "task_bytes_max"),))


def _backoff(config: ClusterConfig) -> Iterator[Finding]:
    retry = config.distribution.task_queue.retry_policy
    path: KeyPath = ("distribution", "task_queue", "retry_policy")
    if retry.initial_backoff > retry.max_backoff:
        text = f"{format_duration(retry.initial_backoff)} is more than maxBackoff"
        yield Finding((*path, "initial_backoff"), text, ((*path, "max_backoff"),))


def _affinity(config: ClusterConfig) -> Iterator[Finding]:
    routing = config.distribution.routing
    path: KeyPath = ("distribution", "routing")
    if routing.affinity and routing.anti_affinity and "affinity" in routing.model_fields_set:
        text = (
            "true, and affinity too: tasks of one type cannot be gathered and spread; make one of them false"
        )
        yield Finding((*path, "anti_affinity"), text, ((*path, "affinity"),))


def _plain_http(config: ClusterConfig) -> Iterator[Finding]:
    http = config.listen.http
    allowed = config.security.allow_plain_metrics
    if http is not None and http.host and not is_loopback(http.host) and not allowed:
        text = (
            f"{http}: metrics and health are plain HTTP and stay on this machine; listen on 127.0.0.1, or set"
        )
        text = f"{text} security.allowPlainMetrics: true where scrapers and probes alone reach that port"
        yield Finding(("listen", "http"), text)


def _voters(config: ClusterConfig) -> Iterator[Finding]:
    founders = sum(not entry.join for entry in config.cluster.nodes)
    most = config.cluster.membership.max_voters
    text = voters_warning(min(founders, most))
    if text and founders > most:
        yield Finding(("cluster", "membership", "max_voters"), text)
    elif text:
        yield Finding(_NODES, text)


def voters_warning(count: int) -> str:
    """What is wrong with that many voters; empty when nothing is."""
    if count == 2:
        return "two voters survive the loss of none: both are needed to agree; use one or three"
    if count and count % 2 == 0:
        return (
            f"{count} voters survive the loss of {(count - 1) // 2}, as {count - 1} would; use an odd number"
        )
    return ""


def _roles(config: ClusterConfig) -> Iterator[Finding]:
    for place, entry in enumerate(config.cluster.nodes):
        if entry.role == "coordinator":
            text = (
                "coordinator is a preference: leadership is handed to this node while it is up; Raft elects, "
                "and any node may lead"
            )
            yield Finding((*_NODES, place, "role"), text)


def _standby(config: ClusterConfig) -> Iterator[Finding]:
    """Nodes on standby are what active-passive means."""
    standby = [place for place, entry in enumerate(config.cluster.nodes) if entry.standby]
    strategy = config.fault_tolerance.failover
    path: KeyPath = ("fault_tolerance", "failover", "strategy")
    if strategy.strategy == "active-active" and standby:
        text = "true, and faultTolerance.failover.strategy is active-active: then every node takes work"
        yield Finding((*_NODES, standby[0], "standby"), text, (path,))
    if standby and len(standby) == len(config.cluster.nodes):
        yield Finding((*_NODES, standby[0], "standby"), "true for every node: none would take work")


def _nobody_stands_by(config: ClusterConfig) -> Iterator[Finding]:
    failover = config.fault_tolerance.failover
    written = "strategy" in failover.model_fields_set and failover.strategy == "active-passive"
    if written and config.cluster.nodes and not any(entry.standby for entry in config.cluster.nodes):
        text = (
            "active-passive, and no node is on standby: every node takes work; mark some with standby: true, "
            "or write active-active"
        )
        yield Finding(("fault_tolerance", "failover", "strategy"), text, (_NODES,))


def _outliving(config: ClusterConfig) -> Iterator[Finding]:
    """A lease that ends before a new leader can extend it costs every node its skills at each election."""
    election = config.cluster.consensus.election_timeout
    left, longest = lease_ms(config) - report_interval_ms(config), 2 * election
    if left < longest and len(config.cluster.nodes) > 1:
        text = (
            f"an election takes up to {format_duration(longest)}, a lease may end {format_duration(left)} "
            "after the leader died: then healthy nodes stop their skills and resume them; raise "
            "unhealthyThreshold or lower electionTimeout"
        )
        yield Finding((*_HEALTH, "unhealthy_threshold"), text, (_ELECTION,))


def _failover(config: ClusterConfig) -> Iterator[Finding]:
    health = config.fault_tolerance.health_check
    objective = config.fault_tolerance.failover.failover_time
    reachable = down_after_ms(health) + health.timeout
    if objective is not None and objective < reachable:
        text = (
            f"{format_duration(objective)} cannot be kept: giving a node up takes healthCheck interval x "
            f"unhealthyThreshold + timeout; {format_duration(reachable)} is reachable"
        )
        yield Finding(("fault_tolerance", "failover", "failover_time"), text, (_HEALTH,))


def _transport(config: ClusterConfig) -> Iterator[Finding]:
    security = config.security
    outside = [entry.id for entry in config.cluster.nodes if not is_loopback(entry.host)]
    if security.tls is not None:
        return
    if outside:
        text = (
            f"missing: {', '.join(outside)} will refuse to start without it; make one with `coterie tls init`"
        )
        yield Finding(("security", "tls"), text, (_NODES,))
    elif config.cluster.nodes and not security.allow_insecure_loopback:
        text = "missing: nodes will refuse to start without it or allowInsecureLoopback"
        yield Finding(("security", "tls"), text, (_NODES,))


def _lookup(tree: Tree, keys: tuple[str, ...]) -> object:
    value: object = tree.values
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_ERRORS: Final[tuple[Check, ...]] = (
    _nodes,
    _addresses,
    _discovery,
    _shared_listener,
    _timing,
    _lease,
    _sizes,
    _backoff,
    _affinity,
    _standby,
    _plain_http,
    unknown_default,
)


def _strange_skills(config: ClusterConfig) -> Iterator[Finding]:
    """Others may be published later: only what is nearly a shipped skill's name is worth a word."""
    for skill in config.skills.settings:
        near = difflib.get_close_matches(skill, shipped_settings.NAMES, n=1, cutoff=0.8)
        if near and near[0] != skill:
            yield Finding(("skills", "settings", skill), f"no shipped skill is called so; {near[0]} is")


_WARNINGS: Final[tuple[Check, ...]] = (
    _strange_skills,
    _voters,
    _roles,
    _failover,
    _nobody_stands_by,
    rounding,
    _outliving,
    _transport,
)
