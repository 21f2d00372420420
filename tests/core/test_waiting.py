"""Why a task waits, in moments between two entries; and who is woken when a breaker closes."""

from __future__ import annotations

import pytest

from coterie.core.breaker_commands import EndProbe, ResetBreaker, TakeProbe, TripBreaker
from coterie.core.commands import Accepted, ConfigureCluster, SuspendTask
from coterie.core.nouns import Policy, TaskId, TaskState, WaitReason
from coterie.core.waiting import wait_reason
from tests.core.builders import CoreCluster, submit_command


def test_a_task_that_was_assigned_since_it_was_looked_at_has_a_reason_too() -> None:
    """A list of tasks is made in turns: what it says of one may be of a moment ago."""
    cluster = CoreCluster().with_node("n1")
    cluster.do(submit_command("seen", type="echo"))
    cluster.do(submit_command("other", type="nobody-runs-this"))
    seen = cluster.task("seen")
    queued = cluster.state.indexes.queue.rank(seen)
    cluster.assign("seen")
    assert cluster.state.indexes.queue.rank(seen) == queued
    assert wait_reason(cluster.state, seen, cluster.now_ms).reason is not WaitReason.NONE


def test_a_task_that_has_come_due_since_the_last_entry_waits_for_the_next_plan() -> None:
    cluster = CoreCluster().with_node("n1")
    cluster.do(submit_command("later", start_delay_ms=50))
    later = cluster.task("later")
    assert wait_reason(cluster.state, later, later.start_at_ms - 1).reason is WaitReason.DELAYED
    waiting = wait_reason(cluster.state, later, later.start_at_ms)
    assert (waiting.reason, waiting.detail) == (WaitReason.QUEUED, "its turn comes with the next plan")
    due = [cluster.state.indexes.anything_due(later.start_at_ms + more) for more in (-1, 0)]
    assert due == [False, True]
    cluster.do(submit_command("now"))
    assert cluster.state.indexes.anything_due(cluster.now_ms)


@pytest.mark.parametrize("how", ["reset", "probe"])
def test_who_waits_for_a_breaker_goes_on_when_it_closes_and_nobody_else(how: str) -> None:
    cluster = CoreCluster().with_node("n1", capacity=9)
    cluster.do(ConfigureCluster("c1", "test", Policy(breaker_failures=4, breaker_probes=1)))
    for name, key in (("mine", "provider:acme"), ("other", "provider:other"), ("signal", "")):
        cluster.running(name)
        reason = WaitReason.CIRCUIT_OPEN if key else WaitReason.SIGNAL
        waits = SuspendTask(TaskId(name), 1, reason, key or "provider:acme")
        assert cluster.do(waits) == Accepted(TaskId(name))
    cluster.do(TripBreaker("provider:acme", 0, "it fails", 0))

    def states() -> list[TaskState]:
        return [cluster.task(name).state for name in ("mine", "other", "signal")]

    assert states() == [TaskState.WAITING] * 3
    if how == "reset":
        cluster.do(ResetBreaker("provider:acme"))
    else:
        cluster.now_ms = cluster.state.breakers["provider:acme"].until_ms
        assert cluster.do(TakeProbe("provider:acme", "p", 0)) == Accepted()
        assert states() == [TaskState.WAITING] * 3
        cluster.do(EndProbe("provider:acme", "p", True, False))
    assert states() == [TaskState.PENDING, TaskState.WAITING, TaskState.WAITING]
    assert cluster.task("mine").wait is None and cluster.task("mine").signals == ()
