"""The order of the queue: classes that age, fair tenants, limits that hold, clocks; and why a task waits."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from coterie.core.commands import (
    Accepted,
    AdvanceClock,
    AssignTask,
    CancelTask,
    Command,
    ConfigureCluster,
    DeleteLimit,
    FinishTask,
    PauseTask,
    Rejected,
    SetLimit,
    SetTenant,
    TakeTokens,
)
from coterie.core.fairness import SCALE
from coterie.core.indexes import RELEASED_MAX
from coterie.core.nouns import NO_DATA, NodeId, Policy, SkillRef, TaskId, WaitReason
from coterie.core.ordered import CHUNK, Ordered
from coterie.core.quotas import Limit, Tenant
from coterie.core.scheduler import next_clock_ms, plan
from coterie.core.view import PlanPolicy, View
from coterie.core.waiting import Waiting, wait_reason
from coterie.raft import codec
from tests.core.builders import CoreCluster, submit_command

ROOT = Path(__file__).resolve().parents[2]

T1 = TaskId("t1")


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", capacity=2)


def planned(cluster: CoreCluster) -> list[Command]:
    return plan(cluster.state, View(cluster.now_ms), PlanPolicy())


def chosen(cluster: CoreCluster) -> list[str]:
    """What the plan assigns, without carrying it out."""
    return [command.task_id for command in planned(cluster) if isinstance(command, AssignTask)]


def carry_out(cluster: CoreCluster) -> list[str]:
    """Plans until nothing is left to do; what was assigned, in order."""
    assigned: list[str] = []
    while commands := planned(cluster):
        for command in commands:
            assert isinstance(cluster.do(command), Accepted), command
            assigned += [command.task_id] if isinstance(command, AssignTask) else []
    return assigned


def waits(cluster: CoreCluster, task_id: str) -> Waiting:
    return wait_reason(cluster.state, cluster.task(task_id), cluster.now_ms)


def finish(cluster: CoreCluster, task_id: str) -> None:
    task = cluster.task(task_id)
    assert isinstance(cluster.do(FinishTask(task.task_id, task.attempt, NO_DATA)), Accepted)


def code(outcome: object) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


# --- classes


def test_a_task_whose_time_has_come_queues_by_its_priority(cluster: CoreCluster) -> None:
    cluster.do(submit_command("later", priority=1, start_delay_ms=1))
    cluster.do(submit_command("urgent", priority=4))
    cluster.now_ms += 10
    cluster.do(AdvanceClock(cluster.now_ms))
    assert chosen(cluster) == ["urgent", "later"]


def test_waiting_is_worth_a_class(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(ageing_ms=100)))
    cluster.do(submit_command("low", priority=1))
    cluster.now_ms += 150
    cluster.do(submit_command("normal", priority=2))
    cluster.do(submit_command("high", priority=3))
    assert chosen(cluster) == ["high", "low"]
    cluster.now_ms += 1_000
    cluster.do(submit_command("high2", priority=3))
    assert chosen(cluster) == ["high", "low"], "older tasks have aged as much"


def test_without_ageing_the_classes_are_strict(cluster: CoreCluster) -> None:
    cluster.do(submit_command("low", priority=1))
    cluster.now_ms += 10_000_000
    cluster.do(submit_command("high", priority=3))
    assert chosen(cluster) == ["low", "high"]
    cluster.do(ConfigureCluster("c", "c", Policy(ageing_ms=0)))
    assert chosen(cluster) == ["high", "low"]


def test_a_delayed_task_ages_from_its_start_time(cluster: CoreCluster) -> None:
    cluster.do(submit_command("delayed", priority=2, start_delay_ms=10_000_000))
    cluster.now_ms += 10_000_000
    cluster.do(submit_command("high", priority=3))
    assert chosen(cluster) == ["high", "delayed"]


def test_very_many_that_come_due_at_once_are_queued_in_portions(cluster: CoreCluster) -> None:
    """No step of the clock costs more than so many, nobody waits for the last, and none is forgotten."""
    count, indexes = 4 * RELEASED_MAX, cluster.state.indexes
    for number in range(count):
        cluster.do(submit_command(f"t{number}", start_delay_ms=1_000_000 - cluster.now_ms))
    cluster.now_ms = 1_000_010
    late, early = TaskId(f"t{count - 1}"), TaskId("t0")
    sizes = [0]
    for command in (AdvanceClock(cluster.now_ms), CancelTask(late), CancelTask(early)):
        assert isinstance(cluster.do(command), Accepted)
        sizes.append(len(indexes.queue))
    assert indexes.is_behind
    advance, *others = planned(cluster)
    assert (type(advance), {type(other) for other in others}) == (AdvanceClock, {AssignTask})
    while indexes.is_behind:
        cluster.do(AdvanceClock(cluster.now_ms))
        sizes.append(len(indexes.queue))
    assert max(after - before for before, after in pairwise(sizes)) == RELEASED_MAX
    assert (len(indexes.queue), len(indexes.delayed)) == (count - 2, 0)
    fresh = codec.decode_state(codec.encode_state(cluster.state.copy())).indexes
    assert fresh.image() == indexes.image()


# --- tenants


def test_tenants_take_turns_however_much_one_has_queued(cluster: CoreCluster) -> None:
    for number in range(6):
        cluster.do(submit_command(f"a{number}", tenant="a", priority=4))
    cluster.do(submit_command("b0", tenant="b", priority=1))
    assert sorted(chosen(cluster)) == ["a0", "b0"]


def test_shares_follow_the_weights(cluster: CoreCluster) -> None:
    cluster.do(SetTenant(Tenant("a", weight=3)))
    cluster.with_node("n1", 2, capacity=8)
    for number in range(40):
        cluster.do(submit_command(f"a{number}", tenant="a"))
        cluster.do(submit_command(f"b{number}", tenant="b"))
    assert Counter(task_id[0] for task_id in carry_out(cluster)) == {"a": 6, "b": 2}


def test_slots_count_by_their_time(cluster: CoreCluster) -> None:
    """One tenant's tasks are ten times as long: it gets a tenth as many, not as many."""
    cluster.with_node("n1", 2, capacity=1)
    for number in range(600):
        cluster.do(submit_command(f"a{number}", tenant="a"))
        cluster.do(submit_command(f"b{number}", tenant="b"))
    used: Counter[str] = Counter()
    for _ in range(500):
        [task_id] = carry_out(cluster)
        took = 1_000 if task_id[0] == "a" else 100
        cluster.now_ms += took
        used[task_id[0]] += took
        finish(cluster, task_id)
    assert 0.9 < used["a"] / used["b"] < 1.1


