"""What this version does not do, said aloud: keys and values it refuses, and keys it takes without effect.

Refusing is the rule: a cluster must not run otherwise than its file says. Only keys that change how well
something is done, not what is promised, are taken without effect: `coterie config validate` lists them, and
a node names those that are not effective yet when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Keys = tuple[str, ...]  # snake_case, list positions left out

REFUSED_KEYS: Final[Mapping[Keys, str]] = {
    ("agents",): "agents live in the cluster, not in its file: `coterie agents apply DIR` makes them",
    ("gateway",): "chat channels and web sessions are not supported by this version",
    ("multi_agent", "agents"): (
        "agents live in the cluster, not in its file: `coterie agents apply DIR` makes them; what a node can "
        "do are its skills, and cluster.nodes gives it memory, gpus and labels"
    ),
    ("multi_agent", "message_bus"): (
        "there is no message bus beside the cluster: the Raft log is the bus, and no bridge to redis, "
        "rabbitmq or kafka is installed; remove the section"
    ),
    ("state_sync",): "there is nothing to configure: every node's state follows the Raft log",
    ("message_bus",): "there is no message bus beside the cluster: the Raft log is the bus",
    ("listen", "raft"): (
        "the port of Raft frames is each node's own: write cluster.nodes[].raftPort "
        "(0: they travel on the gRPC port)"
    ),
    (
        "security",
        "tokens",
    ): "tokens live in the cluster, not in its file: `coterie token create` makes them",
    ("observability", "otlp"): "OpenTelemetry is not supported by this version; use observability.metrics",
    ("observability", "tracing"): "OpenTelemetry is not supported by this version; use observability.metrics",
}

# A mapping here, for which another form is known elsewhere.
REFUSED_LISTS: Final[Mapping[Keys, str]] = {
    ("limits",): "quotas per tenant are not supported by this version; give sizes by name, such as blobMax",
}

REFUSED_VALUES: Final[Mapping[tuple[Keys, object], str]] = {
    (("cluster", "consensus", "protocol"), "paxos"): "Paxos is not implemented; the protocol is raft",
    (("cluster", "consensus", "protocol"), "custom"): "there is no seam for another protocol; it is raft",
    (("cluster", "consensus", "fsync"), False): (
        "an acknowledged task is on the disks of a majority: that needs fsync; remove the key"
    ),
    (("distribution", "task_queue", "type"), "fifo"): (
        "the queue is ordered by priority, and first in, first out inside a priority; write priority"
    ),
    (("multi_agent", "coordinator", "enabled"), False): (
        "a cluster always has a coordinator: the node that leads; remove the key"
    ),
    (("multi_agent", "state_sync", "enabled"), False): (
        "every node's state follows the Raft log, always; remove the key"
    ),
    (("multi_agent", "state_sync", "conflict_resolution"), "crdt"): (
        "one log puts all changes in order, and there is nothing to merge; write serial"
    ),
    (("multi_agent", "state_sync", "conflict_resolution"), "manual"): (
        "one log puts all changes in order, and nothing is left to decide by hand; write serial"
    ),
    (("multi_agent", "monitoring", "enabled"), False): (
        "without health checks no task of a dead node would go on elsewhere; remove the key"
    ),
    (("multi_agent", "monitoring", "alert_on_failure"), False): (
        "a node that is given up is always logged as a warning and counted; remove the key"
    ),
    (("fault_tolerance", "failover", "task_migration", "enabled"), False): (
        "tasks of a lost node always go on elsewhere; remove the key"
    ),
    (("skills", "sandbox"), "none"): "skills never run in the node's own process; write process",
}

# A key that is free text in the model, and the values it may have.
CHOICES: Final[Mapping[Keys, tuple[str, ...]]] = {
    ("cluster", "consensus", "protocol"): ("raft",),
    ("cluster", "discovery", "method"): ("static", "dns", "k8s"),
    ("distribution", "task_queue", "type"): ("priority",),
    ("fault_tolerance", "failover", "strategy"): ("active-passive", "active-active"),
    ("multi_agent", "state_sync", "conflict_resolution"): ("serial", "lww"),
    ("skills", "sandbox"): ("process",),
}

# Accepted, and there is nothing to configure: what is asked for holds anyway, or more.
NO_EFFECT: Final[Mapping[Keys, str]] = {
    ("multi_agent", "state_sync", "sync_interval"): (
        "every node applies each change as soon as a majority has it; nothing waits for an interval"
    ),
    ("multi_agent", "state_sync", "conflict_resolution"): (
        "one log puts all changes in order, so that there are no conflicts to resolve: serial"
    ),
}


@dataclass(frozen=True, slots=True)
class Late:
    """A key that is read into the settings, and that no part of the node acts on yet."""

    setting: str  # the field of the settings that waits for a reader
    reason: str


NOT_YET: Final[Mapping[Keys, Late]] = {}
