"""How many missed intervals give a node up where nobody says: as many as the election timeout needs."""

from __future__ import annotations

from typing import Final

from coterie.node.config.check import LEASE_MIN_MS, REPORT_INTERVAL_MAX_MS, lease_ms
from coterie.node.config.findings import Finding, KeyPath
from coterie.node.config.model import ClusterConfig
from coterie.node.units import format_duration

_ELECTION: Final[KeyPath] = ("cluster", "consensus", "election_timeout")


def fitted(config: ClusterConfig) -> tuple[ClusterConfig, list[Finding]]:
    """The configuration with a threshold that its timers can keep, when the default is too low for them and
    nobody wrote another; and that this was done."""
    health = config.fault_tolerance.health_check
    if "unhealthy_threshold" in health.model_fields_set or lease_ms(config) >= LEASE_MIN_MS:
        return config, []
    election = config.cluster.consensus.election_timeout
    # A lease outlives the longest election, and one report more: see the warning about leases that do not.
    silence = 3 * election + min(health.interval, REPORT_INTERVAL_MAX_MS)
    threshold = 1 + -(-silence // health.interval)
    stretched = health.model_copy(update={"unhealthy_threshold": threshold})
    fault_tolerance = config.fault_tolerance.model_copy(update={"health_check": stretched})
    after = format_duration(threshold * health.interval)
    text = (
        f"with {format_duration(election)} a node is given up after {after}: "
        f"faultTolerance.healthCheck.unhealthyThreshold is {threshold} in effect, its default "
        f"{health.unhealthy_threshold} is too low for this; write it, or lower electionTimeout"
    )
    return config.model_copy(update={"fault_tolerance": fault_tolerance}), [Finding(_ELECTION, text)]
