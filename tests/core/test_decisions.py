"""Effects in doubt and approvals: what the log decides, and what only people may."""

from __future__ import annotations

import pytest

from coterie.core.commands import (
    Accepted,
    AskApproval,
    BeginStep,
    CancelTask,
    ExpireTask,
    FinishTask,
    Outcome,
    RecordStep,
    Rejected,
    ReleaseTask,
    ResolveApproval,
    ResolveStep,
    SuspendTask,
    WithdrawStep,
)
from coterie.core.decisions import nouns
from coterie.core.decisions.nouns import OnUnknown, Resolution, StepState, Verdict, approval_id, state_of
from coterie.core.nouns import Data, ExpiryKind, TaskId, TaskState, WaitReason
from tests.core.builders import CoreCluster

T1 = TaskId("t1")
RETRY, ASK, FAIL = OnUnknown.RETRY, OnUnknown.ASK, OnUnknown.FAIL
CALL = "a" * 64
WHO = approval_id("t1", 1)


@pytest.fixture
def cluster() -> CoreCluster:
    cluster = CoreCluster().with_node("n1")
    cluster.running("t1")
    return cluster


def code(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, Rejected) else ""


def begin(cluster: CoreCluster, on_unknown: OnUnknown = RETRY, key: str = "mail") -> Outcome:
    return cluster.do(BeginStep(T1, cluster.task().attempt, key, f"t1/{key}", on_unknown))


def lose(cluster: CoreCluster) -> None:
    cluster.do(ReleaseTask(T1, cluster.task().attempt, "lost", lost=True))
    cluster.assign()


def standing(cluster: CoreCluster, key: str = "mail") -> StepState:
    step = cluster.state.open_steps[T1].find(key)
    return StepState.DONE if step is None else state_of(cluster.task(), step)


def doubts(cluster: CoreCluster) -> list[tuple[str, int, Resolution]]:
    return [(doubt.key, doubt.attempt, doubt.resolution) for doubt in cluster.state.doubts.values()]


# --- effects


def test_an_intent_becomes_a_step_when_its_result_is_recorded(cluster: CoreCluster) -> None:
    assert isinstance(begin(cluster), Accepted) and standing(cluster) is StepState.INTENT
    assert begin(cluster) == Accepted(T1, duplicate=True)
    cluster.do(RecordStep(T1, 1, "mail", Data(b"1")))
    assert not cluster.state.open_steps and not cluster.state.doubts
    assert code(begin(cluster)) == "STEP_RECORDED"


def test_what_a_lost_attempt_began_is_in_doubt_until_it_is_begun_again(cluster: CoreCluster) -> None:
    begin(cluster)
    cluster.do(ReleaseTask(T1, 1, "lost", lost=True))
    assert standing(cluster) is StepState.IN_DOUBT, "at once"
    cluster.assign()
    assert isinstance(begin(cluster), Accepted) and standing(cluster) is StepState.INTENT
    assert cluster.state.open_steps[T1].steps[0].tries == 2
    assert doubts(cluster) == [("mail", 1, Resolution.RETRIED)], "it may have happened twice"


@pytest.mark.parametrize("policy", [ASK, FAIL])
def test_who_may_not_retry_is_refused_until_somebody_decides(cluster: CoreCluster, policy: OnUnknown) -> None:
    begin(cluster, policy)
    lose(cluster)
    assert code(begin(cluster, policy)) == "IN_DOUBT"
    assert cluster.do(ResolveStep(T1, "mail", Resolution.RETRIED, principal="ann")) == Accepted(T1)
    assert cluster.do(ResolveStep(T1, "mail", Resolution.RETRIED)) == Accepted(T1, duplicate=True)
    assert code(cluster.do(ResolveStep(T1, "mail", Resolution.FAILED))) == "NOT_IN_DOUBT"
    assert isinstance(begin(cluster, policy), Accepted)
    assert doubts(cluster) == [("mail", 1, Resolution.RETRIED)], "once"
    lose(cluster)
    assert code(begin(cluster, policy)) == "IN_DOUBT", "a decision is for one doubt"


