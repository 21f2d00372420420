"""From a request to a workflow without problems: intent, plan, at most one repair; each a recorded step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.skills import LlmAnswer, NonRetryable, SkillContext
from coterie.skills.goal import prompts
from coterie.skills.goal.request import Ask

SHOWN_MAX = 20
AGGREGATES = frozenset(prompts.plan_shape({"skills": [], "agents": []})["properties"]["aggregate"]["enum"])


class BadPlan(NonRetryable):
    """What was planned, or what a rule says, cannot be run."""

    code = "BAD_PLAN"


@dataclass(slots=True)
class Planned:
    """A workflow and how it came about; `told` goes into the result."""

    draft: Mapping[str, Any]
    aggregate: str = ""
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Planner:
    """The questions to models on behalf of one goal, and what they came to."""

    ctx: SkillContext
    begun: Mapping[str, Any]
    usage: dict[str, int] = field(default_factory=lambda: {"tokens_in": 0, "tokens_out": 0, "micro_usd": 0})

    async def ask(
        self, name: str, messages: prompts.Messages, shape: Any = None, *, keep: bool = True
    ) -> LlmAnswer:
        """`keep`: equal questions get the same answer for as long as the settings say."""
        begun = self.begun
        heat = begun["temperature"] if shape is not None else begun["answer_temperature"]
        options: dict[str, Any] = {"temperature": heat, "max_tokens": begun["max_tokens"]}
        if begun["model"]:
            options["model"] = begun["model"]
        if keep and begun["cache_ttl"]:
            options["cache_ttl"] = begun["cache_ttl"]
        answer = await self.ctx.llm(messages, name=name, schema=shape, **options)
        for key in self.usage:
            self.usage[key] += 0 if answer.cached else getattr(answer.usage, key)
        return answer

    async def plan(self, ask: Ask) -> Planned:
        """Raises BadPlan with everything that is wrong, when one repair has not mended it."""
        goal = self.begun["goal"]
        wanted = await self._intent(goal, ask.context)
        if wanted.get("simple") is True:
            task = {
                "id": "task_1",
                "description": ask.goal,
                "capabilities": _texts(wanted.get("capabilities")),
            }
            draft = await self._drafted("draft", {"tasks": [task]}, ask)
            check(draft)
            return Planned(draft, told={"intent": wanted, "plan": {"tasks": draft["tasks"]}, "cached": False})
        talk = prompts.plan(goal, ask.context, wanted, self.begun)
        shape = prompts.plan_shape(self.begun["catalogue"])
        said = await self.ask("decompose", talk, shape)
        plan, told = said.data, {"intent": wanted, "cached": said.cached}
        draft = await self._drafted("draft", plan, ask, counts=True, cached=said.cached)
        if draft["problems"]:
            await forget(self.ctx)
        if draft["problems"] and said.cached:
            said = await self.ask("decompose-anew", talk, shape, keep=False)
            plan, told["cached"] = said.data, False
            draft = await self._drafted("draft", plan, ask, counts=True, cached=False)
        if draft["problems"]:
            again = prompts.repair(talk, said.text, draft["problems"])
            mended = (await self.ask("repair", again, shape, keep=False)).data
            told["repair"] = {"problems": draft["problems"], "changes": changes(plan, mended)}
            plan, draft = mended, await self._drafted("draft", mended, ask)
            check(draft)
        aggregate = plan.get("aggregate") if isinstance(plan, dict) else None
        told["plan"] = {"tasks": draft["tasks"]}
        return Planned(draft, str(aggregate) if aggregate in AGGREGATES else "", told)

    async def mend(self, ask: Ask) -> Planned:
        """A workflow somebody wrote: a model may change its dependencies, and nothing else of it."""
        call = self.ctx._link.call
        draft = await self.ctx.step(
            "check", call, "goals.check", {"workflow": ask.workflow, "inputs": ask.inputs}
        )
        if not draft["problems"]:
            return Planned(draft, told={"plan": {"tasks": draft["tasks"]}})
        nodes = draft["native"].get("nodes") if isinstance(draft["native"], dict) else None
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            check(draft)
            raise BadPlan("the workflow has no list of nodes")
        said = await self.ask(
            "repair", prompts.edges(nodes, draft["problems"]), prompts.EDGES_SHAPE, keep=False
        )
        native, changed = mended(draft["native"], said.data)
        after = await self.ctx.step("check", call, "goals.check", {"native": native, "inputs": ask.inputs})
        check(after)
        told = {
            "plan": {"tasks": after["tasks"]},
            "repair": {"problems": draft["problems"], "changes": changed},
        }
        return Planned(after, told=told)

    async def _intent(self, goal: str, context: Any) -> dict[str, Any]:
        said = (await self.ask("intent", prompts.intent(goal, context), prompts.INTENT_SHAPE)).data
        return said if isinstance(said, dict) else {"intent": str(said), "simple": False}

    async def _drafted(self, name: str, plan: Any, ask: Ask, **more: Any) -> Any:
        args = {"plan": plan, "goal": ask.goal, "context": ask.context, **more}
        return await self.ctx.step(name, self.ctx._link.call, "goals.draft", args)


async def forget(ctx: SkillContext) -> None:
    """The plan proved to be bad: no equal request gets it again. No step, since a goal that is run anew from
    these steps may fare better; done twice, it is the same."""
    await ctx._link.call("goals.forget", {})


def check(draft: Mapping[str, Any]) -> None:
    """Raises BadPlan with all problems."""
    problems = draft["problems"]
    if problems:
        said = "; ".join(f"{one['where']}: {one['text']}" for one in problems[:SHOWN_MAX])
        raise BadPlan(f"{problems[0]['code']}: {said}")


def changes(before: Any, after: Any) -> list[dict[str, Any]]:
    """What a repair did, task by task: the values of every key that is another one now."""
    old, new = _by_id(before), _by_id(after)
    found = [{"task": name, "removed": True} for name in old if name not in new]
    found += [{"task": name, "added": task} for name, task in new.items() if name not in old]
    for name in old.keys() & new.keys():
        keys = sorted(old[name].keys() | new[name].keys())
        was = {key: old[name].get(key) for key in keys if old[name].get(key) != new[name].get(key)}
        if was:
            found.append({"task": name, "before": was, "after": {key: new[name].get(key) for key in was}})
    return sorted(found, key=lambda one: one["task"])


def mended(native: Mapping[str, Any], said: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The workflow with the dependencies that the model gave, and what it changed."""
    wanted = {}
    for one in said.get("changes", []) if isinstance(said, dict) else []:
        if isinstance(one, dict) and isinstance(one.get("node"), str):
            wanted[one["node"]] = (_texts(one.get("depends_on")), str(one.get("why", ""))[:500])
    nodes: list[dict[str, Any]] = []
    changed = []
    for node in native["nodes"]:
        node_id, before = str(node.get("id", "")), node.get("depends_on", [])
        after, why = wanted.get(node_id, (before, ""))
        if after != before:
            changed.append({"task": node_id, "before": before, "after": after, "why": why})
            node = {**node, "depends_on": after}
        nodes.append(node)
    return {**native, "nodes": nodes}, changed


def _by_id(plan: Any) -> dict[str, dict[str, Any]]:
    tasks = plan.get("tasks") if isinstance(plan, dict) else None
    known: Sequence[Any] = tasks if isinstance(tasks, list) else []
    return {str(task.get("id", place)): task for place, task in enumerate(known) if isinstance(task, dict)}


def _texts(given: Any) -> list[str]:
    return [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
