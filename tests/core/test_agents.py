"""Agents in the state: applied, on trial, rolled back, and which revision a run gets."""

from __future__ import annotations

import pytest

from coterie.core.agentbook import (
    REVISIONS_MAX,
    AgentEntry,
    AgentRevision,
    ApplyAgent,
    PinAgentRun,
    RemoveAgent,
    RollBackAgent,
    choose,
    find_agent,
)
from coterie.core.canonical import state_hash
from coterie.core.commands import Accepted, Rejected
from coterie.core.nouns import Data, RetryPolicy, TaskId
from coterie.raft.codec import decode_state, encode_state
from tests.core.builders import CoreCluster, submit_command


def revision(number: int, version: str = "") -> AgentRevision:
    return AgentRevision(f"{number:064x}", version, Data(b"{}"))


def applied(*numbers: int, percent: int = 100) -> CoreCluster:
    core = CoreCluster()
    for number in numbers:
        assert core.do(ApplyAgent("a", revision(number))) == Accepted()
    return core


def entry(core: CoreCluster) -> AgentEntry:
    return core.state.agents["a"]


def test_what_is_applied_last_is_what_new_runs_get() -> None:
    core = applied(1, 2)
    assert choose(entry(core), "run-1") == entry(core).find(revision(2).revision)
    assert entry(core).previous == revision(1).revision
    assert core.do(ApplyAgent("a", revision(2))) == Accepted(duplicate=True)
    assert entry(core).previous == revision(1).revision, "applying it again forgets nothing"


def test_a_canary_gets_its_share_of_runs_and_always_the_same_ones() -> None:
    core = applied(1)
    core.do(ApplyAgent("a", revision(2), percent=10))
    runs = [f"run-{number}" for number in range(2_000)]
    got = [run for run in runs if choose(entry(core), run) == entry(core).revisions[1]]
    assert 140 <= len(got) <= 260
    assert got == [run for run in runs if choose(entry(core), run) == entry(core).revisions[1]]
    core.do(ApplyAgent("a", revision(2)))
    assert (entry(core).live, entry(core).canary) == (revision(2).revision, "")


def test_a_rollback_ends_the_canary_first_and_then_goes_back_and_forth() -> None:
    core = applied(1, 2)
    core.do(ApplyAgent("a", revision(3), percent=50))
    assert core.do(RollBackAgent("a")) == Accepted()
    assert (entry(core).live, entry(core).canary) == (revision(2).revision, "")
    core.do(RollBackAgent("a"))
    assert (entry(core).live, entry(core).previous) == (revision(1).revision, revision(2).revision)
    assert applied(1).do(RollBackAgent("a")) == Rejected(
        "NOTHING_BEFORE", "agent a has had no other revision"
    )
    assert isinstance(core.do(RollBackAgent("b")), Rejected)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (ApplyAgent("a b", revision(1)), "BAD_AGENT"),
        (ApplyAgent("b", AgentRevision("abc")), "BAD_AGENT"),
        (ApplyAgent("b", revision(1), percent=0), "BAD_AGENT"),
        (ApplyAgent("b", revision(1), aliases=("x y",)), "BAD_AGENT"),
        (ApplyAgent("b", revision(1), percent=5), "NOTHING_LIVE"),
        (ApplyAgent("b", revision(1), aliases=("a",)), "AGENT_EXISTS"),
        (ApplyAgent("other", revision(1)), "AGENT_EXISTS"),
    ],
)
def test_what_cannot_be_applied_is_refused_and_changes_nothing(command: ApplyAgent, code: str) -> None:
    core = applied(1)
    core.do(ApplyAgent("a", revision(1), aliases=("other",)))
    before = dict(core.state.agents)
    refused = core.do(command)
    assert isinstance(refused, Rejected) and refused.code == code
    assert core.state.agents == before


def test_an_agent_answers_to_its_other_ids_until_it_is_removed() -> None:
    core = applied(1)
    core.do(ApplyAgent("a", revision(1), aliases=("agent-ai-001",)))
    assert find_agent(core.state.agents, "agent-ai-001") is entry(core)
    assert core.do(RemoveAgent("a")) == Accepted()
    assert find_agent(core.state.agents, "agent-ai-001") is None
    assert isinstance(core.do(RemoveAgent("a")), Rejected)


def run(core: CoreCluster, name: str, agent: str = "a", type_: str = "agent") -> TaskId:
    core.with_node("n1", capacity=9)
    core.do(submit_command(name, type=type_, agent=agent, retry=RetryPolicy(1)))
    assert isinstance(core.assign(name), Accepted)
    return TaskId(name)


def test_the_first_revision_that_a_run_chooses_is_the_one_it_has() -> None:
    core = applied(1, 2)
    one = run(core, "r1")
    assert core.do(PinAgentRun(one, 1, revision(1).revision)) == Accepted(one)
    assert core.do(PinAgentRun(one, 1, revision(2).revision)) == Accepted(one, duplicate=True)
    assert core.state.agent_runs[one].revision == revision(1).revision


@pytest.mark.parametrize(
    ("agent", "type_", "number", "attempt", "code"),
    [
        ("a", "echo", 1, 1, "NO_AGENT"),
        ("nobody", "agent", 1, 1, "NO_AGENT"),
        ("a", "agent", 9, 1, "REVISION_GONE"),
        ("a", "agent", 1, 2, "FENCED"),
    ],
)
def test_only_a_run_of_a_known_agent_is_bound_to_a_revision_that_is_there(
    agent: str, type_: str, number: int, attempt: int, code: str
) -> None:
    core = applied(1)
    refused = core.do(PinAgentRun(run(core, "r1", agent, type_), attempt, revision(number).revision))
    assert isinstance(refused, Rejected) and refused.code == code
    assert not core.state.agent_runs


def test_old_revisions_go_but_never_those_that_runs_still_get() -> None:
    core = applied(1)
    core.do(ApplyAgent("a", revision(2), percent=50))
    for number in range(10, 10 + REVISIONS_MAX):
        core.do(ApplyAgent("a", revision(number), percent=1))
    kept = {one.revision for one in entry(core).revisions}
    assert len(kept) == REVISIONS_MAX
    assert {entry(core).live, entry(core).canary} <= kept


def test_agents_survive_a_snapshot_byte_for_byte() -> None:
    core = applied(1, 2)
    core.do(ApplyAgent("a", revision(3), "Ann", ("x",), ("ml",), 50))
    again = decode_state(encode_state(core.state))
    assert again.agents == core.state.agents and state_hash(again) == state_hash(core.state)
