"""How busy agents are when they bid, and how well they have done: as the state has it."""

from __future__ import annotations

import asyncio

import pytest

from coterie.core.agentbook import AgentEntry, AgentRevision, ApplyAgent, find_agent
from coterie.core.commands import CancelTask, FailAttempt, FinishTask, PauseTask
from coterie.core.nouns import NO_DATA, Data, RetryPolicy, TaskError, TaskId
from coterie.node.agents.definition import Definition
from coterie.node.agents.files import pack
from coterie.node.goals.candidates import candidates
from tests.core.builders import CoreCluster, submit_command


async def unreadable(bundle: Data) -> bytes:
    raise OSError("not here")


async def test_the_files_of_many_agents_are_read_once_and_others_have_their_turn() -> None:
    core = CoreCluster().with_node("n1")
    for number in range(300):
        bundle = Data(pack({"config.yaml": f"id: a{number}"}))
        core.do(ApplyAgent(f"a{number}", AgentRevision(f"{number:064x}", "", bundle)))
    loads = turns = 0

    async def load(bundle: Data) -> bytes:
        nonlocal loads
        loads += 1
        return bundle.inline

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other, known = asyncio.create_task(others()), dict[str, Definition]()
    for _ in range(2):
        assert len(await candidates(core.state, load, known)) == 300
    other.cancel()
    assert loads == 300 and turns >= 300


async def test_names_of_agents_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    core = CoreCluster().with_node("n1", capacity=20)
    core.do(ApplyAgent("a", AgentRevision(f"{1:064x}", "", Data(b"{}")), aliases=("al",)))
    for number in range(20):
        core.do(submit_command(f"r{number}", type="agent", agent="al"))
        core.assign(f"r{number}")
        core.do(FinishTask(TaskId(f"r{number}"), 1, NO_DATA))
    asked: list[str] = []

    def find(agents: dict[str, AgentEntry], name: str) -> AgentEntry | None:
        asked.append(name)
        return find_agent(agents, name)

    monkeypatch.setattr("coterie.node.goals.candidates.find_agent", find)
    (a,) = await candidates(core.state, unreadable, {})
    assert a.succeeded == 20 and asked == ["al"]


async def test_runs_are_counted_under_all_names_of_an_agent_and_nothing_else_is() -> None:
    core = CoreCluster().with_node("n1", capacity=20)
    for name, aliases in (("a", ("al",)), ("b", ())):
        core.do(ApplyAgent(name, AgentRevision(f"{1:064x}", "", Data(b"{}")), aliases=aliases))
    runs = [("r1", "a"), ("r2", "al"), ("q1", "a"), ("p1", "al"), ("s1", "a"), ("f1", "al"), ("c1", "a")]
    for name, agent in [*runs, ("other", "b"), ("nobody", "unknown")]:
        core.do(submit_command(name, type="agent", agent=agent, retry=RetryPolicy(1)))
        if name[0] not in "qp":
            core.assign(name)
    core.do(submit_command("tool", agent="a"))
    core.do(PauseTask(TaskId("p1")))
    core.do(FinishTask(TaskId("s1"), 1, NO_DATA))
    core.do(FailAttempt(TaskId("f1"), 1, TaskError("NO", "no", retryable=False)))
    core.do(CancelTask(TaskId("c1")))
    core.do(FailAttempt(TaskId("c1"), 1, TaskError("NO", "no")))
    a, b = await candidates(core.state, unreadable, {})
    assert (a.running, a.queued, a.succeeded, a.failed) == (2, 2, 1, 1)
    assert (b.running, b.queued, b.succeeded, b.failed) == (1, 0, 0, 0)
