"""The calls mcp.* of a running skill. A call of a tool is an effect: its intent is committed before it, where
it may do something, and its answer after it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from coterie.core.commands import RecordStep, Rejected
from coterie.node import decision_calls
from coterie.node.config import McpServerSettings
from coterie.node.errors import from_rejection
from coterie.node.mcp.connection import Connection
from coterie.node.mcp.faults import McpFault
from coterie.node.side_loop import SideLoop
from coterie.node.skill_calls import Handlers, Run, refused
from coterie.skills import CallFailed
from coterie.skills.limits import KIB

Work = Coroutine[Any, Any, Any]
OBJECT = "mcp.answer"  # the first field of a recorded answer
ARGUMENTS_BYTES_MAX = 1024 * KIB
KEY_CHARS_MAX = 160
TRIES = 3  # of a call that may be repeated, within one attempt of the task
PAUSE_S = 0.3
PREPARED_S = 2.0  # that closing waits for what is being loaded
POLICIES = {"none": "retry", "idempotent": "retry", "external": "ask"}
EFFECT_KEY, ATTEMPT = "coterie/effectKey", "coterie/attempt"  # in _meta of a call


class McpCaller:
    """Calls the servers that the operator configured; their secrets never leave the node."""

    def __init__(self, servers: Mapping[str, McpServerSettings]) -> None:
        self._servers = servers
        self._side = SideLoop("mcp")
        self._connections = {name: Connection(one) for name, one in servers.items()}
        self._preparing: list[asyncio.Task[None]] = []
        self._counts: Counter[str] = Counter()

    @property
    def handlers(self) -> Handlers:
        """For the table of what skills may ask for."""
        return {"mcp.servers": self.servers, "mcp.tools": self.tools, "mcp.call": self.call}

    async def servers(self, run: Run, args: Any) -> dict[str, Any]:
        """Those that the task may use."""
        return {"servers": [one.name for one in self._servers.values() if one.serves(run.task.type)]}

    async def tools(self, run: Run, args: Any) -> dict[str, Any]:
        """What the task may call there. Raises CallRefused, CallFailed."""
        server = self._server(run, args)
        try:
            return {"tools": await self._answer(server, self._connections[server.name].tools)}
        except McpFault as fault:
            raise CallFailed(str(fault), code=fault.code) from fault

    async def call(self, run: Run, args: Any) -> dict[str, Any]:
        """The tool's answer, recorded as a step. Raises CallRefused, CallFailed, Fenced, Suspended."""
        server = self._server(run, args)
        key, tool = _text(args, "key", KEY_CHARS_MAX), _text(args, "tool", 256)
        arguments = _arguments(args)
        if not server.allows(tool):
            allowed = ", ".join(server.allow)
            raise refused("MCP_NOT_ALLOWED", f"tool {tool!r} of {server.name}: only {allowed} may be called")
        effect_key = f"{run.task_id}/{key}"
        if server.effects != "none":
            known = await self._begin(run, key, effect_key, _policy(server, args))
            if known is not None:
                return known
        meta = {EFFECT_KEY: effect_key, ATTEMPT: run.attempt}
        try:
            connection = self._connections[server.name]
            said = await self._answer(server, lambda: connection.call(tool, arguments, meta))
        except McpFault as fault:
            self._counts["failed"] += 1
            if fault.undone and server.effects != "none":
                await decision_calls.withdraw(run, {"key": key})
            raise CallFailed(str(fault), code=fault.code) from fault
        self._counts["error" if said["is_error"] else "answered"] += 1
        record = {"object": OBJECT, "server": server.name, "tool": tool, **said}
        return await self._record(run, key, record, decision_calls.beside(args))

    def gauges(self) -> Mapping[str, float]:
        """For the metrics: calls by outcome."""
        return {f'mcp_calls_total{{outcome="{name}"}}': float(n) for name, n in self._counts.items()}

    def prepare(self) -> None:
        """Begin to load what the first call will need."""
        for name, one in self._connections.items():
            self._preparing.append(asyncio.create_task(self._side.run(one.prepare()), name=f"mcp {name}"))

    async def close(self) -> None:
        """Let go of all servers; programs that were started end."""
        if self._preparing:
            await asyncio.wait(self._preparing, timeout=PREPARED_S)
        closing = [self._side.run(one.close()) for one in self._connections.values()]
        await asyncio.gather(*closing, return_exceptions=True)
        self._side.stop()

    # --- inside

    async def _begin(self, run: Run, key: str, effect_key: str, policy: str) -> dict[str, Any] | None:
        """Commit the intent. What is known of the call already: its answer, or that it is in doubt."""
        asked = {"key": key, "effect_key": effect_key, "on_unknown": policy}
        begun = await decision_calls.begin(run, asked)
        if "result" in begun:
            return {"recorded": json.loads(begun["result"])}
        return begun if "in_doubt" in begun else None

    async def _answer(self, server: McpServerSettings, ask: Callable[[], Work]) -> Any:
        """What the server says, asked again where the line broke and it may be repeated. Raises McpFault."""
        tries = 0
        while True:
            tries += 1
            try:
                return await self._side.run(ask())
            except McpFault as fault:
                repeatable = fault.undone or server.effects != "external"
                if tries >= TRIES or not repeatable or fault.code == "MCP_TIMED_OUT":
                    raise
                await asyncio.sleep(PAUSE_S * 2**tries)

    async def _record(
        self, run: Run, key: str, record: dict[str, Any], beside: tuple[str, ...]
    ) -> dict[str, Any]:
        data = await run.keep(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode())
        outcome = await run.commit_own(RecordStep(run.task_id, run.attempt, key, data, beside))
        if isinstance(outcome, Rejected):
            known = from_rejection(outcome)
            raise refused(known.reason, known.message)
        run.step_recorded()
        return record

    def _server(self, run: Run, args: Any) -> McpServerSettings:
        name = _text(args, "server", 64)
        server = self._servers.get(name)
        if server is None or not server.serves(run.task.type):
            usable = [one.name for one in self._servers.values() if one.serves(run.task.type)]
            text = f"server {name!r}: tasks of type {run.task.type} may use {', '.join(usable) or 'none'}"
            raise refused("MCP_UNKNOWN_SERVER", f"{text}; see mcp.servers in the configuration of the node")
        return server


def _policy(server: McpServerSettings, args: Any) -> str:
    """What follows a doubt: as the class says, or more careful than that."""
    asked = args.get("on_unknown") or POLICIES[server.effects]
    if asked not in ("ask", "fail") and asked != POLICIES[server.effects]:
        raise refused("BAD_ARGUMENTS", f"on_unknown: {asked!r} is none of ask, fail")
    return str(asked)


def _arguments(args: Any) -> dict[str, Any]:
    given = args.get("arguments")
    if not isinstance(given, dict) or len(json.dumps(given)) > ARGUMENTS_BYTES_MAX:
        raise refused("BAD_ARGUMENTS", f"arguments: give an object of at most {ARGUMENTS_BYTES_MAX} bytes")
    return given


def _text(args: Any, name: str, size_max: int) -> str:
    value = args.get(name) if isinstance(args, dict) else None
    if not isinstance(value, str) or not 1 <= len(value) <= size_max:
        raise refused("BAD_ARGUMENTS", f"{name}: give a text of 1 to {size_max} characters")
    return value