def test_a_task_that_waits_for_the_decision_goes_on_with_the_result(cluster: CoreCluster) -> None:
    begin(cluster, ASK)
    assert code(cluster.do(ResolveStep(T1, "mail", Resolution.DONE, Data(b"1")))) == "NOT_IN_DOUBT"
    lose(cluster)
    cluster.do(SuspendTask(T1, 2, WaitReason.IN_DOUBT, "mail"))
    assert cluster.task().state is TaskState.WAITING
    cluster.do(ResolveStep(T1, "mail", Resolution.DONE, Data(b'"sent"'), "ann", "saw it"))
    assert cluster.task().state is TaskState.PENDING and not cluster.state.open_steps
    step = cluster.state.steps[T1].find("mail")
    assert step is not None and (step.attempt, step.result.inline) == (1, b'"sent"')
    assert [(doubt.by, doubt.reason) for doubt in cluster.state.doubts.values()] == [("ann", "saw it")]
    cluster.assign()
    assert code(begin(cluster, ASK)) == "STEP_RECORDED"


def test_a_decision_to_fail_stands(cluster: CoreCluster) -> None:
    begin(cluster, ASK)
    lose(cluster)
    cluster.do(ResolveStep(T1, "mail", Resolution.FAILED, reason="the bank says no"))
    outcome = begin(cluster, ASK)
    assert isinstance(outcome, Rejected) and (outcome.code, outcome.reason) == (
        "IN_DOUBT",
        "the bank says no",
    )
    assert code(cluster.do(SuspendTask(T1, 2, WaitReason.IN_DOUBT, "mail"))) == "WAIT_OVER"


def test_what_certainly_did_not_happen_is_withdrawn(cluster: CoreCluster) -> None:
    begin(cluster, FAIL)
    assert cluster.do(WithdrawStep(T1, 1, "mail")) == Accepted(T1)
    assert cluster.do(WithdrawStep(T1, 1, "mail")) == Accepted(T1, duplicate=True)
    lose(cluster)
    assert isinstance(begin(cluster, FAIL), Accepted)
    assert code(cluster.do(WithdrawStep(T1, 1, "mail"))) == "FENCED"
    assert not cluster.state.doubts


def test_another_key_for_the_same_step_is_another_program(cluster: CoreCluster) -> None:
    begin(cluster)
    lose(cluster)
    assert code(cluster.do(BeginStep(T1, 2, "mail", "other", RETRY))) == "NOT_DETERMINISTIC"


@pytest.mark.parametrize("how", ["cancelled", "finished"])
def test_a_task_that_ends_leaves_its_doubts(cluster: CoreCluster, how: str) -> None:
    begin(cluster)
    begin(cluster, key="post")
    if how == "finished":
        cluster.do(FinishTask(T1, 1, Data(b"1")))
    else:
        cluster.do(ReleaseTask(T1, 1, "lost", lost=True))
        cluster.do(CancelTask(T1))
    assert not cluster.state.open_steps
    assert doubts(cluster) == [("mail", 1, Resolution.ABANDONED), ("post", 1, Resolution.ABANDONED)]
    assert cluster.state.meta.doubts_total == 2