def test_an_idle_tenant_earns_no_more_than_a_window(cluster: CoreCluster) -> None:
    cluster.with_node("n1", 2, capacity=1)
    for number in range(200):
        cluster.do(submit_command(f"a{number}", tenant="a"))
    for _ in range(100):
        [task_id] = carry_out(cluster)
        cluster.now_ms += 1_000
        finish(cluster, task_id)
    for number in range(50):
        cluster.do(submit_command(f"b{number}", tenant="b"))
    order = []
    for _ in range(30):
        [task_id] = carry_out(cluster)
        order.append(task_id[0])
        cluster.now_ms += 1_000
        finish(cluster, task_id)
    assert 8 <= order.index("a") <= 12, "b goes first for as long as the window, then both take turns"
    assert order[12:].count("a") in range(8, 11)


def test_a_tenant_has_a_share_of_the_queue(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c", "c", Policy(pending_tasks_max=4, tenant_pending_percent=50)))
    for number in range(2):
        cluster.do(submit_command(f"a{number}", tenant="a"))
    assert code(cluster.do(submit_command("a2", tenant="a"))) == "TENANT_QUOTA"
    assert isinstance(cluster.do(submit_command("b0", tenant="b")), Accepted)
    cluster.do(SetTenant(Tenant("a", pending_tasks_max=3)))
    assert isinstance(cluster.do(submit_command("a2", tenant="a")), Accepted)
    assert code(cluster.do(submit_command("b1", tenant="b"))) == "QUEUE_FULL"
    cluster.do(PauseTask(TaskId("a0")))
    assert code(cluster.do(submit_command("b1", tenant="b"))) == "QUEUE_FULL", "paused tasks count"


# --- limits


def limited(**changes: Any) -> Limit:
    return Limit(**{"limit_id": "l", **changes})


def test_a_concurrency_limit_holds_for_each_key_and_frees_the_others(cluster: CoreCluster) -> None:
    cluster.do(SetLimit(limited(key="*", concurrent=1)))
    for number in range(4):
        cluster.do(submit_command(f"k{number}", key="k"))
    cluster.do(submit_command("other", key="other"))
    assert carry_out(cluster) == ["k0", "other"]
    assert waits(cluster, "k1") == Waiting(WaitReason.CONCURRENCY, "limit l: 1 run, and no more may", "l")
    assert code(cluster.assign("k1")) == "LIMIT_REACHED"
    finish(cluster, "k0")
    assert carry_out(cluster) == ["k1"]


def test_a_concurrency_limit_on_a_skill_lets_others_pass(cluster: CoreCluster) -> None:
    cluster.do(SetLimit(limited(type="echo", concurrent=1)))
    cluster.with_node("n1", 2, skills=())
    assert cluster.state.nodes[NodeId("n1")].skills == ()
    cluster.with_node("n2", skills=(SkillRef("echo", "1"), SkillRef("other", "1")))
    for name, type_ in (("e1", "echo"), ("e2", "echo"), ("o1", "other")):
        cluster.do(submit_command(name, type=type_))
    assert carry_out(cluster) == ["e1", "o1"]
    cluster.do(DeleteLimit("l"))
    assert carry_out(cluster) == ["e2"]


@pytest.mark.parametrize("scope", [{}, {"key": "*"}, {"tenant": "default"}, {"agent": "*"}])
def test_a_rate_limit_is_never_exceeded_in_any_period(scope: dict[str, str]) -> None:
    cluster = CoreCluster().with_node("n1", capacity=100)
    cluster.do(SetLimit(limited(**scope, rate_count=20, rate_period_ms=1_000)))
    for number in range(90):
        cluster.do(submit_command(f"t{number}", key="k", agent="a"))
    starts: list[int] = []
    while len(starts) < 60:
        starts += [cluster.task(task_id).assigned_at_ms for task_id in carry_out(cluster)]
        due = next_clock_ms(cluster.state, cluster.now_ms)
        assert due > cluster.now_ms
        assert waits(cluster, "t89").reason is WaitReason.RATE_LIMIT
        assert waits(cluster, "t89").detail.startswith("limit ")
        assert waits(cluster, "t89").until_ms == due
        cluster.now_ms = due
    assert max(sum(at <= other < at + 1_000 for other in starts) for at in starts) == 20
    assert starts[-1] - starts[0] < 3_500, "and the rate is made use of"


def test_with_a_burst_the_rate_is_the_refill() -> None:
    cluster = CoreCluster().with_node("n1", capacity=100)
    cluster.do(SetLimit(limited(rate_count=5, rate_period_ms=1_000, burst=10)))
    for number in range(40):
        cluster.do(submit_command(f"t{number}"))
    assert len(carry_out(cluster)) == 10
    cluster.now_ms += 1_000
    assert len(carry_out(cluster)) == 5


def test_tokens_are_taken_ahead_for_a_node(cluster: CoreCluster) -> None:
    cluster.do(SetLimit(limited(type="echo", rate_count=10, rate_period_ms=1_000, burst=4)))
    take = TakeTokens("l", 3, type="echo")
    assert cluster.do(take) == Accepted()
    refused = cluster.do(take)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.retry_at_ms - cluster.now_ms) == ("RATE_LIMITED", 199)
    assert code(cluster.do(TakeTokens("l", 5, type="echo"))) == "BAD_LIMIT", "more than it ever has"
    assert code(cluster.do(TakeTokens("l", 1, type="other"))) == "BAD_LIMIT"
    cluster.do(submit_command())
    cluster.do(submit_command("t2"))
    assert carry_out(cluster) == ["t1"], "tasks draw from the same bucket"


