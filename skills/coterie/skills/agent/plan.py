"""What an agent run is asked for and what its revision allows, as the loop needs it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.skills.errors import BadInput

KEYS = frozenset({"prompt", "messages", "context", "schema", "user", "depth"})
DEPTH_MAX = 8  # handoffs of handoffs
ROLES = ("system", "user", "assistant", "tool")
TURN_TOOLS_MAX = 64
TOOL_NAME_CHARS_MAX = 64
GONE = "Not there any more: a call of it may fail."  # a tool that the run began with
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Request:
    """The task's input."""

    messages: tuple[dict[str, Any], ...]
    schema: Mapping[str, Any] | None = None
    user: str = ""
    depth: int = 0

    @property
    def topic(self) -> str:
        """What it is about, for looking things up."""
        return next((str(one["content"]) for one in reversed(self.messages) if one["role"] == "user"), "")


@dataclass(frozen=True, slots=True)
class Tool:
    """A skill as the model sees it. `options`: of the child task."""

    name: str
    skill: str
    description: str
    parameters: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    manual: str = ""
    server: str = ""  # an MCP server, whose tool `skill` then is

    def told(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}


@dataclass(frozen=True, slots=True)
class Agent:
    """One revision of an agent."""

    agent_id: str
    revision: str
    system: str
    think: Mapping[str, Any]  # options of ctx.llm
    tools: Mapping[str, Tool]
    approve: Sequence[str]
    stop: frozenset[str]
    max_steps: int
    budget_tokens: int  # 0: none
    window: int
    result_chars: int
    parallel: int
    handoff: Mapping[str, str]  # colleagues, and what they are good at
    asks_people: bool
    log_level: int = logging.INFO
    grows: bool = False  # adds nodes to the run that it is a node of


def tool_name(name: str) -> str:
    """A name that every model takes."""
    return _NOT_A_NAME.sub("_", name)[:TOOL_NAME_CHARS_MAX]


def read_request(given: Any) -> Request:
    """Raises BadInput, which names the key."""
    if isinstance(given, str):
        given = {"prompt": given}
    if not isinstance(given, dict):
        raise BadInput("the input is not an object: give prompt or messages")
    unknown = sorted(set(given) - KEYS)
    if unknown:
        raise BadInput(f"{unknown[0]}: unknown key; known: {', '.join(sorted(KEYS - {'depth'}))}")
    if ("prompt" in given) == ("messages" in given):
        raise BadInput("prompt, messages: give one of them")
    schema, user, depth = given.get("schema"), given.get("user", ""), given.get("depth", 0)
    if schema is not None and not isinstance(schema, dict):
        raise BadInput(f"schema: {schema!r} is not a JSON schema")
    if not isinstance(user, str) or not isinstance(depth, int):
        raise BadInput("user: a text is expected")
    return Request(tuple(_messages(given)), schema, user, depth)


def _messages(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked = given.get("messages", [{"role": "user", "content": given.get("prompt")}])
    if not isinstance(asked, list) or not asked:
        raise BadInput("messages: a list of messages is expected")
    for place, one in enumerate(asked):
        if not isinstance(one, dict) or one.get("role") not in ROLES:
            raise BadInput(f"messages[{place}].role: one of {', '.join(ROLES)} is expected")
        if not isinstance(one.get("content"), str) or not (one["content"].strip() or one.get("tool_calls")):
            where = "prompt" if "prompt" in given else f"messages[{place}].content"
            raise BadInput(f"{where}: a text is expected")
    messages = [dict(one) for one in asked]
    if given.get("context") is not None:
        text = json.dumps(given["context"], ensure_ascii=False, indent=1)
        messages.append({"role": "user", "content": f"Context:\n{text}"})
    return messages


def read_agent(revision: str, loaded: Mapping[str, Any], servers: Sequence[Tool] = ()) -> Agent:
    """What the node said of the revision. `servers`: tools of its MCP servers."""
    loop = loaded["loop"]
    bound = [
        Tool(one["name"], one["skill"], one["description"], one["parameters"], one["options"], one["manual"])
        for one in loaded["tools"]
    ]
    given = {name: loaded.get(name) for name in ("model", "temperature", "max_tokens")}
    think = {name: value for name, value in given.items() if value not in (None, "")}
    if loaded.get("effort"):
        think["extra"] = {"reasoning_effort": loaded["effort"]}
    return Agent(
        loaded["id"],
        revision,
        loaded["system"],
        think,
        {tool.name: tool for tool in (*bound, *servers)},
        loaded["approve"],
        frozenset(loaded["stop"]),
        loop["max_steps"],
        loop["budget_tokens"] or 0,
        loop["window"],
        loop["result_chars"],
        loop["parallel"],
        {one["id"]: one["about"] for one in loaded["handoff"]},
        loop["ask_human"],
        logging.getLevelNamesMapping()[loaded.get("log_level", "INFO")],
        bool(loop.get("add_nodes")),
    )
