"""What is kept beside the state has bounds too: pools, windows, heaps, lists. Beyond them all goes well."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core import indexes, limits, outcomes
from coterie.core.agent_counts import DEPTH_MAX, run_of
from coterie.core.agentbook import AgentRevision, ApplyAgent, PinAgentRun
from coterie.core.commands import (
    Accepted,
    BeginStep,
    ConfigureCluster,
    DeleteLimit,
    FailAttempt,
    FinishTask,
    Rejected,
    ReleaseTask,
    ResolveStep,
    SetLimit,
    SuspendTask,
    TakeTokens,
)
from coterie.core.coordination import bounds
from coterie.core.coordination.commands import DeleteTopic, FetchMessages, PublishMessage, SetGroup, SetTopic
from coterie.core.coordination.look_ups import FAR_MS, Alarms, Backlog, name_key
from coterie.core.coordination.nouns import TopicMessage
from coterie.core.decisions.nouns import OnUnknown, Resolution
from coterie.core.families import Child, ChildEnd, Family, FamilyPart, child_id
from coterie.core.limits import Profile
from coterie.core.llm import doubts
from coterie.core.llm.nouns import CachedAnswer, LlmVerdict
from coterie.core.llm.state import LlmState
from coterie.core.nouns import Data, Policy, RetryPolicy, TaskError, TaskId, TaskState, WaitReason
from coterie.core.quotas import Limit
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, submit_command
from tests.core.llm_calls import begin, settle

T1 = TaskId("t1")
CRASH = TaskError("SKILL_CRASHED", "its process died")


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", capacity=500)


# --- of tasks


def test_what_tasks_have_in_common_is_kept_once_and_the_pool_has_an_end(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def types() -> list[str]:
        return [cluster.task(f"t{number}").type for number in range(3)]

    name = "a type of this many characters"
    for number in range(3):
        cluster.do(submit_command(f"t{number}", type="".join(list(name))))
    first, second, third = types()
    assert first is second is third
    monkeypatch.setattr(indexes, "POOL_MAX", 1)
    cluster.do(submit_command("u1", type="".join(list(name))))
    assert cluster.task("u1").type == name and cluster.task("u1").type is not first, "it began anew"


def test_a_run_is_looked_for_only_so_far_up(cluster: CoreCluster) -> None:
    cluster.do(ApplyAgent("a", AgentRevision(f"{1:064x}", "", Data(b"{}"))))
    cluster.do(submit_command("g0", type="agent", agent="a", retry=RetryPolicy(1)))
    cluster.assign("g0")
    assert cluster.do(PinAgentRun(TaskId("g0"), 1, f"{1:064x}")) == Accepted(TaskId("g0"))
    for depth in range(1, DEPTH_MAX + 1):
        cluster.do(submit_command(f"g{depth}", agent="a", parent_id=TaskId(f"g{depth - 1}")))
    nearest = run_of(cluster.state, cluster.task(f"g{DEPTH_MAX - 1}"))
    assert nearest is not None and nearest.task_id == "g0"
    assert run_of(cluster.state, cluster.task(f"g{DEPTH_MAX}")) is None


def test_a_task_whose_node_is_gone_is_taken_back_however_that_came(cluster: CoreCluster) -> None:
    cluster.running("t1")
    assert not [c for c in plan(cluster.state, View(cluster.now_ms), PlanPolicy())]
    del cluster.state.nodes[next(iter(cluster.state.nodes))]
    planned = plan(cluster.state, View(cluster.now_ms), PlanPolicy())
    assert planned == [ReleaseTask(T1, 1, "its node is gone", lost=True)]
    cluster.do(planned[0])
    assert (cluster.task().state, cluster.task().losses) == (TaskState.PENDING, 1)


def test_a_fork_says_where_it_comes_from(cluster: CoreCluster) -> None:
    cluster.do(submit_command("copy", forked_from="t1@5"))
    assert cluster.task("copy").forked_from == "t1@5"
    assert cluster.events[-1].detail == "forked from t1@5"


# --- of limits


def test_limits_are_the_same_for_more_profiles_than_are_remembered(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEMO_MAX", 2)
    cluster.do(SetLimit(Limit("per-key", key="*", concurrent=1)))
    gauges = cluster.state.indexes.gauges
    for _ in range(2):
        for key in ("a", "b", "c", "d"):
            for agent in ("ann", "bob", "cem"):
                [counted] = gauges.counted(Profile("default", agent, "echo", key))
                assert counted.name.endswith(key)
    cluster.do(submit_command("t1", key="a"))
    cluster.do(submit_command("t2", key="a"))
    assert isinstance(cluster.assign("t1"), Accepted)
    refused = cluster.assign("t2")
    assert isinstance(refused, Rejected) and refused.code == "LIMIT_REACHED"


def test_many_limits_on_other_kinds_of_tasks_cost_no_look_for_each_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, looks, name_of = CoreCluster(), list[Limit](), limits.counter_name

    def looked(limit: Limit, profile: limits.Profile) -> str | None:
        looks.append(limit)
        return name_of(limit, profile)

    for number in range(50):
        core.do(SetLimit(Limit(f"l{number}", tenant=f"tenant{number}", key="*", concurrent=5)))
    monkeypatch.setattr(limits, "counter_name", looked)
    for number in range(100):
        core.do(submit_command(f"t{number}", key=f"k{number}", tenant="tenant0"))
    core.do(SetLimit(Limit("l0", tenant="tenant0", key="*", concurrent=6)))
    assert len(looks) == 2 * (50 + 100), "each limit once, then the one that counts for each key"


def test_there_are_so_many_limits(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "test", Policy(limits_max=1)))
    assert cluster.do(SetLimit(Limit("one", concurrent=1))) == Accepted()
    refused = cluster.do(SetLimit(Limit("two", concurrent=1)))
    assert isinstance(refused, Rejected) and refused.code == "TOO_MANY_LIMITS"
    assert cluster.do(SetLimit(Limit("one", concurrent=2))) == Accepted(), "what is known may change"


TOKEN = TakeTokens("l", 1, "default", "", "echo", "")


def test_a_limit_that_was_lifted_begins_afresh(cluster: CoreCluster) -> None:
    slow = Limit("l", rate_count=1, rate_period_ms=3_600_000)
    cluster.do(SetLimit(slow))
    assert [isinstance(cluster.do(TOKEN), Accepted) for _ in range(2)] == [True, False]
    cluster.do(DeleteLimit("l"))
    cluster.do(SetLimit(slow))
    assert [isinstance(cluster.do(TOKEN), Accepted) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("before", "after", "free"),
    [
        ((1, 3_600_000, 0), (10, 1_000, 10), 9),  # one is used, of ten now
        ((10, 1_000, 10), (10, 3_600_000, 10), 9),
        ((10, 3_600_000, 10), (2, 3_600_000, 2), 1),
        ((4, 3_600_000, 4), (4, 3_600_000, 8), 7),
    ],
)
def test_a_limit_that_changes_keeps_what_was_used_and_not_its_old_pace(
    cluster: CoreCluster, before: tuple[int, int, int], after: tuple[int, int, int], free: int
) -> None:
    def rate(count: int, period_ms: int, burst: int) -> Limit:
        return Limit("l", rate_count=count, rate_period_ms=period_ms, burst=burst)

    cluster.do(SetLimit(rate(*before)))
    assert isinstance(cluster.do(TOKEN), Accepted)
    cluster.do(SetLimit(rate(*after)))
    cluster.now_ms -= 1  # the time of the next entry is that of the last
    given = 0
    while isinstance(cluster.do(TOKEN), Accepted):
        given, cluster.now_ms = given + 1, cluster.now_ms - 1
    assert given == free


def test_a_limit_on_something_else_begins_afresh(cluster: CoreCluster) -> None:
    cluster.do(SetLimit(Limit("l", rate_count=1, rate_period_ms=3_600_000)))
    assert isinstance(cluster.do(TOKEN), Accepted)
    cluster.do(SetLimit(Limit("l", type="echo", rate_count=1, rate_period_ms=3_600_000)))
    assert [isinstance(cluster.do(TOKEN), Accepted) for _ in range(2)] == [True, False]


# --- of windows of failures


def crash(cluster: CoreCluster, task_id: str, type_: str) -> None:
    cluster.do(submit_command(task_id, type=type_, retry=RetryPolicy(1)))
    cluster.assign(task_id)
    cluster.do(FailAttempt(TaskId(task_id), 1, CRASH))


def test_of_too_many_windows_the_oldest_goes(cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.with_node("n1", capacity=500, skills=())
    monkeypatch.setattr(outcomes, "KEYS_MAX", 3)
    crash(cluster, "t1", "a")
    assert set(cluster.state.outcomes.windows) == {"node:n1", "skill:a@n1", "skill:a"}
    crash(cluster, "t2", "b")
    assert list(cluster.state.outcomes.windows) == ["skill:a", "skill:b@n1", "skill:b"]


def test_successes_long_ago_do_not_excuse_failures_of_now(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "test", Policy(breaker_failures=2)))
    crash(cluster, "first", "echo")
    for number in range(9):
        cluster.running(f"ok{number}")
        cluster.do(FinishTask(TaskId(f"ok{number}"), 1, Data(b"")))
    cluster.now_ms += outcomes.WINDOW_MS - 20
    crash(cluster, "second", "echo")
    window = cluster.state.outcomes.windows["skill:echo@n1"]
    assert (len(window.failures), len(window.passes)) == (2, 9)
    assert not list(cluster.state.outcomes.tripped(cluster.state.meta.policy, cluster.now_ms))
    crash(cluster, "third", "echo")
    cluster.now_ms += 40
    assert [key for key, _ in cluster.state.outcomes.tripped(cluster.state.meta.policy, cluster.now_ms)] == [
        "skill:echo@n1"
    ]
    assert (len(window.failures), len(window.passes)) == (2, 0)


# --- of calls of models


def test_the_oldest_doubts_leave_a_full_ledger(cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "DOUBTFUL_MAX", 2)
    cluster.running()
    for number in range(3):
        begin(cluster, key=f"s{number}")
        settle(cluster, key=f"s{number}", verdict=LlmVerdict.IN_DOUBT, result=Data(b""))
    assert [one.key for one in cluster.state.llm.doubtful.values()] == ["s1", "s2"]
    [usage] = cluster.state.llm.usage.values()
    assert usage.in_doubt == 3, "the sums keep them"


def test_an_answer_that_is_a_blob_is_not_kept_for_others(cluster: CoreCluster) -> None:
    cluster.running()
    begin(cluster, cache_key="k")
    settle(cluster, cache_ttl_ms=1_000, result=Data(sha256="a" * 64, size_bytes=9))
    assert not cluster.state.llm.cache and cluster.state.llm.cache_bytes == 0


def test_an_image_of_another_kind_of_record_is_refused() -> None:
    state = LlmState()
    state.restore(CachedAnswer("k", Data(b"answer"), 5))
    state.rebuild()
    assert list(state.cache) == ["k"] and state.cache_bytes == 6
    with pytest.raises(TypeError, match="no table for Data"):
        state.restore(Data(b""))


# --- of families and decisions


def test_no_image_has_an_end_without_a_beginning() -> None:
    begun = (Child(TaskId(child_id(T1, "a")), "g", b""),)
    for place in (-1, 1):
        with pytest.raises(ValueError, match=f"t1: child {place} ended, 1 began"):
            Family().add(FamilyPart(T1, begun, (ChildEnd(place, TaskState.SUCCEEDED),)))
    family = Family()
    family.add(FamilyPart(T1, begun, (ChildEnd(0, TaskState.SUCCEEDED),)))
    assert family.group("g").open == 0


def test_what_was_decided_as_done_needs_room_for_its_result(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "test", Policy(steps_per_task_max=0)))
    cluster.running("t1")
    cluster.do(BeginStep(T1, 1, "mail", "e", OnUnknown.ASK))
    cluster.do(ReleaseTask(T1, 1, "lost", lost=True))
    done = ResolveStep(T1, "mail", Resolution.DONE, Data(b"1"), "ann", "looked")
    refused = cluster.do(done)
    assert isinstance(refused, Rejected) and refused.code == "TOO_MANY_STEPS"
    assert not cluster.state.doubts, "it is as undecided as before"
    cluster.do(ConfigureCluster("c", "test", Policy(steps_per_task_max=1)))
    assert cluster.do(done) == Accepted(T1)


def test_an_approval_that_was_never_asked_for_is_waited_for_like_a_signal(cluster: CoreCluster) -> None:
    cluster.running("t1")
    outcome = cluster.do(SuspendTask(T1, 1, WaitReason.APPROVAL, "nobody-asked"))
    assert outcome == Accepted(T1) and cluster.task().state is TaskState.WAITING


# --- of alarms and topics


def test_alarms_that_move_often_leave_no_heap_behind() -> None:
    alarms = Alarms()
    for at_ms in range(1, 1_000):
        alarms.set("lock", "moves", 10_000 - at_ms)
        alarms.set("key", "stays", 20_000)
    assert len(alarms._heap) < 200
    assert alarms.image() == {("lock", "moves"): 9_001, ("key", "stays"): 20_000}
    assert (alarms.take_due(9_000), alarms.take_due(9_001)) == (None, ("lock", "moves"))
    assert alarms.next_ms == 20_000
    alarms.set("key", "stays", 0)
    assert (alarms.next_ms, alarms.take_due(FAR_MS - 1)) == (FAR_MS, None)


def test_a_backlog_gives_back_what_has_left() -> None:
    backlog = Backlog()
    messages = [TopicMessage("t", "topic", at, at, b"x", at) for at in range(300)]
    for message in messages:
        backlog.add(message)
    for message in messages[:250]:
        backlog.drop(message)
    assert (len(backlog), backlog.oldest(), list(backlog.after(296))) == (50, 250, [297, 298, 299])
    assert len(backlog._positions) < 200
    with pytest.raises(AssertionError, match="only the oldest"):
        backlog.drop(messages[299])


def test_the_last_topic_of_a_tenant_leaves_nothing_behind(cluster: CoreCluster) -> None:
    look_ups = cluster.state.coordination
    before: Any = look_ups.image()
    for command in (SetTopic("t", "one"), PublishMessage("t", "one", b"x"), DeleteTopic("t", "one")):
        assert isinstance(cluster.do(command), Accepted)
    assert "t" not in look_ups.topics and look_ups.image() == before


def test_a_message_that_no_topic_of_the_dead_has_room_for_is_given_out_again(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (
        SetTopic("t", "one"),
        SetGroup("t", "g", "one", ack_wait_ms=10, deliveries_max=1),
        PublishMessage("t", "one", b"x"),
    ):
        assert isinstance(cluster.do(command), Accepted)

    def fetched(fetch_id: str) -> int:
        cluster.now_ms += 20
        outcome = cluster.do(FetchMessages("t", "g", fetch_id, 5))
        assert isinstance(outcome, Accepted)
        return outcome.number

    assert fetched("f1") == 1
    with monkeypatch.context() as patch:
        patch.setattr(bounds, "ALL_TOPICS_MAX", 1)
        assert fetched("f2") == 1, "rather twice than lost"
    assert fetched("f3") == 0
    group = cluster.state.groups[name_key("t", "g")]
    assert (group.dead, group.unacked) == (1, ())