@pytest.mark.parametrize(
    "limit",
    [
        Limit(""),
        Limit("l"),
        Limit("l", concurrent=-1),
        Limit("l", rate_count=1),
        Limit("l", concurrent=1, rate_period_ms=5),
        Limit("l\0", concurrent=1),
    ],
)
def test_a_limit_that_means_nothing_is_refused(limit: Limit, cluster: CoreCluster) -> None:
    assert code(cluster.do(SetLimit(limit))) == "BAD_LIMIT"
    assert not cluster.state.limits


# --- why


@pytest.mark.parametrize(
    ("least_ms", "took_ms", "counted_ms"), [(5, 39, 40), (5, 2, 5), (5, 0, 5), (0, 39, 45)]
)
def test_an_attempt_counts_for_the_time_it_had_a_slot(
    cluster: CoreCluster, least_ms: int, took_ms: int, counted_ms: int
) -> None:
    """Without the policy, as in clusters of early versions: 5 ms on top. A command takes a millisecond."""
    cluster.do(ConfigureCluster("c", "c", Policy(attempt_ms_min=least_ms)))
    cluster.with_node("n1")
    cluster.do(submit_command("t1", tenant="b"))
    cluster.assign("t1")
    cluster.now_ms += took_ms
    finish(cluster, "t1")
    assert cluster.state.shares["b"].used == counted_ms * SCALE


