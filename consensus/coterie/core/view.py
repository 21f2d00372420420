"""What a coordinator sees and goes by when it decides, beside the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coterie.core.nouns import NO_NODE, NodeId
from coterie.core.routing import NodeLoad, RoutingRules
from coterie.core.routing.unfit import Unfit


@dataclass(frozen=True, slots=True)
class PlanPolicy:
    """How the coordinator decides; nothing here needs to be equal on all nodes."""

    routing: RoutingRules = field(default_factory=RoutingRules)
    down_after_ms: int = 3_000  # silence after which a node is given up
    up_after_reports: int = 2  # fresh reports that bring a node back
    start_within_ms: int = 15_000  # an assignment nobody starts is taken back
    attempt_slack_ms: int = 5_000  # beyond its timeout, before the coordinator steps in
    rebalance_interval_ms: int = 30_000
    rebalance_share: float = 0.8  # of a node's slots in use, from which on it hands work over
    migrate_running: bool = True  # not only what has not begun


@dataclass(frozen=True, slots=True)
class View:
    """What the coordinator sees outside the state: its clocks and the load reports."""

    now_ms: int  # wall clock, for deadlines and start times
    loads: Mapping[NodeId, NodeLoad] = field(default_factory=dict)
    fresh_reports: Mapping[NodeId, int] = field(default_factory=dict)  # in a row, while DOWN
    dice: int = 0
    term: int = 0  # of the leadership that looks
    leader: NodeId = NO_NODE
    rebalance: bool = False  # it is time to look whether work should go elsewhere
    unfit: Unfit = field(default_factory=Unfit, compare=False)  # what earlier plans found out
