"""Accounts of budgets: what they forget, and what a budget leaves behind that is no more."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.commands import Accepted, FinishTask, Outcome, Rejected
from coterie.core.llm import accounts
from coterie.core.llm.commands import DeleteLlmBudget, SetLlmBudget
from coterie.core.llm.nouns import NOTHING, LlmBudget, LlmVerdict, OnExhausted
from coterie.core.nouns import NO_DATA, Constraints, TaskId
from tests.core.builders import CoreCluster
from tests.core.llm_calls import begin, settle

HOUR_MS = 3_600_000


@pytest.fixture
def cluster() -> CoreCluster:
    return CoreCluster().with_node("n1", capacity=10_000)


def limit(cluster: CoreCluster, **fields: Any) -> None:
    budget = LlmBudget("b", **{"on_exhausted": OnExhausted.FAIL, **fields})
    assert isinstance(cluster.do(SetLlmBudget(budget)), Accepted)


def chat(cluster: CoreCluster, number: int) -> Outcome:
    """A session of its own asks once, and is over where it was answered."""
    task_id = f"t{number}"
    cluster.running(task_id, constraints=Constraints(session=f"s{number}"))
    begun = begin(cluster, task_id)
    if isinstance(begun, Accepted):
        settle(cluster, task_id)
        cluster.do(FinishTask(TaskId(task_id), 1, NO_DATA))
    return begun


def test_accounts_of_windows_that_have_passed_make_room(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "ACCOUNTS_MAX", 50)
    limit(cluster, session="*", tokens=1_000, window_ms=HOUR_MS)
    for number in range(120):
        cluster.now_ms += HOUR_MS // 20  # twenty new ones in each window
        assert isinstance(chat(cluster, number), Accepted), number
    assert len(cluster.state.llm.accounts) <= 50


def test_accounts_of_this_window_are_kept_and_so_are_those_with_something_set_aside(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "ACCOUNTS_MAX", 3)
    limit(cluster, session="*", tokens=1_000, window_ms=HOUR_MS)
    cluster.running("open", constraints=Constraints(session="s"))
    begin(cluster, "open")
    cluster.now_ms = HOUR_MS
    assert isinstance(chat(cluster, 1), Accepted) and isinstance(chat(cluster, 2), Accepted)
    refused = chat(cluster, 3)
    assert isinstance(refused, Rejected) and refused.code == "TOO_MANY_ACCOUNTS"
    assert set(cluster.state.llm.accounts) == {"b\0s", "b\0s1", "b\0s2"}
    settle(cluster, "open")
    assert isinstance(chat(cluster, 4), Accepted), "what was set aside is settled"


def test_a_crowded_table_looks_at_so_many_accounts_and_no_more(
    cluster: CoreCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those at the front are in use; behind them lies what may go. Each refusal comes nearer to it."""
    monkeypatch.setattr(accounts, "ACCOUNTS_MAX", 6)
    monkeypatch.setattr(accounts, "SWEEP_CROWDED", 2)
    limit(cluster, session="*", tokens=1_000, window_ms=HOUR_MS)
    for number in range(4):
        cluster.running(f"open{number}", constraints=Constraints(session=f"o{number}"))
        begin(cluster, f"open{number}")
    chat(cluster, 0)
    chat(cluster, 1)
    for name in ("b\0s0", "b\0s1"):
        cluster.state.llm.accounts.move_to_end(name)
    cluster.now_ms = HOUR_MS
    answers = [chat(cluster, number) for number in range(2, 5)]
    assert [isinstance(answer, Accepted) for answer in answers] == [False, False, True]


def test_a_budget_that_was_deleted_and_set_again_gets_nothing_back_of_what_it_never_gave(
    cluster: CoreCluster,
) -> None:
    limit(cluster, tokens=1_000)
    cluster.running("a")
    cluster.running("d")
    assert isinstance(begin(cluster, "a", tokens=900), Accepted)
    cluster.do(DeleteLlmBudget("b"))
    limit(cluster, tokens=1_000)
    assert isinstance(begin(cluster, "d", tokens=500), Accepted)
    assert isinstance(settle(cluster, "a", verdict=LlmVerdict.UNSENT, result=NO_DATA), Accepted)
    [account] = cluster.state.llm.accounts.values()
    assert account.reserved.tokens == 500
    assert isinstance(begin(cluster, "a", key="more", tokens=900), Rejected)


def test_a_budget_that_is_gone_leaves_the_others_their_part_of_an_open_call(cluster: CoreCluster) -> None:
    limit(cluster, tokens=1_000)
    cluster.do(SetLlmBudget(LlmBudget("other", tokens=1_000)))
    cluster.running("a")
    begin(cluster, "a", tokens=900)
    limit(cluster, tokens=1_000, tenant="*")  # it counts something else now
    [account] = cluster.state.llm.accounts.values()
    assert (account.name, account.reserved.tokens) == ("other\0", 900)
    settle(cluster, "a", tokens_in=10, tokens_out=5)
    [account] = cluster.state.llm.accounts.values()
    assert (account.billed.tokens, account.reserved) == (15, NOTHING)