def test_the_lists_have_limits(cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(nouns.OPEN_STEPS_MAX):
        begin(cluster, key=f"k{number}")
    assert code(begin(cluster, key="more")) == "TOO_MANY_STEPS"
    monkeypatch.setattr("coterie.core.decisions.tables.DOUBTS_MAX", 3)
    cluster.do(FinishTask(T1, 1, Data(b"1")))
    assert [key for key, _, _ in doubts(cluster)] == ["k253", "k254", "k255"]
    assert cluster.state.meta.doubts_total == nouns.OPEN_STEPS_MAX


# --- approvals


def ask(cluster: CoreCluster, needed: int = 1, timeout_ms: int = 0, call: str = CALL) -> Outcome:
    attempt = cluster.task().attempt
    return cluster.do(AskApproval(T1, attempt, WHO, "send?", call, Data(b"{}"), needed, timeout_ms))


def vote(cluster: CoreCluster, who: str, approve: bool = True, call: str = CALL) -> Outcome:
    return cluster.do(ResolveApproval(T1, WHO, who, approve, call))


def verdict(cluster: CoreCluster) -> Verdict:
    found = cluster.state.approvals[T1].find(WHO)
    assert found is not None
    return found.verdict


def test_so_many_distinct_people_approve(cluster: CoreCluster) -> None:
    ask(cluster, needed=2)
    cluster.do(SuspendTask(T1, 1, WaitReason.APPROVAL, WHO))
    assert vote(cluster, "ann") == Accepted(T1)
    assert vote(cluster, "ann") == Accepted(T1, duplicate=True)
    assert cluster.task().state is TaskState.WAITING, "one person is one vote"
    assert code(vote(cluster, "ann", approve=False)) == "APPROVAL_DECIDED"
    vote(cluster, "bob")
    assert (verdict(cluster), cluster.task().state) == (Verdict.APPROVED, TaskState.PENDING)
    assert code(vote(cluster, "eve", approve=False)) == "APPROVAL_DECIDED"
    cluster.assign()
    assert ask(cluster, needed=2) == Accepted(T1, duplicate=True)
    assert code(cluster.do(SuspendTask(T1, 2, WaitReason.APPROVAL, WHO))) == "WAIT_OVER"


def test_one_who_rejects_is_enough(cluster: CoreCluster) -> None:
    ask(cluster, needed=2)
    cluster.do(SuspendTask(T1, 1, WaitReason.APPROVAL, WHO))
    vote(cluster, "ann", approve=False)
    assert (verdict(cluster), cluster.task().state) == (Verdict.REJECTED, TaskState.PENDING)


def test_an_approval_is_for_one_call(cluster: CoreCluster) -> None:
    ask(cluster)
    assert code(vote(cluster, "ann", call="b" * 64)) == "CALL_CHANGED"
    assert code(ask(cluster, call="b" * 64)) == "NOT_DETERMINISTIC"
    assert code(vote(cluster, "")) == "BAD_APPROVAL"
    assert code(cluster.do(ResolveApproval(T1, "t1~approval-9", "ann", True, CALL))) == "APPROVAL_NOT_FOUND"


def test_nobody_approves_after_its_time(cluster: CoreCluster) -> None:
    ask(cluster, timeout_ms=5)
    cluster.do(SuspendTask(T1, 1, WaitReason.APPROVAL, WHO, timeout_ms=5))
    cluster.now_ms += 10
    assert code(vote(cluster, "ann")) == "APPROVAL_DECIDED"
    assert verdict(cluster) is Verdict.EXPIRED
    cluster.do(ExpireTask(T1, 1, ExpiryKind.WAIT))
    assert cluster.task().state is TaskState.PENDING


def test_questions_go_with_their_task(cluster: CoreCluster) -> None:
    ask(cluster)
    cluster.do(FinishTask(T1, 1, Data(b"1")))
    assert not cluster.state.approvals
    assert code(vote(cluster, "ann")) == "TASK_TERMINAL"


@pytest.mark.parametrize(
    "wrong",
    [{"needed": 0}, {"needed": 99}, {"question": ""}, {"call": Data(b"x" * (nouns.CALL_BYTES_MAX + 1))}],
)
def test_bad_questions_are_refused(cluster: CoreCluster, wrong: dict[str, object]) -> None:
    given = {"question": "send?", "call": Data(b"{}"), "needed": 1, **wrong}
    command = AskApproval(T1, 1, WHO, call_sha256=CALL, **given)  # type: ignore[arg-type]
    assert code(cluster.do(command)) == "BAD_APPROVAL"
