"""The loop: think, act, look at what came of it, until there is an answer or no more may be spent.

Thinking and acting by turns is the pattern of Yao et al., "ReAct: Synergizing Reasoning and Acting in
Language Models" (2023), section 2."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.skills import (
    CallRefused,
    Child,
    LlmAnswer,
    NonRetryable,
    SkillContext,
    SkillError,
    TaskFailed,
    ToolCall,
)
from coterie.skills.agent.builtin import HANDOFF, BadCall, Builtins, Place
from coterie.skills.agent.memory import memory_of
from coterie.skills.agent.plan import TURN_TOOLS_MAX, Agent, Request, read_agent, read_request
from coterie.skills.agent.servers import server_tools
from coterie.skills.agent.talk import Talk, clipped

BOUNDS = {"max_steps": "max_steps", "budget": "budget_tokens"}  # keys of the agent's files
LOGGED = 300  # characters of a call, and of its result


async def run(ctx: SkillContext, input: Any) -> dict[str, Any]:
    """See SKILL.md. Raises BadInput, NonRetryable (NO_ANSWER), and what ctx.llm raises."""
    request = read_request(input)
    # The tools are those of the first attempt, whatever is published meanwhile.
    begun = await ctx.step("begin", _begin, ctx)
    loaded = await ctx._link.call("agent.load", {"revision": begun["revision"], "tools": begun["tools"]})
    servers = await server_tools(ctx, loaded, begun["servers"])
    agent = read_agent(begun["revision"], loaded, servers)
    memory = memory_of(ctx, loaded, request.user)
    recalled = await memory.recall("recall", request.topic) if memory is not None else []
    builtins = Builtins(ctx, agent, request, memory)
    return await Loop(ctx, agent, request, builtins, Talk.of(agent, request, recalled)).run()


async def _begin(ctx: SkillContext) -> dict[str, Any]:
    chosen = await ctx._link.call("agent.choose", {})
    loaded = await ctx._link.call("agent.load", {"revision": chosen["revision"]})
    return {
        "revision": chosen["revision"],
        "tools": [tool["skill"] for tool in loaded["tools"]],
        "servers": [[tool.name, tool.server, tool.skill] for tool in await server_tools(ctx, loaded)],
    }


@dataclass(frozen=True, slots=True)
class Ending:
    """What the run ends with."""

    finish: str
    answer: str
    data: Any = None


@dataclass(slots=True)
class Loop:
    """One attempt of a run. All that it decides by is recorded."""

    ctx: SkillContext
    agent: Agent
    request: Request
    builtins: Builtins
    talk: Talk
    turn: int = 0
    calls: int = 0
    spent: dict[str, int] = field(default_factory=lambda: {"tokens_in": 0, "tokens_out": 0, "micro_usd": 0})

    async def run(self) -> dict[str, Any]:
        ending: Ending | None = None
        while ending is None:
            self.turn += 1
            last = self._last()
            answer = await self._think(last)
            ending = self._ended(answer, last) or await self._act(answer)
            if ending is None and self.talk.is_full:
                await self._shorten()
        return self._result(ending)

    def _last(self) -> str:
        """Why this thought is the last one; empty: it is not."""
        if self.turn >= self.agent.max_steps:
            return "max_steps"
        used = self.spent["tokens_in"] + self.spent["tokens_out"]
        return "budget" if 0 < self.agent.budget_tokens <= used else ""

    async def _think(self, last: str) -> LlmAnswer:
        options = dict(self.agent.think)
        tools = [*(tool.told() for tool in self.agent.tools.values()), *self.builtins.told()]
        if tools:
            options["tools"] = tools
        if tools and last:
            options["tool_choice"] = "none"
        messages = self.talk.messages(last=bool(last))
        return self._paid(
            await self.ctx.llm(messages, name=f"think{self.turn}", schema=self.request.schema, **options)
        )

    def _paid(self, answer: LlmAnswer) -> LlmAnswer:
        for name in self.spent:
            self.spent[name] += getattr(answer.usage, name)
        return answer

    def _ended(self, answer: LlmAnswer, last: str) -> Ending | None:
        if answer.tool_calls and not last:
            return None
        if last and answer.data is None and not answer.text.strip():
            text = f"{last}: the last thought, told to answer, says nothing; raise loop.{BOUNDS[last]}"
            raise NonRetryable(text, code="NO_ANSWER")
        cut = "length" if answer.finish_reason == "length" else "answer"
        return Ending(last or cut, answer.text, answer.data)

    def _say(self, level: int, text: str, *more: object) -> None:
        """To the log, as far as the agent's files want it."""
        if level >= self.agent.log_level:
            self.ctx.log.log(level, text, *more)

    async def _act(self, answer: LlmAnswer) -> Ending | None:
        calls = answer.tool_calls
        names = ", ".join(dict.fromkeys(call.name for call in calls))
        self._say(logging.INFO, "turn %d calls %s", self.turn, names)
        await self.ctx.progress(95 * self.turn / (self.agent.max_steps + 1), f"turn {self.turn}: {names}")
        self.calls += len(calls)
        texts: dict[int, str] = {}
        children: dict[int, Child] = {}
        for number, call in enumerate(calls):
            try:
                begun = await self._call(call, Place(self.turn, number))
            except (BadCall, SkillError) as error:
                if not isinstance(error, BadCall) and getattr(error, "code", "") not in TOLD:
                    raise
                begun = f"error: {error}"
            if isinstance(begun, Child):
                children[number] = begun
            else:
                texts[number] = begun
        ends = await self._gathered(list(children.values()))
        results = dict(zip(children, ends, strict=True))
        told = {place: _told(calls[place], result) for place, result in results.items()} | texts
        shown = [told[place] for place in range(len(calls))]
        for call, text in zip(calls, shown, strict=True):
            level = logging.WARNING if text.startswith("error: ") else logging.DEBUG
            self._say(level, "%s(%s): %s", call.name, clipped(call.raw, LOGGED), clipped(text, LOGGED))
        self.talk.add(answer, shown)
        return self._stopped(calls, results)

    async def _call(self, call: ToolCall, at: Place) -> str | Child:
        """The result, or the child that will have it. Raises BadCall: the model is told."""
        if at.number >= TURN_TOOLS_MAX:
            raise BadCall(f"at most {TURN_TOOLS_MAX} calls at once")
        if not isinstance(call.arguments, dict):
            raise BadCall(f"the arguments are not a JSON object: {call.raw[:200]}")
        if self.builtins.has(call.name):
            self.builtins.check(call.name, call.arguments)
            await self._approve(call, call.name)
            if call.name == HANDOFF:
                return self.builtins.handoff(call.arguments, at)
            return await self.builtins.call(call.name, call.arguments, at)
        tool = self.agent.tools.get(call.name)
        if tool is None:
            known = ", ".join([*self.agent.tools, *(one["name"] for one in self.builtins.told())])
            raise BadCall(f"there is no tool {call.name!r}; there are: {known or 'none'}")
        await self._approve(call, tool.name if tool.server else tool.skill)
        if tool.server:
            answer = await self.ctx.mcp(tool.server, tool.skill, call.arguments, name=f"mcp{at}")
            return f"error: {answer.text}" if answer.is_error else answer.text
        return self.ctx.task(tool.skill, call.arguments, name=f"t{at}", **tool.options)

    async def _approve(self, call: ToolCall, name: str) -> None:
        """Waits for a person, where the agent may not do that by itself. Raises BadCall if they say no."""
        if not any(fnmatch.fnmatchcase(name, glob) for glob in self.agent.approve):
            return
        question = f"agent {self.agent.agent_id} wants to call {name}"
        decision = await self.ctx.approve(question, {"tool": name, "arguments": call.arguments})
        if not decision:
            why = "; ".join(decision.comments) or "without a word"
            raise BadCall(f"a person said no to this call: {why}")

    async def _gathered(self, children: Sequence[Child]) -> list[Any]:
        """The result of each child, or its exception. One that the cluster does not take spoils no other."""
        try:
            return await self.ctx.gather(*children, on_error="collect", window=self.agent.parallel)
        except CallRefused as error:
            if len(children) == 1:
                return [error]
        return [(await self._gathered([child]))[0] for child in children]

    def _stopped(self, calls: Sequence[ToolCall], results: Mapping[int, Any]) -> Ending | None:
        for place, result in results.items():
            call = calls[place]
            if isinstance(result, Exception):
                continue
            if call.name == HANDOFF and call.arguments.get("final") and isinstance(result, dict):
                return Ending("handoff", str(result.get("answer", "")), result.get("data"))
            if call.name in self.agent.stop or self._skill(call.name) in self.agent.stop:
                return Ending("stop", _text_of(result), None if isinstance(result, str) else result)
        return None

    def _skill(self, name: str) -> str:
        tool = self.agent.tools.get(name)
        return tool.skill if tool else ""

    async def _shorten(self) -> None:
        """Compaction: the old turns become notes that the model itself makes."""
        options = {**self.agent.think}
        asked = self.talk.to_summarize()
        notes = self._paid(await self.ctx.llm(asked, name=f"notes{self.turn}", **options))
        self.talk.shorten(notes.text)

    def _result(self, ending: Ending) -> dict[str, Any]:
        result = {
            "answer": ending.answer,
            "agent": self.agent.agent_id,
            "revision": self.agent.revision,
            "turns": self.turn,
            "calls": self.calls,
            "finish": ending.finish,
            "usage": self.spent,
        }
        return {**result, "data": ending.data} if ending.data is not None else result


# What a tool call can be refused for by the context itself, before there is a task.
TOLD = frozenset({"TOO_LARGE", "NOT_JSON", "BAD_ARGUMENTS", "MCP_NOT_ALLOWED", "IN_DOUBT"})


def _told(call: ToolCall, result: Any) -> str:
    """The result of a call as the model is told it; of a colleague only the answer."""
    if call.name == HANDOFF and isinstance(result, dict):
        return str(result.get("answer", ""))
    return _text_of(result)


def _text_of(result: Any) -> str:
    if isinstance(result, TaskFailed | CallRefused):
        return f"error: {result.code}: {result}"
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
