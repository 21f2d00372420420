"""The connection of a node to one MCP server, through the protocol's own library.

Everything here runs on a loop of its own, see node.side_loop. The library ties a connection to the task that
opened it: a holder task opens it, keeps it for all callers, and closes it."""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from coterie.node.config import McpServerSettings
from coterie.node.mcp.faults import McpFault
from coterie.node.version import VERSION

if TYPE_CHECKING:
    from mcp import Client

CONNECT_S = 60.0  # a program may have much to load
HTTP_CONNECT_S = 10.0
CLOSE_S = 6.5  # a program that does not end by itself is killed after four seconds
TOOL_PAGES_MAX = 100


class _Held:
    """An open connection, and the task that keeps it."""

    def __init__(self, client: Client, leave: asyncio.Event, holder: asyncio.Task[None]) -> None:
        self.client, self.leave, self.holder = client, leave, holder


class Connection:
    """To one server, opened when it is first needed, and again after it broke."""

    def __init__(self, settings: McpServerSettings) -> None:
        self.settings = settings
        self._held: _Held | None = None
        self._opening = asyncio.Lock()
        self._holders: set[asyncio.Task[None]] = set()

    async def prepare(self) -> None:
        """Load what the first call will need."""
        importlib.import_module("mcp")

    async def tools(self) -> list[dict[str, Any]]:
        """The tools that tasks may call, in the order of their names. Raises McpFault."""
        found: list[dict[str, Any]] = []
        held, cursor = await self._open(), None
        for _ in range(TOOL_PAGES_MAX):
            page = await self._asked(held, held.client.list_tools(cursor=cursor))
            found += [_tool(one) for one in page.tools if self.settings.allows(one.name)]
            cursor = page.next_cursor
            if cursor is None:
                break
        return sorted(found, key=lambda tool: str(tool["name"]))

    async def call(self, tool: str, arguments: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
        """What the tool answered, its own errors included. Raises McpFault."""
        held = await self._open()
        limit_s = self.settings.timeout_ms / 1000
        told: Any = meta  # a TypedDict whose keys of others the type does not know
        work = held.client.call_tool(tool, arguments, read_timeout_seconds=limit_s, meta=told)
        result = await self._asked(held, work)
        if isinstance(result, str):
            return {"is_error": True, "text": result, "content": [], "structured": None}
        blocks = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in result.content]
        return {
            "is_error": bool(result.is_error),
            "text": "\n".join(one["text"] for one in blocks if one.get("type") == "text"),
            "content": blocks,
            "structured": result.structured_content,
        }

    async def close(self) -> None:
        """Let go of the server; a program that was started ends."""
        if self._held is not None:
            self._held.leave.set()
        if self._holders:
            _, late = await asyncio.wait(self._holders, timeout=CLOSE_S)
            for holder in late:
                holder.cancel()

    # --- inside

    async def _asked(self, held: _Held, work: Any) -> Any:
        """The server's answer; a text: it refused in the words of the protocol."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        name = self.settings.name
        try:
            async with asyncio.timeout(self.settings.timeout_ms / 1000 + 1):
                return await work
        except TimeoutError:
            raise self._late() from None
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                raise self._late() from error
            if error.code == CONNECTION_CLOSED:
                self._drop(held)
                raise McpFault(f"MCP server {name} broke off: {error}", "MCP_CUT_OFF") from error
            return str(error) or type(error).__name__
        except Exception as error:  # the library lets many kinds through
            self._drop(held)
            text = f"MCP server {name}: {type(error).__name__}: {error}"
            raise McpFault(text[:1_000], "MCP_CUT_OFF") from error

    def _late(self) -> McpFault:
        text = f"MCP server {self.settings.name}: no answer in {self.settings.timeout_ms} ms"
        return McpFault(text, "MCP_TIMED_OUT")

    def _drop(self, held: _Held) -> None:
        held.leave.set()
        if self._held is held:
            self._held = None

    async def _open(self) -> _Held:
        """The connection, opened where there is none. Raises McpFault."""
        async with self._opening:
            if self._held is not None and self._held.holder.done():
                self._held = None
            if self._held is None:
                self._held = await self._opened()
            return self._held

    async def _opened(self) -> _Held:
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        leave = asyncio.Event()
        holder = asyncio.create_task(self._hold(ready, leave), name=f"mcp-{self.settings.name}")
        self._holders.add(holder)
        holder.add_done_callback(self._holders.discard)
        try:
            async with asyncio.timeout(CONNECT_S):
                return _Held(await ready, leave, holder)
        except TimeoutError:
            text = f"no greeting from MCP server {self.settings.name} in {CONNECT_S:g} s"
            raise McpFault(text, "MCP_UNREACHABLE", undone=True) from None
        finally:
            if not ready.done() or ready.cancelled():
                holder.cancel()

    async def _hold(self, ready: asyncio.Future[Client], leave: asyncio.Event) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._client(stack))
                ready.set_result(client)
                await leave.wait()
        except Exception as error:  # while it is opened: for the caller; later: it has noticed by itself
            if not ready.done():
                text = f"MCP server {self.settings.name} cannot be reached: {_cause(error)}"
                ready.set_exception(McpFault(text[:1_000], "MCP_UNREACHABLE", undone=True))

    async def _client(self, stack: AsyncExitStack) -> Client:
        import httpx2
        from mcp import Client, StdioServerParameters
        from mcp.client.streamable_http import streamable_http_client
        from mcp.types import Implementation

        settings = self.settings
        info = Implementation(name="coterie", version=VERSION)
        if settings.command:
            program, *words = settings.command
            server = StdioServerParameters(
                command=program, args=words, env=dict(settings.env), cwd=settings.cwd
            )
            return Client(server, client_info=info, cache=None)
        limit = httpx2.Timeout(settings.timeout_ms / 1000 + 5, connect=HTTP_CONNECT_S)
        http = await stack.enter_async_context(
            httpx2.AsyncClient(headers=dict(settings.headers), timeout=limit)
        )
        return Client(streamable_http_client(settings.url, http_client=http), client_info=info, cache=None)


def _tool(tool: Any) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description or "",
        "input_schema": tool.input_schema,
        "output_schema": tool.output_schema,
    }


def _cause(error: BaseException) -> str:
    """The innermost of grouped errors, which says what happened."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
