"""A goal over the real handler, the real calls and the real state machine: only processes, sockets and the
model are left out. The tasks of its run end when it would be suspended."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from coterie.core.agentbook import AgentRevision, ApplyAgent
from coterie.core.commands import RecordStep
from coterie.core.llm.nouns import CachedAnswer
from coterie.core.nouns import Data, TaskId, TaskState
from coterie.core.transitions import TERMINAL
from coterie.node.agents.definition import read_definition
from coterie.node.agents.files import pack, revision_of
from coterie.node.config.goal_settings import GoalSettings
from coterie.node.config.settings import NodeSettings
from coterie.node.goals.calls import GoalCalls
from coterie.node.reads import Found, Reader
from coterie.node.skill_calls import Run
from coterie.skills import SkillContext
from coterie.skills.goal.handler import run
from coterie.skills.goal.request import Ask
from tests.core.builders import register_command
from tests.node.family_bench import FamilyBench

SKILLS = ("add-up", "agent", "echo", "goal", "llm")
Says = Callable[[str, list[dict[str, Any]]], Any]  # what a model says: by the step, and the messages


@dataclass
class Settings:
    """The part of a node's settings that goals need."""

    goals: GoalSettings


@dataclass
class Model:
    """A language model. Each answer is a recorded step; `asked` has what it was asked, once for each call."""

    says: Says
    asked: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)
    cached: set[str] = field(default_factory=set)  # the steps whose answers were kept from before

    async def call(self, run: Run, args: Any) -> dict[str, Any]:
        said = self.says(args["key"], args["messages"])
        self.asked.append((args["key"], args["messages"]))
        self.options.append({name: value for name, value in args.items() if name not in ("key", "messages")})
        text = said if isinstance(said, str) else json.dumps(said)
        usage = {"tokens_in": 10, "tokens_out": 2, "tokens_cached": 0, "micro_usd": 1, "estimated": False}
        record: dict[str, Any] = {
            "text": text,
            "tool_calls": [],
            "finish_reason": "stop",
            "model": "m",
            "provider": "p",
        }
        record |= {"usage": usage, "cached": args["key"] in self.cached}
        if args.get("cache_ttl_ms"):
            kept = CachedAnswer(f"key of {args['key']}", Data(b"{}"), 1 << 50)
            run.state.llm.cache[kept.key] = kept
            record["kept_as"] = kept.key
        await run.commit_own(
            RecordStep(run.task_id, run.attempt, args["key"], Data(json.dumps(record).encode()))
        )
        return record


@dataclass
class History:
    """What a node's reader finds of runs that have ended."""

    bench: FamilyBench
    before: dict[TaskId, Found] = field(default_factory=dict)  # ended long ago, and forgotten by the state

    async def in_history(self, task_id: TaskId) -> bool:
        ended = (one.task.task_id for one in self.bench.core.events if one.task.state in TERMINAL)
        return task_id in self.before or task_id in ended

    async def get(self, task_id: TaskId, timeout_s: float) -> Found:
        if task_id in self.before:
            return self.before[task_id]
        events = [one for one in self.bench.core.events if one.task.task_id == task_id]
        end = next(one for one in events if one.task.state in TERMINAL)
        return Found(end.task, end.steps)


class GoalBench(FamilyBench):
    """`child(type, payload)` is what a task of the run does."""

    def __init__(self, says: Says = lambda step, messages: "", child: Any = None, **goals: Any) -> None:
        self.model = Model(says)
        settings = cast(NodeSettings, Settings(GoalSettings(**{"skills": ("*", "echo"), **goals})))
        self.history = History(self)
        self.calls = GoalCalls(lambda: settings, dict, cast(Reader, self.history))
        handlers = {**self.calls.handlers(), "llm.call": self.model.call}
        super().__init__(child or (lambda kind, payload: payload), handlers)
        from coterie.core.nouns import SkillRef

        skills = tuple(SkillRef(name, "1") for name in SKILLS)
        self.core.do(register_command("n1", 2, capacity=1_000, skills=skills))
        if self.core.task("p").state is not TaskState.RUNNING:
            self.core.assign("p")

    def with_agent(self, agent_id: str, *can: str, **more: Any) -> GoalBench:
        files = {
            "config.yaml": yaml.safe_dump({"agent": {"id": agent_id, "capabilities": list(can), **more}})
        }
        bundle = pack(files)
        revision = AgentRevision(revision_of(bundle), "1", Data(bundle))
        domains = read_definition(files).domains
        self.core.do(ApplyAgent(agent_id, revision, agent_id, (), domains))
        return self

    async def goal(self, **asked: Any) -> dict[str, Any]:
        """Until it has its answer, over as many attempts as it takes."""

        async def program(ctx: SkillContext) -> Any:
            return await run(ctx, Ask(**asked))

        result: dict[str, Any] = await self.run(program)
        return result

    def end_children(self) -> None:
        """Every task of the run, as they become ready."""
        while queued := [
            one
            for one in self.core.state.tasks.values()
            if one.state is TaskState.PENDING and one.task_id != "p"
        ]:
            for task in queued:
                self.end(task)
