"""Every table of the state has a limit: beyond it, new names are refused or the oldest leave, and known names
go on."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core import access_rules, agent_rules, fairness, limit_rules, skill_rules
from coterie.core.access import User
from coterie.core.access_commands import SetUser
from coterie.core.agentbook import AgentRevision, ApplyAgent
from coterie.core.commands import (
    Accepted,
    AskApproval,
    CancelTask,
    Command,
    FinishTask,
    RecordStep,
    Rejected,
    SetLimit,
    SetTenant,
    SignalTask,
    StartTask,
)
from coterie.core.decisions import approval_rules
from coterie.core.decisions.nouns import approval_id
from coterie.core.llm import accounts, doubts
from coterie.core.llm import rules as llm_rules
from coterie.core.llm.commands import BeginLlmCall, SetLlmBudget, SettleLlmCall
from coterie.core.llm.nouns import LlmBudget, LlmVerdict
from coterie.core.meters import LeaseTokens
from coterie.core.nouns import Data, TaskId
from coterie.core.quotas import Limit, Tenant
from coterie.core.skill_commands import PublishSkill, SetSkillPolicy
from coterie.core.skillbook import MANIFEST_CHARS_MAX, SkillPolicy, SkillRevision
from tests.core.builders import CoreCluster, submit_command


def agent(name: str, number: int) -> ApplyAgent:
    return ApplyAgent(name, AgentRevision(f"{number:064x}", "", Data(b"{}")))


def lease(key: str) -> LeaseTokens:
    return LeaseTokens("per-key", "lease-" + key, 1, 1, "default", "", "echo", key)


FULL: list[tuple[Any, str, list[Command], Command, Command, str]] = [
    (
        access_rules,
        "USERS_MAX",
        [],
        SetUser(User("ann", "t", ("viewer",))),
        SetUser(User("bob", "t", ("viewer",))),
        "TOO_MANY_USERS",
    ),
    (agent_rules, "AGENTS_MAX", [], agent("a", 1), agent("b", 1), "TOO_MANY_AGENTS"),
    (
        limit_rules,
        "TENANTS_MAX",
        [],
        SetTenant(Tenant("acme")),
        SetTenant(Tenant("other")),
        "TOO_MANY_TENANTS",
    ),
    (
        limit_rules,
        "METERS_MAX",
        [SetLimit(Limit("per-key", key="*", rate_count=9, rate_period_ms=60_000, calls=True))],
        lease("k1"),
        lease("k2"),
        "TOO_MANY_LIMITS",
    ),
    (
        llm_rules,
        "BUDGETS_MAX",
        [],
        SetLlmBudget(LlmBudget("b1", tokens=5)),
        SetLlmBudget(LlmBudget("b2", tokens=5)),
        "TOO_MANY_BUDGETS",
    ),
    (
        skill_rules,
        "SKILLS_MAX",
        [],
        PublishSkill("s1", SkillRevision("a" * 64)),
        PublishSkill("s2", SkillRevision("b" * 64)),
        "TOO_MANY_SKILLS",
    ),
    (
        skill_rules,
        "SKILLS_MAX",
        [],
        SetSkillPolicy("s1", SkillPolicy("one")),
        SetSkillPolicy("s2", SkillPolicy("two")),
        "TOO_MANY_SKILLS",
    ),
]


@pytest.mark.parametrize(
    ("where", "name", "before", "known", "more", "code"), FULL, ids=[f"{one[1]}-{one[5]}" for one in FULL]
)
def test_a_full_table_refuses_a_new_name(
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    before: list[Command],
    known: Command,
    more: Command,
    code: str,
) -> None:
    core = CoreCluster()
    for command in [*before, known]:
        assert isinstance(core.do(command), Accepted)
    monkeypatch.setattr(where, name, 1)
    refused = core.do(more)
    assert isinstance(refused, Rejected) and refused.code == code
    assert isinstance(core.do(known), Accepted), "what is known may change"
    monkeypatch.undo()
    assert isinstance(core.do(more), Accepted), "only the limit was in the way"


def test_a_task_asks_for_so_many_approvals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval_rules, "APPROVALS_MAX", 1)
    core = CoreCluster().with_node()
    task = core.running()
    asks = [
        AskApproval(task.task_id, task.attempt, approval_id(task.task_id, n), "may I?", "c", needed=1)
        for n in (1, 2)
    ]
    assert isinstance(core.do(asks[0]), Accepted)
    refused = core.do(asks[1])
    assert isinstance(refused, Rejected) and refused.code == "TOO_MANY_APPROVALS"


def begin(core: CoreCluster, key: str, number: int = 1) -> Any:
    return core.do(
        BeginLlmCall(TaskId("t1"), core.task().attempt, key, number, "main", "m", "h", 3, 100, "", False)
    )


def test_budgets_have_so_many_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    core = CoreCluster().with_node()
    core.running()
    core.do(SetLlmBudget(LlmBudget("each", tokens=100, task="*")))
    monkeypatch.setattr(accounts, "ACCOUNTS_MAX", 0)
    refused = begin(core, "s1")
    assert isinstance(refused, Rejected) and refused.code == "TOO_MANY_ACCOUNTS"
    monkeypatch.undo()
    assert isinstance(begin(core, "s1"), Accepted)


def test_what_is_used_beyond_the_table_is_summed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "USAGES_MAX", 0)
    core = CoreCluster().with_node()
    core.running()
    begin(core, "s1")
    settle = SettleLlmCall(
        TaskId("t1"), core.task().attempt, "s1", 1, LlmVerdict.DONE, Data(b"r"), 4, 5, 0, 7, 0
    )
    assert isinstance(core.do(settle), Accepted)
    (usage,) = core.state.llm.usage.values()
    assert usage.tenant == doubts.OTHERS


def served(core: CoreCluster, task_id: str, tenant: str, took_ms: int = 10) -> None:
    core.do(submit_command(task_id, tenant=tenant))
    core.assign(task_id)
    core.do(StartTask(TaskId(task_id), 1))
    core.now_ms += took_ms
    core.do(FinishTask(TaskId(task_id), 1, Data(b"")))


def test_tenants_that_say_nothing_any_more_leave_the_table_of_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "SHARES_MAX", 3)
    core = CoreCluster().with_node()
    for number in range(2):
        served(core, f"t{number}", f"tenant-{number}")
    for number in range(2):  # the cluster's virtual time moves on, beyond the window
        served(core, f"long{number}", "busy", took_ms=2 * fairness.WINDOW_MS)
    assert list(core.state.shares) == ["tenant-0", "tenant-1", "busy"]
    served(core, "t9", "tenant-9")
    assert list(core.state.shares) == ["busy", "tenant-9"]


@pytest.mark.parametrize(
    "command",
    [
        PublishSkill("s", SkillRevision("")),
        PublishSkill("s", SkillRevision("a" * 64, manifest="x" * (MANIFEST_CHARS_MAX + 1))),
        SetSkillPolicy("s", SkillPolicy(cpus=-1)),
        SetSkillPolicy("s", SkillPolicy(timeout_ms=-1)),
        BeginLlmCall(TaskId("t1"), 1, "s1", 1, "main", "m", "h", -1, 100, "", False),
    ],
    ids=["no revision", "long manifest", "cpus", "timeout_ms", "tokens"],
)
def test_what_is_out_of_range_is_refused(command: Command) -> None:
    core = CoreCluster().with_node()
    core.running()
    refused = core.do(command)
    assert isinstance(refused, Rejected) and refused.code in ("BAD_SKILL", "BAD_LLM_CALL")


def test_a_signal_for_a_task_that_is_being_cancelled_is_refused() -> None:
    core = CoreCluster().with_node()
    core.running()
    core.do(CancelTask(TaskId("t1"), "enough"))
    refused = core.do(SignalTask(TaskId("t1"), "go"))
    assert isinstance(refused, Rejected) and refused.code == "CANCELLED"


def test_steps_are_read_by_place_and_by_slice() -> None:
    core = CoreCluster().with_node()
    task = core.running()
    for key in ("a", "b", "c"):
        core.do(RecordStep(task.task_id, task.attempt, key, Data(b"")))
    steps = core.state.steps[task.task_id]
    assert [step.key for step in steps[1:]] == ["b", "c"]
    assert (steps[0].key, steps[-1].key) == ("a", "c")
    with pytest.raises(IndexError):
        steps[3]


def test_a_canary_of_what_is_live_changes_nothing() -> None:
    core = CoreCluster()
    core.do(agent("a", 1))
    before = core.state.agents["a"]
    core.do(ApplyAgent("a", AgentRevision(f"{1:064x}", "", Data(b"{}")), percent=10))
    assert core.state.agents["a"] == before
