"""Sizes of the simulated cluster: those of the product, scaled to runs of ten virtual seconds."""

from __future__ import annotations

from coterie.core.nouns import Policy
from coterie.core.view import PlanPolicy

MILLISECOND = 1_000
SECOND = 1_000_000
ELECTION_MS = 150
INTERVAL_MS = 100
DOWN_AFTER_MS = 500
LEASE_MS = DOWN_AFTER_MS - ELECTION_MS - INTERVAL_MS  # see coterie.node.config.settings.HealthSettings
REPORT_MS = LEASE_MS // 3
IDLE_MS = 100
CAPACITY = 4
SKILL = "steps"
START_DELAY_MS = 40
CANCEL_GRACE_MS = 30

PLAN_POLICY = PlanPolicy(down_after_ms=DOWN_AFTER_MS, up_after_reports=2, start_within_ms=2_500)
# Faults are many in a short time: tasks are not suspected of killing their nodes.
POLICY = Policy(losses_max=1_000, node_losses_max=0, crash_nodes_max=0)
