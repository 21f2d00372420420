"""Circuit breakers: what opens one and what does not, who may probe, how it closes; against a model."""

from __future__ import annotations

import random

import pytest

from coterie.core.breaker_commands import EndProbe, ResetBreaker, TakeProbe, TripBreaker
from coterie.core.breakers import (
    BREAKERS_MAX,
    Breaker,
    BreakerState,
    live_probes,
    permits,
    phase,
    recovery_ms,
)
from coterie.core.commands import (
    Accepted,
    AssignTask,
    CancelTask,
    ConfigureCluster,
    FailAttempt,
    FinishTask,
    ForgetNode,
    MarkNode,
    PauseTask,
    Rejected,
    ReleaseTask,
)
from coterie.core.nouns import (
    NO_DATA,
    NodeId,
    NodeStatus,
    Policy,
    RetryPolicy,
    TaskError,
    TaskId,
    TaskState,
    WaitReason,
)
from coterie.core.outcomes import NOT_STARTED, WINDOW_MS
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from coterie.core.waiting import wait_reason
from tests.core.builders import CoreCluster, submit_command

N1 = NodeId("n1")
CRASH = TaskError("SKILL_CRASHED", "its process died")
OWN = TaskError("SKILL_FAILED", "bad input")
POLICY = Policy(breaker_failures=4, breaker_recovery_ms=1_000, breaker_probes=2)


@pytest.fixture
def cluster() -> CoreCluster:
    made = CoreCluster()
    made.do(ConfigureCluster("c1", "test", POLICY))
    return made.with_node("n1", capacity=50).with_node("n2", capacity=50).with_node("n3", capacity=50)


def attempt(cluster: CoreCluster, task_id: str, node_id: str, type_: str = "echo") -> int:
    """The number of an attempt that runs there; the task is submitted when it is new."""
    if task_id not in cluster.state.tasks:
        cluster.do(submit_command(task_id, type=type_, retry=RetryPolicy(100, 1, 1)))
    cluster.now_ms += 5
    outcome = cluster.assign(task_id, node_id)
    assert isinstance(outcome, Accepted), outcome
    return cluster.task(task_id).attempt


def end(
    cluster: CoreCluster, task_id: str, node_id: str, error: TaskError | None, type_: str = "echo"
) -> None:
    number = attempt(cluster, task_id, node_id, type_)
    if error is None:
        cluster.do(FinishTask(TaskId(task_id), number, NO_DATA))
    else:
        cluster.do(FailAttempt(TaskId(task_id), number, error))


def tripped(cluster: CoreCluster) -> list[str]:
    view = View(cluster.now_ms, dice=7)
    return [
        command.key for command in plan(cluster.state, view, PlanPolicy()) if isinstance(command, TripBreaker)
    ]


def opened(cluster: CoreCluster, key: str = "provider:acme", dice: int = 0) -> Breaker:
    known = cluster.state.breakers.get(key)
    assert cluster.do(TripBreaker(key, known.number if known else 0, "it fails", dice)) == Accepted()
    return cluster.state.breakers[key]


def half_opened(cluster: CoreCluster, key: str = "provider:acme") -> Breaker:
    breaker = opened(cluster, key)
    cluster.now_ms = breaker.until_ms
    return breaker


# --- what opens one


def test_a_skill_that_dies_on_one_node_is_kept_from_that_node(cluster: CoreCluster) -> None:
    for number in range(3):
        end(cluster, f"t{number}", "n1", CRASH)
        assert tripped(cluster) == []
    end(cluster, "t4", "n1", CRASH)
    assert tripped(cluster) == ["skill:echo@n1"]


def test_a_skill_that_dies_everywhere_is_kept_from_all_and_no_node_is_blamed(cluster: CoreCluster) -> None:
    for number in range(4):
        end(cluster, f"t{number}", f"n{1 + number % 3}", CRASH)
        end(cluster, f"u{number}", f"n{1 + number % 3}", CRASH, "map")
    assert sorted(tripped(cluster)) == ["skill:echo", "skill:map"]
    opened(cluster, "skill:echo")
    assert tripped(cluster) == ["skill:map"]
    opened(cluster, "skill:map")
    assert tripped(cluster) == [], "nor when the skills are known to be at fault"


def test_a_node_on_which_different_skills_die_is_blamed_itself(cluster: CoreCluster) -> None:
    for number in range(4):
        end(cluster, f"t{number}", "n1", CRASH, "map" if number % 2 else "echo")
    assert tripped(cluster) == ["node:n1"]