def test_why_a_task_waits(cluster: CoreCluster) -> None:
    cluster.with_node("n1", 2, capacity=1)
    cluster.do(submit_command("runs", tenant="b"))
    cluster.assign("runs")
    cluster.now_ms += 5_000
    cluster.do(submit_command("high", tenant="b", priority=3))
    cluster.do(submit_command("low", tenant="b", priority=1))
    cluster.do(submit_command("high2", tenant="b", priority=3))
    assert waits(cluster, "runs").reason is WaitReason.NONE
    assert waits(cluster, "high") == Waiting(WaitReason.QUEUED, "every node that could run it is full")
    assert waits(cluster, "low").reason is WaitReason.PRIORITY
    assert waits(cluster, "high2") == Waiting(WaitReason.QUEUED, "older work goes first")
    cluster.do(submit_command("other", tenant="c"))
    assert waits(cluster, "high").reason is WaitReason.FAIRNESS


# --- the sorted map


@pytest.mark.parametrize("seed", range(5))
def test_a_sorted_map_does_what_a_sorted_list_does(seed: int) -> None:
    dice = random.Random(seed)
    ordered: Ordered[str] = Ordered()
    model: dict[int, str] = {}
    for number in range(CHUNK * 8):
        key = dice.choice([number, dice.randint(0, CHUNK * 20)])
        if key in model:
            assert ordered.remove(key) == model.pop(key)
        else:
            ordered.add(key, str(key))
            model[key] = str(key)
        assert len(ordered) == len(model)
        assert ordered.first_key(-1) == min(model, default=-1)
    assert list(ordered.items()) == sorted(model.items())
    assert list(ordered.values()) == [model[key] for key in sorted(model)]
    limit = dice.randint(0, CHUNK * 20)
    assert list(ordered.below(limit)) == [item for item in sorted(model.items()) if item[0] < limit]
    for key in list(model):
        ordered.remove(key)
    assert ordered.first() is None


# --- memory


def test_a_queued_task_takes_so_many_bytes_and_no_more() -> None:
    """A million of them must fit into a node. Weighed in a process of its own; what shapes tasks had before
    changes nothing (test_layout.py)."""
    weighed = subprocess.run(
        [sys.executable, "-m", "tests.core.weigh_queued"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert 100 < float(weighed.stdout) < 820, weighed.stdout
