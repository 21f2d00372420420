"""ctx.mcp: tools of MCP servers, each call an effect that is recorded."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from coterie.skills import jsonio
from coterie.skills.errors import InDoubt
from coterie.skills.link import Link
from coterie.skills.replay import Replay


@dataclass(frozen=True, slots=True)
class McpTool:
    """A tool that the task may call. The schemas are JSON schemas."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class McpAnswer:
    """A recorded answer of a tool: the same in every attempt of the task."""

    text: str  # all text of the answer
    content: tuple[Mapping[str, Any], ...]  # its blocks, as the protocol has them
    structured: Any  # as the tool's output schema says, where it has one
    is_error: bool  # the tool, or the server, says that it went wrong
    replayed: bool = field(default=False, compare=False)  # recorded by an earlier attempt


class McpTools:
    """What a context offers to those who use MCP servers."""

    _link: Link
    _replay: Replay

    def _claim_key(self, name: str) -> str:
        raise NotImplementedError

    async def mcp_servers(self) -> list[str]:
        """The ids of the servers that this task may use. Not recorded."""
        found: list[str] = (await self._link.call("mcp.servers", {}))["servers"]
        return found

    async def mcp_tools(self, server: str) -> list[McpTool]:
        """What the task may call there, in the order of the names. Not recorded. Raises CallRefused (code
        MCP_UNKNOWN_SERVER), CallFailed (MCP_UNREACHABLE …)."""
        found = await self._link.call("mcp.tools", {"server": server})
        return [McpTool(**one) for one in found["tools"]]

    def mcp(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        on_unknown: Literal["ask", "fail"] | None = None,
    ) -> Coroutine[Any, Any, McpAnswer]:
        """Await this: call a tool of an MCP server; its answer is a recorded step of the task.

        What the operator says of the server decides what follows a call that nobody can tell of, as the node
        died or the line broke: `class` none and idempotent call again with the same key, which the server is
        told (`coterie/effectKey` in _meta); external waits for a person (`coterie task resolve`), or, with
        `on_unknown="fail"`, raises InDoubt. An error that the server answers with is an answer (`is_error`).
        Raises CallRefused (MCP_UNKNOWN_SERVER, MCP_NOT_ALLOWED, BAD_ARGUMENTS), CallFailed (MCP_UNREACHABLE,
        MCP_CUT_OFF, MCP_TIMED_OUT: the task's retries follow), InDoubt, Fenced.
        """
        key = self._claim_key(name or f"mcp:{server}.{tool}")
        asked = {"key": key, "server": server, "tool": tool, "arguments": dict(arguments or {})}
        if on_unknown is not None:
            asked["on_unknown"] = on_unknown
        return self._call_mcp(key, asked)

    async def _call_mcp(self, key: str, asked: dict[str, Any]) -> McpAnswer:
        recorded = self._replay.result(key)
        if recorded is not None:
            return _answer(jsonio.decode(recorded), True)
        if beside := self._replay.beside(key):
            asked["beside"] = beside
        said = await self._link.call("mcp.call", asked)
        if "in_doubt" in said:
            raise InDoubt(f"step {key!r} is in doubt: {said['in_doubt']}")
        self._replay.recorded(key, beside)
        return _answer(said.get("recorded", said), "recorded" in said)


def _answer(record: Any, replayed: bool) -> McpAnswer:
    if not (isinstance(record, Mapping) and record.get("object") == "mcp.answer"):
        # What a person said came of a call in doubt, who need not know how answers are recorded.
        text = record if isinstance(record, str) else json.dumps(record)
        return McpAnswer(text, (), record, False, replayed)
    content = tuple(record["content"])
    return McpAnswer(record["text"], content, record["structured"], record["is_error"], replayed)
