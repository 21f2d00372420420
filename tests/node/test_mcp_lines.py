"""Lines to MCP servers that break, hang or lose their session: what is called again, what is in doubt."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coterie.node.mcp import connection
from coterie.node.mcp.answers import ANSWER_BYTES_MAX, size_at_least
from coterie.node.mcp.connection import _Held
from coterie.node.mcp.exchange import Exchange
from coterie.node.mcp.faults import McpFault
from coterie.skills import CallFailed, SkillContext
from tests.node.test_mcp import Make, World, make
from tests.skills.support import until

_ = make  # a fixture


class OldServer(ThreadingHTTPServer):
    """A server of the protocol's older kind, with sessions. It forgets them, or fails, when it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sessions: set[str] = set()
        self.statuses: list[int] = []  # of the next calls; then they are answered
        self.done = 0
        self.size = 1  # of an answer
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mcp"

    def said(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The result of a request."""
        match asked["method"]:
            case "initialize":
                version = asked["params"]["protocolVersion"]
                info = {"name": "old", "version": "1"}
                return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
            case "tools/list":
                return {"tools": [{"name": "add", "inputSchema": {"type": "object"}}]}
        self.done += 1
        return {"content": [{"type": "text", "text": "3" * self.size}]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OldServer

    def log_message(self, *words: Any) -> None:
        """It keeps quiet."""

    def reply(self, status: int, body: Any = None, session: str = "") -> None:
        content = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("connection", "close")
        if session:
            self.send_header("mcp-session-id", session)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.reply(405)

    def do_DELETE(self) -> None:
        self.reply(200)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        session, new = self.headers.get("mcp-session-id", ""), ""
        if asked["method"] == "initialize":
            session = new = uuid.uuid4().hex
            self.server.sessions.add(new)
        if not session:
            self.reply(400)
        elif session not in self.server.sessions:
            self.reply(404)  # as the protocol demands
        elif "id" not in asked:
            self.reply(202)
        elif asked["method"].startswith("tools/") and self.server.statuses:
            self.reply(self.server.statuses.pop(0))
        elif asked["method"] in ("initialize", "tools/list", "tools/call"):
            self.reply(200, {"jsonrpc": "2.0", "id": asked["id"], "result": self.server.said(asked)}, new)
        else:
            error = {"code": -32601, "message": "no such method"}
            self.reply(200, {"jsonrpc": "2.0", "id": asked["id"], "error": error})


@pytest.fixture
def old() -> Iterator[OldServer]:
    server = OldServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("effects", ["none", "external"])
async def test_a_session_that_the_server_forgot_is_opened_again(
    make: Make, old: OldServer, effects: str
) -> None:
    world = make(effects, url=old.url)

    async def run(ctx: SkillContext) -> None:
        for _ in range(3):
            answer = await ctx.mcp("s", "add", {})
            assert (answer.text, answer.is_error) == ("3", False)
            old.sessions.clear()

    await world.bench.attempt(run)
    assert old.done == 3 and not world.bench.core.state.open_steps


async def test_tools_are_told_again_after_a_session_was_lost(make: Make, old: OldServer) -> None:
    world = make(url=old.url)

    async def run(ctx: SkillContext) -> list[str]:
        return [one.name for one in await ctx.mcp_tools("s")]

    assert await world.bench.attempt(run) == ["add"]
    old.sessions.clear()
    assert await world.bench.attempt(run) == ["add"]
    old.statuses = [500] * 9
    with pytest.raises(CallFailed, match="HTTP status 500"):
        await world.bench.attempt(run)


@pytest.mark.parametrize(
    ("effects", "statuses", "code", "left", "is_open"),
    [
        ("none", [503, 500], "", 0, False),
        ("idempotent", [503] * 3, "MCP_CUT_OFF", 0, True),
        ("external", [503] * 2, "MCP_CUT_OFF", 1, True),
        ("external", [429, 401], "", 0, False),
        ("external", [403] * 3, "MCP_UNREACHABLE", 0, False),
    ],
)
async def test_what_http_says_is_no_answer_of_the_tool(
    make: Make, old: OldServer, effects: str, statuses: list[int], code: str, left: int, is_open: bool
) -> None:
    """An error of the server leaves open what was done; a refusal does not."""
    world = make(effects, url=old.url)
    old.statuses = list(statuses)
    if code:
        with pytest.raises(CallFailed, match=f"HTTP status {statuses[0]}") as failed:
            await world.call("add")
        assert failed.value.code == code and old.done == 0
    else:
        assert (await world.call("add")).text == "3"
    assert len(old.statuses) == left
    assert bool(world.bench.core.state.open_steps) == is_open


async def test_what_reached_nobody_is_undone(make: Make, old: OldServer) -> None:
    world = make("external", url=old.url)

    async def run(ctx: SkillContext) -> None:
        await ctx.mcp("s", "add", {})
        old.shutdown()
        old.server_close()
        with pytest.raises(CallFailed) as failed:
            await ctx.mcp("s", "add", {})
        assert failed.value.code == "MCP_UNREACHABLE"

    await world.bench.attempt(run)
    assert not world.bench.core.state.open_steps


def test_a_call_that_was_accepted_is_never_held_for_undone() -> None:
    exchange = Exchange(sent=True)
    exchange.answered(404, True)
    assert exchange.session_ended and exchange.undone
    exchange = Exchange(sent=True)
    exchange.answered(200, True)
    exchange.answered(404, True)
    assert not exchange.undone


def test_words_of_a_server_are_not_held_for_those_of_the_library() -> None:
    exchange = Exchange(sent=True)
    assert not exchange.is_stand_in("Not Found"), "a program has no status"
    exchange.answered(200, True)
    assert not exchange.is_stand_in("Not Found: there is no such note")
    assert exchange.is_stand_in("Unexpected content type: text/html")
    exchange.answered(403, True)
    assert exchange.is_stand_in("Server returned an error response")
    assert not exchange.is_stand_in("Failed to parse JSON response of the user")


async def test_who_waits_for_a_program_that_does_not_greet_waits_once_with_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_S", 5.0)
    begun = tmp_path / "begun"
    world = World(tmp_path, "none", command=("sh", "-c", f"echo >> {begun}; exec sleep 60"))
    line = connection.Connection(world.settings)
    waiting = [asyncio.create_task(line.tools()) for _ in range(5)]
    await until(begun.exists, "the program has begun")
    waiting[0].cancel()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in ends] == [asyncio.CancelledError, *[McpFault] * 4]
    assert begun.read_text() == "\n"
    await line.close()


@pytest.mark.parametrize("way", ["program", "address"])
async def test_a_message_without_end_is_not_waited_for(
    make: Make, old: OldServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    transports = importlib.import_module("coterie.node.mcp.transports")
    monkeypatch.setattr(transports, "MESSAGE_SIZE_MAX", 200_000)
    world = make(url=old.url if way == "address" else "")

    async def run(ctx: SkillContext) -> list[int]:
        found = []
        for size in (100_000, 300_000, 1):
            old.size = size
            try:
                found.append(len((await ctx.mcp("s", "large", {"size": size})).text))
            except CallFailed as failed:
                assert failed.code == "MCP_CUT_OFF"
                found.append(-1)
        return found

    assert await world.bench.attempt(run) == [100_000, -1, 1]


async def test_a_program_that_hangs_is_replaced(make: Make) -> None:
    world = make("external", timeout_ms=4_000)
    hung, before = 0, children()

    async def run(ctx: SkillContext) -> None:
        nonlocal hung
        assert (await ctx.mcp("s", "add", {"a": 1, "b": 2})).text == "3"
        (hung,) = children() - before
        os.kill(hung, signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(CallFailed) as late:
                await ctx.mcp("s", "add", {"a": 1, "b": 2})
            assert late.value.code == "MCP_TIMED_OUT"
        assert (await ctx.mcp("s", "add", {"a": 1, "b": 2})).text == "3"

    await world.bench.attempt(run)
    await until(lambda: hung not in children(), "the hung program is gone")


async def test_a_program_that_ended_between_two_calls_leaves_nothing_in_doubt(make: Make) -> None:
    world = make("external")
    before = children()

    async def run(ctx: SkillContext) -> None:
        await ctx.mcp("s", "send", {"text": "a"})
        (idle,) = children() - before
        os.kill(idle, signal.SIGKILL)
        await until(lambda: idle not in children(), "the program is gone")
        await asyncio.sleep(0.1)  # its end is read
        assert (await ctx.mcp("s", "send", {"text": "b"})).text == "sent b"

    await world.bench.attempt(run)
    assert [one["text"] for one in world.done] == ["a", "b"]
    assert not world.bench.core.state.open_steps


def children() -> set[int]:
    """The processes of this one that are no zombies."""
    text = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return {
        pid for pid in map(int, text.split()) if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    }


@pytest.fixture
async def holder() -> AsyncIterator[asyncio.Task[None]]:
    task: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(60))
    yield task
    task.cancel()


async def test_calls_in_the_air_keep_a_line_that_new_ones_leave(holder: asyncio.Task[None]) -> None:
    client: Any = None
    held = _Held(client, asyncio.Event(), holder)
    async with held.in_use():
        held.retire()
        assert not held.leave.is_set()
    assert held.leave.is_set()


def test_answers_are_measured_before_they_are_written_out() -> None:
    class Block:
        def __init__(self) -> None:
            self.text = "x" * ANSWER_BYTES_MAX

    assert size_at_least([Block()], ANSWER_BYTES_MAX) and not size_at_least([Block()], ANSWER_BYTES_MAX * 2)
    assert size_at_least({"a": [1] * 100}, 100) and not size_at_least({"a": [1]}, 100)
