"""What one command or one look costs does not grow with what others have brought: steps are counted."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from coterie.core import fairness
from coterie.core.commands import DeleteLimit, FailAttempt, FinishTask, PurgeDeadLetters, SetLimit
from coterie.core.coordination import topics
from coterie.core.coordination.commands import DeleteTopic, PublishMessage
from coterie.core.limits import Gauges
from coterie.core.nouns import NO_DATA, Constraints, RetryPolicy, TaskError, TaskId
from coterie.core.quotas import Bucket, Limit
from coterie.core.scheduler import next_clock_ms
from tests.core.builders import CoreCluster, submit_command

TASKS = 50


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", capacity=500)


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """How often that method of the gauges is asked, from now on: the next number."""
    calls, asked = count(), getattr(Gauges, name)

    def ask(*args: Any) -> Any:
        next(calls)
        return asked(*args)

    monkeypatch.setattr(Gauges, name, ask)
    return calls


def test_a_limit_that_looks_at_no_key_asks_nothing_about_the_keys_that_wait(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(TASKS):
        cluster.do(submit_command(f"t{number}", key=f"k{number}"))
    calls = counted(monkeypatch, "key_blocker")
    cluster.do(SetLimit(Limit("plain", type="echo", concurrent=3)))
    cluster.do(DeleteLimit("plain"))
    assert next(calls) == 0
    cluster.do(SetLimit(Limit("keyed", key="*", concurrent=3)))
    cluster.do(SetLimit(Limit("keyed", type="echo", concurrent=3)))
    cluster.do(SetLimit(Limit("keyed", key="*", concurrent=3)))
    cluster.do(DeleteLimit("keyed"))
    assert next(calls) == 1 + 4 * TASKS


def test_tasks_of_many_kinds_cost_one_question_about_their_limits(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.do(SetLimit(Limit("pace", rate_count=1, rate_period_ms=60_000)))
    for number in range(TASKS):
        cluster.do(submit_command(f"t{number}", constraints=Constraints(zones=(f"z{number}",))))
    free_at_ms = cluster.now_ms + 60_000
    cluster.state.buckets["pace\0"] = Bucket("pace\0", free_at_ms * 1_000_000)
    calls = counted(monkeypatch, "other_blocker")
    assert next_clock_ms(cluster.state, cluster.now_ms) == free_at_ms
    assert next(calls) == 1


class Name(str):
    """Counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_purge_compares_no_letter_with_all_names(cluster: CoreCluster) -> None:
    for number in range(TASKS):
        task = cluster.running(f"t{number}", retry=RetryPolicy(attempts_max=1, dead_letter=True))
        cluster.do(FailAttempt(task.task_id, task.attempt, TaskError("BROKEN", "it broke")))
    assert len(cluster.state.dead_letters) == TASKS
    Name.compared = 0
    cluster.do(PurgeDeadLetters("default", tuple(TaskId(Name(f"x{number}")) for number in range(TASKS))))
    assert Name.compared < TASKS


def test_a_pattern_is_compared_with_the_topics_when_they_change_and_not_for_each_reader(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(TASKS):
        cluster.do(PublishMessage("a", f"t.{number}", b"x"))
    calls, matches = count(), topics.matches

    def compare(pattern: str, topic: str) -> bool:
        next(calls)
        return matches(pattern, topic)

    def read(pattern: str, after: int = 0) -> list[str]:
        return [message.topic for message in topics.read(cluster.state, "a", pattern, after, TASKS)]

    monkeypatch.setattr(topics, "matches", compare)
    for _ in range(3):
        assert len(read("t.*")) == TASKS and not read("t.*", TASKS) and not read("other.>")
        assert read("t.7") == ["t.7"] and not read("t.none")
    assert next(calls) == 2 * TASKS
    cluster.do(PublishMessage("a", "other.1", b"x"))
    assert read("other.>") == ["other.1"]
    cluster.do(DeleteTopic("a", "other.1"))
    cluster.do(PublishMessage("b", "other.1", b"x"))
    assert not read("other.>"), "gone, and another tenant's is nobody else's"
    for number in range(2 * topics.PATTERNS_MAX):
        assert not read(f"none.{number}.*")
    assert len(cluster.state.coordination.under["a"]) <= topics.PATTERNS_MAX
    assert not topics.read(cluster.state, "nobody", "t.*", 0, TASKS)
    assert set(cluster.state.coordination.under) == {"a"}, "nothing is kept of who has no topics"


def test_tenants_that_come_once_each_leave_no_more_than_so_many_shares(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "SHARES_MAX", 10)
    monkeypatch.setattr(fairness, "SHARES_KEPT_MAX", 20)
    cluster.running("busy", tenant="busy")
    for number in range(100):
        task = cluster.running(f"t{number}", tenant=f"once{number:03}")
        cluster.do(FinishTask(task.task_id, task.attempt, NO_DATA))
        assert len(cluster.state.shares) <= 20
    assert len(cluster.state.shares) >= 10 and "once099" in cluster.state.shares
