"""Language model calls in the core: paid once, never above a budget, in doubt when nobody can say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coterie.core.commands import (
    Accepted,
    FinishTask,
    Outcome,
    Rejected,
)
from coterie.core.llm import rules
from coterie.core.llm.commands import (
    DeleteLlmBudget,
    ForgetLlmAnswers,
    NoteLlmHandle,
    SetLlmBudget,
)
from coterie.core.llm.nouns import COUNT_MAX, Amount, LlmBudget, LlmCall, LlmVerdict, OnExhausted
from coterie.core.nouns import NO_DATA, Constraints, Data, TaskId
from coterie.raft.codec import encode_state
from tests.core.builders import CoreCluster
from tests.core.llm_calls import ANSWER, begin, lose, settle

T1 = TaskId("t1")
DAY_MS = 86_400_000


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", capacity=50)


def call_of(cluster: CoreCluster, key: str = "llm") -> LlmCall:
    call = cluster.state.llm.find(T1, key)
    assert call is not None
    return call


def code(outcome: Outcome) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def limit(cluster: CoreCluster, **fields: Any) -> None:
    assert isinstance(cluster.do(SetLlmBudget(LlmBudget("b", **fields))), Accepted)


# --- one call


def test_an_answer_is_a_step_and_settles_what_was_set_aside(cluster: CoreCluster) -> None:
    limit(cluster, tokens=1_000)
    cluster.running()
    assert isinstance(begin(cluster), Accepted)
    [account] = cluster.state.llm.accounts.values()
    assert (account.reserved, account.billed) == (Amount(100, 50, 1), Amount())
    assert isinstance(settle(cluster), Accepted)
    [account] = cluster.state.llm.accounts.values()
    assert (account.reserved, account.billed) == (Amount(), Amount(15, 7, 1))
    [step] = cluster.state.steps[T1]
    assert (step.key, step.result) == ("llm", ANSWER)
    assert cluster.state.llm.calls == {}
    [usage] = cluster.state.llm.usage.values()
    assert (usage.calls, usage.tokens_in, usage.tokens_out, usage.micro_usd) == (1, 10, 5, 7)


def test_what_a_provider_says_it_billed_can_be_added_up_for_ever(cluster: CoreCluster) -> None:
    """Sums above 64 bits could not be written into an image: the nodes would end at their next snapshot."""
    cluster.running()
    for number in range(1, 4):
        key = f"llm{number}"
        assert isinstance(begin(cluster, key=key), Accepted)
        huge: dict[str, Any] = {
            "tokens_in": 2**62,
            "tokens_out": -5,
            "tokens_cached": 2**63,
            "micro_usd": 2**62,
        }
        assert isinstance(settle(cluster, key=key, number=call_of(cluster, key).number, **huge), Accepted)
    [usage] = cluster.state.llm.usage.values()
    assert (usage.tokens_in, usage.tokens_out, usage.micro_usd) == (3 * COUNT_MAX, 0, 3 * COUNT_MAX)
    assert list(encode_state(cluster.state))


def test_every_command_may_be_proposed_twice(cluster: CoreCluster) -> None:
    limit(cluster, tokens=1_000)
    cluster.running()
    assert begin(cluster) == Accepted(T1)
    assert begin(cluster) == Accepted(T1, duplicate=True)
    assert settle(cluster) == Accepted(T1)
    assert code(begin(cluster)) == "STEP_RECORDED"
    assert settle(cluster) == Accepted(T1, duplicate=True)
    [account] = cluster.state.llm.accounts.values()
    assert account.billed == Amount(15, 7, 1), "billed once"


def test_a_task_has_so_many_calls_without_an_answer(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "CALLS_MAX", 2)
    cluster.running()
    for key in ("a", "b"):
        begin(cluster, key=key)
        settle(cluster, key=key, verdict=LlmVerdict.FAILED, result=NO_DATA)
    assert code(begin(cluster, key="c")) == "TOO_MANY_LLM_CALLS"
    assert isinstance(begin(cluster, key="b", number=2), Accepted), "the same step may try again"
    settle(cluster, key="b", number=2)
    assert isinstance(begin(cluster, key="c"), Accepted), "what was answered counts no more"


def test_a_call_is_begun_once_for_all_attempts(cluster: CoreCluster) -> None:
    cluster.running()
    begin(cluster)
    lose(cluster)
    assert code(begin(cluster)) == "LLM_CALL_OPEN", "an open call is resolved first"
    assert code(begin(cluster, number=2)) == "LLM_CALL_OPEN"
    assert isinstance(settle(cluster, verdict=LlmVerdict.IN_DOUBT, result=NO_DATA, reason="x"), Accepted)
    assert code(begin(cluster)) == "LLM_CALL_STALE", "a number never comes twice"
    assert isinstance(begin(cluster, number=2), Accepted)
    assert isinstance(settle(cluster, number=2), Accepted)


def test_a_deposed_attempt_neither_begins_nor_settles(cluster: CoreCluster) -> None:
    old = cluster.running().attempt
    begin(cluster)
    lose(cluster)
    assert code(begin(cluster, attempt=old, key="other")) == "FENCED"
    assert code(settle(cluster, attempt=old)) == "FENCED"
    assert code(cluster.do(NoteLlmHandle(T1, old, "llm", 1, "r"))) == "FENCED"
    assert call_of(cluster).open


def test_the_next_attempt_finds_the_handle_and_settles_the_same_call(cluster: CoreCluster) -> None:
    attempt = cluster.running().attempt
    begin(cluster)
    assert cluster.do(NoteLlmHandle(T1, attempt, "llm", 1, "resp-1")) == Accepted(T1)
    assert cluster.do(NoteLlmHandle(T1, attempt, "llm", 1, "resp-1")) == Accepted(T1, duplicate=True)
    lose(cluster)
    assert (call_of(cluster).handle, call_of(cluster).number) == ("resp-1", 1)
    assert isinstance(settle(cluster), Accepted)
    assert cluster.state.llm.doubtful == {}


@pytest.mark.parametrize(
    ("verdict", "billed", "doubtful"),
    [
        (LlmVerdict.FAILED, Amount(requests=1), 0),
        (LlmVerdict.UNSENT, Amount(), 0),
        (LlmVerdict.IN_DOUBT, Amount(100, 50, 1), 1),
    ],
)
def test_what_a_call_without_an_answer_counts(
    cluster: CoreCluster, verdict: LlmVerdict, billed: Amount, doubtful: int
) -> None:
    limit(cluster, tokens=1_000)
    cluster.running()
    begin(cluster)
    for _ in range(2):
        assert isinstance(settle(cluster, verdict=verdict, result=NO_DATA, reason="cut off"), Accepted)
    [account] = cluster.state.llm.accounts.values()
    assert (account.billed, account.reserved) == (billed, Amount())
    assert len(cluster.state.llm.doubtful) == doubtful
    assert code(settle(cluster)) == "LLM_CALL_STALE", "an answer that comes after the verdict is not believed"
    assert cluster.state.steps.get(T1) is None


def test_a_task_that_ends_leaves_no_open_call(cluster: CoreCluster) -> None:
    limit(cluster, tokens=1_000)
    cluster.running()
    begin(cluster)
    begin(cluster, key="second")
    settle(cluster, key="second", verdict=LlmVerdict.FAILED, result=NO_DATA)
    cluster.do(FinishTask(T1, cluster.task().attempt, NO_DATA))
    assert cluster.state.llm.calls == {}
    [account] = cluster.state.llm.accounts.values()
    assert (account.reserved, account.billed) == (Amount(), Amount(100, 50, 2))
    [doubt] = cluster.state.llm.doubtful.values()
    assert (doubt.key, doubt.tokens, doubt.reason) == ("llm", 100, "its task ended")


def test_a_step_that_its_task_has_no_room_for_is_billed_all_the_same(cluster: CoreCluster) -> None:
    limit(cluster, tokens=1_000)
    cluster.running()
    begin(cluster)
    too_large = Data(b"x" * (cluster.state.meta.policy.task_bytes_max + 1))
    assert code(settle(cluster, result=too_large)) == "TASK_TOO_LARGE"
    [account] = cluster.state.llm.accounts.values()
    assert account.billed == Amount(15, 7, 1)
    assert cluster.state.llm.calls == {}


# --- budgets


def test_nothing_begins_that_could_cost_more_than_is_left(cluster: CoreCluster) -> None:
    limit(cluster, tokens=250, window_ms=DAY_MS)
    cluster.running()
    assert isinstance(begin(cluster), Accepted)
    assert isinstance(begin(cluster, key="b"), Accepted)
    refused = begin(cluster, key="c")
    assert code(refused) == "BUDGET_WAIT", "only what is set aside stands in the way"
    assert isinstance(refused, Rejected) and refused.retry_at_ms < cluster.now_ms + 1_000
    settle(cluster, tokens_in=90, tokens_out=10)
    settle(cluster, key="b", tokens_in=90, tokens_out=10)
    refused = begin(cluster, key="c")
    assert isinstance(refused, Rejected) and refused.retry_at_ms == DAY_MS, "at midnight, UTC"
    cluster.now_ms = DAY_MS
    assert isinstance(begin(cluster, key="c"), Accepted)


def test_a_call_larger_than_the_budget_never_waits_for_it(cluster: CoreCluster) -> None:
    limit(cluster, micro_usd=49, window_ms=DAY_MS)
    cluster.running()
    assert code(begin(cluster)) == "BUDGET_EXHAUSTED"


def test_a_budget_may_say_that_nobody_waits(cluster: CoreCluster) -> None:
    limit(cluster, requests=1, on_exhausted=OnExhausted.FAIL)
    cluster.running()
    begin(cluster)
    refused = begin(cluster, key="b")
    assert code(refused) == "BUDGET_EXHAUSTED"
    assert (
        isinstance(refused, Rejected)
        and "budget b: 0 of 1 requests are spent and 1 set aside" in refused.reason
    )


@pytest.mark.parametrize(
    ("scope", "other", "counts"),
    [
        ({"tenant": "default"}, {}, True),
        ({"tenant": "acme"}, {}, False),
        ({"tenant": "*"}, {"tenant": "acme"}, False),
        ({"agent": "a1"}, {"agent": "a1"}, True),
        ({"agent": "*"}, {"agent": "a2"}, False),
        ({"session": "s1"}, {"constraints": Constraints(session="s1")}, True),
        ({"session": "*"}, {"constraints": Constraints(session="s2")}, False),
        ({"task": "*"}, {"parent_id": T1}, True),
        ({"task": "*"}, {}, False),
        ({"task": "t1"}, {"parent_id": T1}, True),
    ],
)
def test_who_shares_a_budget(
    cluster: CoreCluster, scope: dict[str, str], other: dict[str, Any], counts: bool
) -> None:
    """t1 has spent what there is; may t2 still begin?"""
    limit(cluster, requests=1, on_exhausted=OnExhausted.FAIL, **scope)
    cluster.running(agent="a1", constraints=Constraints(session="s1"))
    begin(cluster)
    cluster.running("t2", **other)
    assert isinstance(begin(cluster, "t2"), Rejected) is counts


def test_a_reservation_of_a_window_that_has_passed_counts_there(cluster: CoreCluster) -> None:
    limit(cluster, requests=1, window_ms=100)
    cluster.running()
    begin(cluster)
    cluster.now_ms += 100
    assert isinstance(begin(cluster, key="b"), Accepted)
    settle(cluster)
    [account] = cluster.state.llm.accounts.values()
    assert (account.billed, account.reserved.requests) == (Amount(), 1)


@pytest.mark.parametrize(
    "budget",
    [
        LlmBudget("", tokens=1),
        LlmBudget("b"),
        LlmBudget("b", tokens=-1, requests=1),
        LlmBudget("b", tokens=1, window_ms=-1),
    ],
)
def test_a_budget_that_says_nothing_is_refused(cluster: CoreCluster, budget: LlmBudget) -> None:
    assert code(cluster.do(SetLlmBudget(budget))) == "BAD_BUDGET"


def test_a_budget_that_is_gone_counts_nothing(cluster: CoreCluster) -> None:
    assert code(cluster.do(DeleteLlmBudget("b"))) == "BUDGET_NOT_FOUND"
    limit(cluster, requests=1)
    cluster.running()
    begin(cluster)
    cluster.do(DeleteLlmBudget("b"))
    assert isinstance(begin(cluster, key="b"), Accepted)
    assert cluster.state.llm.accounts == {}
    settle(cluster)


# --- equal requests


def test_equal_requests_share_one_call_and_its_answer(cluster: CoreCluster) -> None:
    cluster.running()
    cluster.running("t2")
    begin(cluster, cache_key="k")
    assert code(begin(cluster, "t2", cache_key="k")) == "LLM_IN_FLIGHT"
    assert isinstance(begin(cluster, "t2", cache_key="k", alone=True), Accepted), "whoever has waited enough"
    settle(cluster, cache_ttl_ms=1_000)
    assert cluster.state.llm.cache["k"].result == ANSWER
    cluster.running("t3")
    assert code(begin(cluster, "t3", cache_key="k")) == "LLM_ANSWER_KEPT", "its node has not heard of it yet"
    settle(cluster, "t2", verdict=LlmVerdict.FAILED, result=NO_DATA)
    assert cluster.state.llm.flights == {}
    cluster.now_ms += 1_000
    assert isinstance(begin(cluster, "t3", cache_key="k"), Accepted), "it is too old by now"


def test_kept_answers_leave_with_time(cluster: CoreCluster) -> None:
    cluster.running()
    for number in range(3):
        begin(cluster, key=f"s{number}", cache_key=f"k{number}")
        settle(cluster, key=f"s{number}", cache_ttl_ms=10)
        cluster.now_ms += 6
    assert list(cluster.state.llm.cache) == ["k1", "k2"]
    kept = sum(len(answer.result.inline) for answer in cluster.state.llm.cache.values())
    assert cluster.state.llm.cache_bytes == kept


def test_a_kept_answer_that_proved_to_be_bad_is_forgotten_by_who_got_it(cluster: CoreCluster) -> None:
    attempt = cluster.running().attempt
    for name in ("a", "b"):
        begin(cluster, key=name, cache_key=name)
        settle(cluster, key=name, cache_ttl_ms=1_000)
    assert code(cluster.do(ForgetLlmAnswers(T1, attempt - 1, ("a",)))) == "FENCED"
    for _ in range(2):
        assert cluster.do(ForgetLlmAnswers(T1, attempt, ("a", "unknown"))) == Accepted(T1)
    assert list(cluster.state.llm.cache) == ["b"] and cluster.state.llm.cache_bytes == len(ANSWER.inline)


def test_the_copy_of_a_state_stays_as_it_is(cluster: CoreCluster) -> None:
    cluster.running()
    begin(cluster)
    image = cluster.state.copy()
    before = replace(call_of(cluster))
    settle(cluster)
    assert image.llm.calls == {T1: (before,)}
