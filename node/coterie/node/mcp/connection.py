"""The connection of a node to one MCP server, through the protocol's own library.

Everything here runs on a loop of its own, see node.side_loop. The library ties a connection to the task that
opened it: a holder task opens it, keeps it for all callers, and closes it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from coterie.node.config import McpServerSettings
from coterie.node.mcp.answers import answer_of, error_of
from coterie.node.mcp.exchange import Exchange, observed
from coterie.node.mcp.faults import McpFault
from coterie.node.version import VERSION

if TYPE_CHECKING:
    from mcp import Client, MCPError

CONNECT_S = 60.0  # a program may have much to load
HTTP_CONNECT_S = 10.0
CLOSE_S = 6.5  # a program that does not end by itself is killed after four seconds
TOOL_PAGES_MAX = 100
LATE_MAX = 2  # calls in a row without an answer, after which a server counts as hung


class _Held:
    """An open connection, and the task that keeps it."""

    def __init__(self, client: Client, leave: asyncio.Event, holder: asyncio.Task[None]) -> None:
        self.client, self.leave, self.holder = client, leave, holder
        self.late = 0  # calls without an answer since the last answer
        self.calls, self.retired = 0, False

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Within, it is not closed for being retired."""
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            self._tidy()

    def retire(self) -> None:
        """Close it when the calls that are in the air have ended, and end its program."""
        self.retired = True
        self._tidy()

    def _tidy(self) -> None:
        if self.retired and not self.calls:
            self.leave.set()


class Connection:
    """To one server, opened when it is first needed, and again after it broke."""

    def __init__(self, settings: McpServerSettings) -> None:
        self.settings = settings
        self._held: _Held | None = None
        self._opening: asyncio.Task[_Held] | None = None
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
            if isinstance(page, str):
                raise McpFault(
                    f"MCP server {self.settings.name} tells no tools: {page}"[:1_000], "MCP_FAILED"
                )
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
        return error_of(result) if isinstance(result, str) else answer_of(result)

    async def close(self) -> None:
        """Let go of the server; a program that was started ends."""
        if self._opening is not None:
            self._opening.cancel()
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

        async with held.in_use():
            with observed() as exchange:
                try:
                    async with asyncio.timeout(self.settings.timeout_ms / 1000 + 1):
                        answer = await work
                except TimeoutError:
                    raise self._late(held, exchange) from None
                except MCPError as error:
                    answer = self._refused(held, exchange, error)
                except Exception as error:  # the library lets many kinds through
                    self._retire(held)
                    raise self._cut_off(exchange, f"{type(error).__name__}: {error}") from error
        held.late = 0
        return answer

    def _refused(self, held: _Held, exchange: Exchange, error: MCPError) -> str:
        """The server's own word. Raises McpFault where it is that of the library, or of a lost session."""
        from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        text = str(error) or type(error).__name__
        if exchange.is_stand_in(text):
            if exchange.session_ended:
                self._retire(held)
            raise self._cut_off(exchange, f"HTTP status {exchange.status}: {text}") from error
        if error.code == REQUEST_TIMEOUT:
            raise self._late(held, exchange) from error
        if error.code == CONNECTION_CLOSED:
            self._retire(held)
            raise self._cut_off(exchange, f"broke off: {text}") from error
        return text

    def _cut_off(self, exchange: Exchange, text: str) -> McpFault:
        code = "MCP_UNREACHABLE" if exchange.undone else "MCP_CUT_OFF"
        said = f"MCP server {self.settings.name}: {text}"
        return McpFault(said[:1_000], code, undone=exchange.undone)

    def _late(self, held: _Held, exchange: Exchange) -> McpFault:
        held.late += 1
        if held.late >= LATE_MAX:
            self._retire(held)
        text = f"MCP server {self.settings.name}: no answer in {self.settings.timeout_ms} ms"
        return McpFault(text, "MCP_TIMED_OUT", undone=not exchange.sent)

    def _retire(self, held: _Held) -> None:
        """New calls get a new connection."""
        held.retire()
        if self._held is held:
            self._held = None

    async def _open(self) -> _Held:
        """The connection, opened where there is none. Raises McpFault: the same for all who wait for it, who
        would else wait for a server that does not greet one after the other."""
        if self._held is not None and not self._held.holder.done():
            return self._held
        if self._opening is None:
            self._opening = asyncio.create_task(self._opened(), name=f"mcp-{self.settings.name}-opening")
            self._opening.add_done_callback(self._keep)
        return await asyncio.shield(self._opening)

    def _keep(self, opening: asyncio.Task[_Held]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._held = opening.result()

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
        from mcp.types import Implementation

        from coterie.node.mcp.transports import NotingClient, address, program

        settings = self.settings
        info = Implementation(name="coterie", version=VERSION)
        if settings.command:
            name, *words = settings.command
            server = StdioServerParameters(command=name, args=words, env=dict(settings.env), cwd=settings.cwd)
            return Client(program(server), client_info=info, cache=None)
        limit = httpx2.Timeout(settings.timeout_ms / 1000 + 5, connect=HTTP_CONNECT_S)
        http = await stack.enter_async_context(NotingClient(headers=dict(settings.headers), timeout=limit))
        return Client(address(settings.url, http), client_info=info, cache=None)


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
