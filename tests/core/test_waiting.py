"""Why a task waits, asked about one that does not wait any more."""

from __future__ import annotations

from coterie.core.nouns import WaitReason
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
