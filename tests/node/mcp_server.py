"""An MCP server for tests: on stdio, or with --http PORT over streamable HTTP. Notes what it did."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError


async def there(path: str, ms: int) -> None:
    """So many milliseconds, and until the test, another process, has made that file, where one is named."""
    await asyncio.sleep(ms / 1000)
    while path and not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - nothing tells of a file
        await asyncio.sleep(0.02)


def tools(ledger: Path) -> MCPServer:
    """The server. It appends every call that does something to the ledger."""
    app = MCPServer("for tests", log_level="CRITICAL")

    def note(context: Context[Any, Any], **facts: Any) -> None:
        meta: dict[str, Any] = dict(context.request_context.meta or {})
        told = {"key": meta.get("coterie/effectKey"), "attempt": meta.get("coterie/attempt")}
        with ledger.open("a") as file:
            file.write(json.dumps({**facts, **told}) + "\n")

    @app.tool()
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @app.tool()
    async def send(text: str, ctx: Context[Any, Any], ms: int = 0, hold: str = "") -> str:
        """Does something to the world, which takes so many milliseconds, and until that file is there."""
        note(ctx, text=text)
        await there(hold, ms)
        return f"sent {text}"

    @app.tool()
    def fail(text: str) -> str:
        """Goes wrong."""
        raise ToolError(f"it went wrong: {text}")

    @app.tool()
    def die(ctx: Context[Any, Any]) -> str:
        """Ends the server in the middle of the call."""
        note(ctx, text="die")
        os._exit(3)

    @app.tool()
    def told(name: str, ctx: Context[Any, Any]) -> str:
        """What the server was given: a variable of its environment, or a header of the request."""
        request: Any = ctx.request_context.request
        return os.environ.get(name) or (request.headers.get(name, "") if request is not None else "")

    @app.tool()
    def large(size: int) -> str:
        """A long answer."""
        return "x" * size

    @app.tool()
    def hidden() -> str:
        """Not for tasks."""
        return "seen"

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--http", type=int, default=0)
    options = parser.parse_args()
    if options.http:
        tools(options.ledger).run("streamable-http", host="127.0.0.1", port=options.http)
    else:
        tools(options.ledger).run("stdio")


if __name__ == "__main__":
    main()
