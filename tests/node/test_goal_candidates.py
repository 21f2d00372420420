"""How busy agents are when they bid, and how well they have done: as the state has it."""

from __future__ import annotations

from coterie.core.agentbook import AgentRevision, ApplyAgent
from coterie.core.commands import CancelTask, FailAttempt, FinishTask, PauseTask
from coterie.core.nouns import NO_DATA, Data, RetryPolicy, TaskError, TaskId
from coterie.node.goals.candidates import candidates
from tests.core.builders import CoreCluster, submit_command


async def unreadable(bundle: Data) -> bytes:
    raise OSError("not here")


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