def test_one_task_alone_opens_nothing(cluster: CoreCluster) -> None:
    for number in range(8):
        end(cluster, "poison", f"n{1 + number % 2}", CRASH)
    assert tripped(cluster) == []


def test_the_skills_own_errors_open_nothing(cluster: CoreCluster) -> None:
    for number in range(20):
        end(cluster, f"t{number}", "n1", OWN)
    assert tripped(cluster) == [] and not cluster.state.outcomes.windows


def test_a_few_failures_among_many_successes_open_nothing(cluster: CoreCluster) -> None:
    for number in range(5):
        end(cluster, f"t{number}", "n1", CRASH)
        for more in range(2):
            end(cluster, f"ok{number}-{more}", "n1", None)
    assert tripped(cluster) == []


def test_failures_long_ago_count_no_more(cluster: CoreCluster) -> None:
    for number in range(3):
        end(cluster, f"t{number}", "n1", CRASH)
    cluster.now_ms += WINDOW_MS
    end(cluster, "t9", "n1", CRASH)
    assert tripped(cluster) == []
    for number in range(3):
        end(cluster, f"u{number}", "n1", CRASH)
    assert tripped(cluster) == ["skill:echo@n1"]


def test_a_node_that_starts_nothing_is_blamed_for_each_a_lost_one_once(cluster: CoreCluster) -> None:
    for number in range(4):
        task_id = TaskId(f"t{number}")
        cluster.do(ReleaseTask(task_id, attempt(cluster, task_id, "n2"), NOT_STARTED, lost=True))
    assert tripped(cluster) == ["node:n2"]
    for number in range(10, 20):
        attempt(cluster, f"t{number}", "n3")
    cluster.do(MarkNode(NodeId("n3"), 1, NodeStatus.DOWN, "no report"))
    assert len(cluster.state.outcomes.windows["node:n3"].failures) == 1


def test_a_cancelled_attempt_that_is_lost_is_a_loss_all_the_same(cluster: CoreCluster) -> None:
    for number in range(4):
        task_id = TaskId(f"t{number}")
        held = attempt(cluster, task_id, "n2")
        cluster.do(CancelTask(task_id, "enough"))
        cluster.do(ReleaseTask(task_id, held, NOT_STARTED, lost=True))
        assert cluster.task(task_id).state is TaskState.CANCELLED
    assert tripped(cluster) == ["node:n2"]
    window = cluster.state.outcomes.windows["node:n2"]
    assert (len(window.failures), len(window.passes)) == (4, 0)
    assert [loss.task_id for loss in cluster.state.outcomes.lost_tasks] == ["t0", "t1", "t2", "t3"]
    assert {event.detail for event in cluster.events if event.type == "cancelled"} == {"enough"}


def test_nothing_opens_while_breakers_are_off(cluster: CoreCluster) -> None:
    cluster.do(ConfigureCluster("c1", "test", Policy()))
    for number in range(9):
        end(cluster, f"t{number}", "n1", CRASH)
    assert tripped(cluster) == []
    outcome = cluster.do(TripBreaker("node:n1", 0, "why not"))
    assert isinstance(outcome, Rejected) and outcome.code == "BREAKERS_OFF"


# --- opening


def test_what_was_decided_before_the_last_change_opens_nothing(cluster: CoreCluster) -> None:
    opened(cluster)
    assert cluster.do(TripBreaker("provider:acme", 1, "again")) == Accepted(duplicate=True)
    cluster.do(ResetBreaker("provider:acme"))
    outcome = cluster.do(TripBreaker("provider:acme", 0, "proposed twice"))
    assert isinstance(outcome, Rejected) and outcome.code == "STALE_BREAKER"


@pytest.mark.parametrize("key", ["", "node", "node:", "Node:n1", "node:n 1", "x:" + "y" * 401])
def test_a_key_that_is_none_is_refused(cluster: CoreCluster, key: str) -> None:
    for command in (TripBreaker(key, 0, "x"), TakeProbe(key, "p", 1), ResetBreaker(key)):
        outcome = cluster.do(command)
        assert isinstance(outcome, Rejected) and outcome.code == "BAD_BREAKER"


def test_the_recovery_time_grows_up_to_eightfold_and_jitters_by_committed_dice() -> None:
    times = [recovery_ms(POLICY, turn, 0) for turn in range(1, 7)]
    assert times[0] == 1_000
    for time, seconds in zip(times, (1, 2, 4, 8, 8, 8), strict=True):
        assert 1_000 * seconds <= time < 1_200 * seconds
    drawn = {recovery_ms(POLICY, 1, random.Random(seed).getrandbits(32)) for seed in range(50)}
    assert min(drawn) >= 1_000 and max(drawn) < 1_200 and len(drawn) > 25


