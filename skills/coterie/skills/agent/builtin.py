"""Tools that every agent may have beside its skills: colleagues, memory, people, manuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coterie.skills import Child, SkillContext
from coterie.skills.agent.memory import Memory
from coterie.skills.agent.plan import DEPTH_MAX, Agent, Request

HANDOFF, REMEMBER, RECALL, ASK, MANUAL = "handoff", "remember", "recall", "ask_human", "read_manual"
GROW = "add_nodes"
ANSWER = "answer"  # the signal


class BadCall(ValueError):
    """The model called a tool wrongly; the text tells it how."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the run a call stands: its turn, and its place among the calls of the turn."""

    turn: int
    number: int

    def __str__(self) -> str:
        return f"{self.turn}.{self.number}"


@dataclass(frozen=True, slots=True)
class Builtins:
    """Those that this agent has."""

    ctx: SkillContext
    agent: Agent
    request: Request
    memory: Memory | None

    def told(self) -> list[dict[str, Any]]:
        """As the model is told of them."""
        tools = []
        if self.agent.handoff and self.request.depth < DEPTH_MAX:
            tools.append(_handoff(self.agent.handoff))
        if self.memory is not None:
            tools.append(_text_tool(REMEMBER, "Keep a fact for later runs.", "text", "The fact, on its own."))
            tools.append(_text_tool(RECALL, "Look up what you kept.", "query", "What it is about."))
        if self.agent.asks_people:
            tools.append(_text_tool(ASK, "Ask a person, and wait for the answer.", "question", "It."))
        if self.agent.grows:
            tools.append(_grow(self.agent.handoff))
        manuals = [tool.name for tool in self.agent.tools.values() if tool.manual]
        if manuals:
            about = "Read how a tool is used, before you use it for the first time."
            tools.append(_tool(MANUAL, about, {"tool": {"type": "string", "enum": manuals}}))
        return tools

    def has(self, name: str) -> bool:
        return name == MANUAL or any(tool["name"] == name for tool in self.told())

    def check(self, name: str, given: Mapping[str, Any]) -> None:
        """Raises BadCall for what the tool does not take: it would be passed over."""
        for tool in self.told():
            known = tool["parameters"]["properties"]
            if tool["name"] == name and (unknown := sorted(set(given) - set(known))):
                raise BadCall(f"{unknown[0]}: unknown argument; known: {', '.join(known)}")

    async def call(self, name: str, given: Mapping[str, Any], at: Place) -> str:
        """The result, as the model is told it. Raises BadCall."""
        if name == REMEMBER and self.memory is not None:
            return await self._remember(self.memory, _text(given, "text"))
        if name == RECALL and self.memory is not None:
            found = await self.memory.recall(f"recall{at}", _text(given, "query"))
            return "\n".join(f"- {line}" for line in found) or "Nothing that fits."
        if name == GROW:
            return await self._grow(given, at)
        if name == ASK:
            return await self._ask(_text(given, "question"))
        wanted = _text(given, "tool")
        text: str = await self.ctx.step(f"manual{at}", lambda: self._manual(wanted))
        return text

    def handoff(self, given: Mapping[str, Any], at: Place) -> Child:
        """The colleague's run, not begun yet. Raises BadCall."""
        colleague = _text(given, "agent")
        if colleague not in self.agent.handoff:
            raise BadCall(f"agent: {colleague!r} is none of {', '.join(self.agent.handoff)}")
        payload = {"prompt": _text(given, "task"), "depth": self.request.depth + 1}
        if given.get("context") is not None:
            payload["context"] = given["context"]
        if self.request.user:
            payload["user"] = self.request.user
        return self.ctx.task("agent", payload, name=f"t{at}", agent=colleague)

    async def _remember(self, memory: Memory, text: str) -> str:
        try:
            await memory.remember(text)
        except ValueError as error:
            raise BadCall(str(error)) from error
        return "Kept."

    async def _grow(self, given: Mapping[str, Any], at: Place) -> str:
        nodes, colleagues = given.get("nodes"), list(self.agent.handoff)
        if not isinstance(nodes, dict) or not nodes:
            raise BadCall(f"nodes: a map of nodes by their ids is expected, not {nodes!r}")
        answer = await self.ctx.offer_nodes(nodes, colleagues, name=f"grow{at}")
        if "error" in answer:
            raise BadCall(answer["error"])
        return f"Added: {', '.join(answer['added'])}."

    async def _ask(self, question: str) -> str:
        how = f"coterie task signal {self.ctx.task_id} {ANSWER} --payload '\"…\"'"
        await self.ctx.emit("agent.question", {"question": question, "answer": how})
        answer = await self.ctx.wait_signal(ANSWER)
        return answer if isinstance(answer, str) else str(answer)

    def _manual(self, name: str) -> str:
        tool = self.agent.tools.get(name)
        return tool.manual if tool and tool.manual else f"error: tool: {name!r} has no manual"


def _handoff(colleagues: Mapping[str, str]) -> dict[str, Any]:
    known = "\n".join(f"- {name}: {about}" for name, about in colleagues.items())
    properties = {
        "agent": {"type": "string", "enum": list(colleagues)},
        "task": {"type": "string", "description": "What to do; the colleague sees nothing of this talk."},
        "context": {"description": "What the colleague needs to know: any JSON value."},
        "final": {
            "type": "boolean",
            "description": "true: the colleague's answer is the answer to the user.",
        },
    }
    about = f"Have a colleague do a part of the work, or all the rest of it.\n{known}"
    return _tool(HANDOFF, about, properties, ("agent", "task"))


def _grow(colleagues: Mapping[str, str]) -> dict[str, Any]:
    known = ", ".join(colleagues) or "none"
    about = (
        "Add nodes to the workflow that you are a node of: work that others do after you, side by side where "
        f"nothing depends. Agents that nodes may name: {known}."
    )
    meaning = (
        'Nodes by their ids: {"facts": {"agent": "NAME", "input": {"task": "what to do"}, '
        '"depends_on": [ids]}}. '
        'A later node sees what an earlier one gave as "{{ facts }}". No cycles.'
    )
    return _tool(GROW, about, {"nodes": {"type": "object", "description": meaning}})


def _text_tool(name: str, about: str, key: str, meaning: str) -> dict[str, Any]:
    return _tool(name, about, {key: {"type": "string", "description": meaning}})


def _tool(
    name: str, about: str, properties: Mapping[str, Any], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": dict(properties),
        "required": list(required or properties),
        "additionalProperties": False,
    }
    return {"name": name, "description": about, "parameters": schema}


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadCall(f"{key}: a text is expected, not {value!r}")
    return value
