"""Breakers that are half-open while the policy changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coterie.core.breaker_commands import EndProbe, TakeProbe, TripBreaker
from coterie.core.breakers import BreakerState, why
from coterie.core.commands import Accepted, AssignTask, ConfigureCluster
from coterie.core.nouns import Policy
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, submit_command

POLICY = Policy(breaker_failures=4, breaker_recovery_ms=1_000, breaker_probes=5)
KEY = "skill:echo"


@pytest.fixture
def cluster() -> CoreCluster:
    """Three of the five probes that were asked for have succeeded; now two are enough."""
    made = CoreCluster()
    made.do(ConfigureCluster("c1", "test", POLICY))
    made.with_node("n1", capacity=50)
    made.do(TripBreaker(KEY, 0, "it broke"))
    made.now_ms += 10_000
    for probe in ("a", "b", "c"):
        assert isinstance(made.do(TakeProbe(KEY, probe, 1_000)), Accepted)
        made.do(EndProbe(KEY, probe, True, False))
    assert made.state.breakers[KEY].state is BreakerState.OPEN
    made.do(ConfigureCluster("c1", "test", replace(POLICY, breaker_probes=2)))
    return made


def test_enough_probes_for_a_lowered_policy_let_the_next_task_pass(cluster: CoreCluster) -> None:
    assert why(cluster.state.breakers[KEY], cluster.state.meta.policy, cluster.now_ms) == ""
    cluster.do(submit_command())
    assignments = list(plan(cluster.state, View(cluster.now_ms), PlanPolicy()))
    assert [type(one) for one in assignments] == [AssignTask], "the leader sees no breaker in the way"
    assert isinstance(cluster.do(assignments[0]), Accepted)
    assert cluster.state.breakers[KEY].state is BreakerState.CLOSED


def test_a_call_closes_it_likewise_and_takes_no_permit(cluster: CoreCluster) -> None:
    assert isinstance(cluster.do(TakeProbe(KEY, "d", 1_000)), Accepted)
    breaker = cluster.state.breakers[KEY]
    assert (breaker.state, breaker.probes, breaker.passed) == (BreakerState.CLOSED, (), 0)