def test_there_are_only_so_many_and_closed_ones_make_room(cluster: CoreCluster) -> None:
    for number in range(BREAKERS_MAX):
        opened(cluster, f"provider:p{number}")
    outcome = cluster.do(TripBreaker("provider:more", 0, "x"))
    assert isinstance(outcome, Rejected) and outcome.code == "TOO_MANY_BREAKERS"
    for number in range(4):
        end(cluster, f"t{number}", "n1", CRASH)
    assert tripped(cluster) == [], "it would be refused, in every plan anew, and nothing else be planned"
    cluster.do(ResetBreaker("provider:p7"))
    opened(cluster, "provider:more")
    assert "provider:p7" not in cluster.state.breakers and len(cluster.state.breakers) == BREAKERS_MAX


def test_a_removed_node_takes_its_breakers_along(cluster: CoreCluster) -> None:
    for key in ("node:n1", "skill:echo@n1", "skill:echo", "node:n11"):
        opened(cluster, key)
    cluster.do(ForgetNode(N1, 1))
    assert list(cluster.state.breakers) == ["skill:echo", "node:n11"]


# --- probing


def take(cluster: CoreCluster, probe_id: str, key: str = "provider:acme") -> str:
    outcome = cluster.do(TakeProbe(key, probe_id, 60_000))
    return outcome.code if isinstance(outcome, Rejected) else ""


def test_an_open_breaker_lets_nobody_pass_and_says_until_when(cluster: CoreCluster) -> None:
    breaker = opened(cluster)
    outcome = cluster.do(TakeProbe("provider:acme", "p1", 1_000))
    assert isinstance(outcome, Rejected) and outcome.code == "CIRCUIT_OPEN"
    assert outcome.retry_at_ms == breaker.until_ms
    assert take(cluster, "p1", "provider:other") == ""


def test_a_half_open_breaker_lets_only_so_many_pass(cluster: CoreCluster) -> None:
    half_opened(cluster)
    assert [take(cluster, f"p{n}") for n in (1, 2, 1, 3)] == ["", "", "", "CIRCUIT_OPEN"]
    cluster.do(EndProbe("provider:acme", "p1", ok=False, failed=False))
    assert [take(cluster, f"p{n}") for n in (4, 5)] == ["", "CIRCUIT_OPEN"]
    cluster.do(EndProbe("provider:acme", "p4", ok=True, failed=False))
    assert take(cluster, "p6") == "CIRCUIT_OPEN"  # two that succeed are enough
    cluster.do(EndProbe("provider:acme", "p2", ok=True, failed=False))
    assert cluster.state.breakers["provider:acme"].state is BreakerState.CLOSED


def test_a_probe_that_fails_opens_it_for_longer(cluster: CoreCluster) -> None:
    half_opened(cluster)
    take(cluster, "p1")
    take(cluster, "p2")
    at_ms = cluster.now_ms
    cluster.do(EndProbe("provider:acme", "p1", ok=False, failed=True, reason="503"))
    breaker = cluster.state.breakers["provider:acme"]
    assert (breaker.opened, breaker.reason, breaker.probes) == (2, "503", ())
    assert breaker.until_ms >= at_ms + 2_000
    cluster.do(EndProbe("provider:acme", "p2", ok=True, failed=False))  # of the time before: too late
    assert cluster.state.breakers["provider:acme"] == breaker


def test_a_permit_that_nobody_gives_back_runs_out(cluster: CoreCluster) -> None:
    half_opened(cluster)
    take(cluster, "p1")
    take(cluster, "p2")
    cluster.now_ms += 60_000
    assert take(cluster, "p3") == ""


def test_one_that_opens_again_soon_stays_open_for_longer_and_a_reset_forgets_that(
    cluster: CoreCluster,
) -> None:
    half_opened(cluster)
    for probe in ("p1", "p2"):
        take(cluster, probe)
        cluster.do(EndProbe("provider:acme", probe, ok=True, failed=False))
    assert opened(cluster).opened == 2
    cluster.do(ResetBreaker("provider:acme"))
    assert opened(cluster).opened == 1
    cluster.do(ResetBreaker("provider:acme"))
    cluster.now_ms += 10_000
    assert opened(cluster).opened == 1


# --- tasks as probes


