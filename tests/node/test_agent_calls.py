"""What the agent loop and its tools are told of the agent: by the revision that the run is pinned to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from coterie.core.agentbook import AgentRevision, ApplyAgent, RemoveAgent, RollBackAgent
from coterie.core.commands import AssignTask, Command, FinishTask, Outcome, SpawnChild
from coterie.core.families import child_id
from coterie.core.nouns import Data, NodeId, Task, TaskId
from coterie.core.state import ClusterState
from coterie.node.agents.calls import AgentCalls
from coterie.node.agents.files import pack, revision_of
from coterie.node.errors import ApiError
from coterie.node.skillhost import SkillInfo
from coterie.skills.agent.plan import GONE
from tests.core.builders import CoreCluster, register_command, submit_command

RUN, TOOL = TaskId("run"), TaskId(child_id("run", "t1.0"))


@dataclass
class Attempt:
    """An attempt on a core of its own, whose log answers at once."""

    core: CoreCluster
    task_id: TaskId
    attempt: int = 1

    @property
    def task(self) -> Task:
        return self.core.task(self.task_id)

    @property
    def state(self) -> ClusterState:
        return self.core.state

    async def commit_own(self, command: Command) -> Outcome:
        return self.core.do(command)

    async def load(self, data: Data) -> bytes:
        return data.inline


def apply(core: CoreCluster, percent: int = 100, **permissions: Any) -> str:
    """Make an agent with those permissions live; returns the revision."""
    files = {"config.yaml": yaml.safe_dump({"id": "a", "permissions": permissions})}
    bundle = pack(files)
    revision = AgentRevision(revision_of(bundle), "", Data(bundle))
    core.do(ApplyAgent("a", revision, percent=percent))
    return revision.revision


@pytest.fixture
def core() -> CoreCluster:
    """A run of agent `a` that has begun, and a tool of it."""
    core = CoreCluster()
    core.do(register_command())
    core.do(submit_command(RUN, type="agent", agent="a"))
    core.do(AssignTask(RUN, NodeId("n1"), 1, 1))
    tool = submit_command(TOOL, type="echo", agent="a", parent_id=RUN)
    core.do(SpawnChild(1, "g", 0, tool))
    return core


CALLS = AgentCalls(dict, lambda provider, name: name, {})


async def may(core: CoreCluster, task_id: TaskId) -> tuple[str, ...]:
    found = await AgentCalls(dict, CALLS.model, {}).permissions(Attempt(core, task_id), {})  # type: ignore[arg-type]
    assert found is not None
    paths: tuple[str, ...] = found["paths"]
    return paths


async def chosen(core: CoreCluster, task_id: TaskId, attempt: int = 1) -> str:
    found = await CALLS.choose(Attempt(core, task_id, attempt), {})  # type: ignore[arg-type]
    return found["revision"]


async def test_a_run_and_its_tools_keep_the_permissions_they_began_with(core: CoreCluster) -> None:
    old = apply(core, file_access=True, paths=["/old"])
    assert await chosen(core, RUN) == old
    new = apply(core, file_access=True, paths=["/new"])
    assert core.state.agents["a"].live == new != old
    assert await may(core, RUN) == ("/old",)
    assert await may(core, TOOL) == ("/old",)
    other = TaskId("other")
    core.do(submit_command(other, type="echo", agent="a"))
    assert await may(core, other) == ("/new",), "a task of nobody's run has what is live"


async def test_a_canary_has_its_own_permissions_and_a_rollback_takes_none_away(core: CoreCluster) -> None:
    apply(core, file_access=True, paths=["/live"])
    canary = apply(core, 99, file_access=True, paths=["/canary"])
    assert await chosen(core, RUN) == canary, "this run is one of the 99 percent"
    core.do(RollBackAgent("a"))
    assert await may(core, TOOL) == ("/canary",)


async def test_the_first_choice_stands_in_every_later_attempt(core: CoreCluster) -> None:
    old = apply(core)
    assert await chosen(core, RUN) == old
    apply(core, gpu_access=True)
    assert await chosen(core, RUN) == old
    core.do(FinishTask(RUN, 1, Data(b"{}")))
    assert not core.state.agent_runs, "what has ended is pinned to nothing"


async def test_a_tool_cannot_choose_for_its_run(core: CoreCluster) -> None:
    apply(core)
    core.do(AssignTask(TOOL, NodeId("n1"), 1, 1))
    with pytest.raises(ApiError) as refused:
        await chosen(core, TOOL)
    assert refused.value.reason == "NO_AGENT" and not core.state.agent_runs


async def test_a_colleague_has_its_own_permissions(core: CoreCluster) -> None:
    apply(core, file_access=True, paths=["/mine"])
    await chosen(core, RUN)
    files = {"config.yaml": yaml.safe_dump({"id": "b", "permissions": {"gpu_access": True}})}
    bundle = pack(files)
    core.do(ApplyAgent("b", AgentRevision(revision_of(bundle), "", Data(bundle))))
    colleague = TaskId(child_id("run", "t2.0"))
    core.do(SpawnChild(1, "g", 1, replace(submit_command(colleague, type="agent", agent="b"), parent_id=RUN)))
    found = await CALLS.permissions(Attempt(core, colleague), {})  # type: ignore[arg-type]
    assert found is not None and found["gpu_access"] and found["paths"] == ()


async def test_who_works_for_an_agent_that_is_gone_may_touch_nothing(core: CoreCluster) -> None:
    apply(core, file_access=True, paths=["/old"])
    core.do(RemoveAgent("a"))
    with pytest.raises(ApiError, match="no agent of the cluster has this name"):
        await may(core, TOOL)


async def test_the_tools_of_a_run_stay_also_where_nobody_knows_them_any_more(core: CoreCluster) -> None:
    bound = [{"skill_id": "shared/find", "timeout": "3s"}, {"skill_id": "new"}]
    bundle = pack({"config.yaml": yaml.safe_dump({"id": "a", "skills": bound})})
    revision = revision_of(bundle)
    core.do(ApplyAgent("a", AgentRevision(revision, "", Data(bundle))))

    async def tools(known: dict[str, SkillInfo], **args: Any) -> list[tuple[Any, ...]]:
        calls = AgentCalls(lambda: known, CALLS.model, {})
        told = await calls.load(Attempt(core, RUN), {"revision": revision, **args})  # type: ignore[arg-type]
        return [(one["name"], one["skill"], one["options"], one["description"]) for one in told["tools"]]

    find, new = (SkillInfo(name, "1", f"{name}s things", 0, "none") for name in ("find", "new"))
    first = await tools({"find": find})
    assert first == [("shared_find", "find", {"timeout": 3.0}, "finds things")]
    elsewhere = await tools({"new": new, "shared/find": find}, tools=["find"])
    assert elsewhere == [("shared_find", "find", {"timeout": 3.0}, GONE)]