def test_attempts_are_the_probes_of_a_node(cluster: CoreCluster) -> None:
    half_opened(cluster, "node:n1")
    first, second = attempt(cluster, "t1", "n1"), attempt(cluster, "t2", "n1")
    cluster.do(submit_command("t3"))
    outcome = cluster.assign("t3", "n1")
    assert isinstance(outcome, Rejected) and outcome.code == "CIRCUIT_OPEN"
    cluster.do(FinishTask(TaskId("t1"), first, NO_DATA))
    cluster.do(FailAttempt(TaskId("t2"), second, OWN))  # the skill's own error: the node works
    assert cluster.state.breakers["node:n1"].state is BreakerState.CLOSED
    assert isinstance(cluster.assign("t3", "n1"), Accepted)


@pytest.mark.parametrize("how", ["crash", "lost", "cancelled and lost"])
def test_an_attempt_that_dies_opens_it_again(cluster: CoreCluster, how: str) -> None:
    half_opened(cluster, "skill:echo@n1")
    number = attempt(cluster, "t1", "n1")
    if how.startswith("cancelled"):
        cluster.do(CancelTask(TaskId("t1"), "enough"))
    if how == "crash":
        cluster.do(FailAttempt(TaskId("t1"), number, CRASH))
    else:
        cluster.do(MarkNode(N1, 1, NodeStatus.DOWN, "no report"))
    breaker = cluster.state.breakers["skill:echo@n1"]
    assert breaker.opened == 2
    assert breaker.reason == f"its probe failed: {'its process died' if how == 'crash' else 'no report'}"


def test_an_attempt_that_says_nothing_gives_its_permit_back(cluster: CoreCluster) -> None:
    half_opened(cluster, "skill:echo")
    number = attempt(cluster, "t1", "n1")
    cluster.do(PauseTask(TaskId("t1")))
    cluster.do(ReleaseTask(TaskId("t1"), number, "paused"))
    breaker = cluster.state.breakers["skill:echo"]
    assert (breaker.probes, breaker.passed, breaker.state) == ((), 0, BreakerState.OPEN)


def test_a_waiting_task_says_which_breaker_it_waits_for(cluster: CoreCluster) -> None:
    cluster.do(submit_command("t1"))
    task = cluster.task("t1")
    opened(cluster, "node:n1")
    assert wait_reason(cluster.state, task, cluster.now_ms).reason is not WaitReason.CIRCUIT_OPEN
    breaker = opened(cluster, "skill:echo")
    waiting = wait_reason(cluster.state, task, cluster.now_ms)
    assert waiting.reason is WaitReason.CIRCUIT_OPEN and "skill:echo" in waiting.detail
    assert waiting.until_ms == min(breaker.until_ms, cluster.state.breakers["node:n1"].until_ms)
    assert not any(isinstance(c, AssignTask) for c in plan(cluster.state, View(cluster.now_ms), PlanPolicy()))
    later = View(max(b.until_ms for b in cluster.state.breakers.values()))
    assert [type(c) for c in plan(cluster.state, later, PlanPolicy())] == [AssignTask]


# --- against a model


@pytest.mark.parametrize("seed", range(40))
def test_probes_are_never_more_than_granted(seed: int) -> None:
    """Whatever is proposed, in whatever order: an open breaker grants nothing, a half-open one no more than
    its probes, and only successes that were granted close it."""
    dice, cluster = random.Random(seed), CoreCluster()
    cluster.do(ConfigureCluster("c1", "test", POLICY))
    granted: set[str] = set()
    good = 0
    for turn in range(300):
        cluster.now_ms += dice.choice([0, 1, 50, 400])
        before = cluster.state.breakers.get("x:y")
        was = phase(before, cluster.now_ms) if before else BreakerState.CLOSED
        probe_id = dice.choice([*sorted(granted), f"p{turn}"])
        match dice.randint(0, 3):
            case 0:
                cluster.do(TripBreaker("x:y", before.number if before else 0, "r", dice.getrandbits(32)))
            case 1 | 2:
                outcome = cluster.do(TakeProbe("x:y", probe_id, 1_000))
                assert isinstance(outcome, Accepted) is (was is not BreakerState.OPEN) or (
                    was is BreakerState.HALF_OPEN
                )
                if isinstance(outcome, Accepted) and was is BreakerState.HALF_OPEN:
                    granted.add(probe_id)
            case 3:
                ok = dice.random() < 0.6
                cluster.do(EndProbe("x:y", probe_id, ok, not ok))
                good += ok and probe_id in granted
        breaker = cluster.state.breakers.get("x:y")
        if breaker is None:
            continue
        if before is not None and breaker.number != before.number:
            if breaker.state is BreakerState.CLOSED:
                assert good >= POLICY.breaker_probes
            granted, good = set(), 0
        assert permits(breaker, POLICY, cluster.now_ms) >= 0
        assert len(live_probes(breaker, cluster.now_ms)) + breaker.passed <= POLICY.breaker_probes
