"""ctx.mcp over the real calls and rules, against a real server; only the nodes' processes are left out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coterie.core.commands import ResolveStep
from coterie.core.decisions.nouns import Resolution
from coterie.core.nouns import Data, WaitReason
from coterie.node import decision_calls
from coterie.node.config import McpServerSettings
from coterie.node.mcp import answers, calls
from coterie.node.mcp.calls import McpCaller
from coterie.node.skillhost.nouns import Suspended
from coterie.skills import CallFailed, CallRefused, InDoubt, McpAnswer, SkillContext, ToolFailed
from tests.node.family_bench import PARENT, FamilyBench

SERVER = str(Path(__file__).parent / "mcp_server.py")


class World:
    """The calls over one server, which is `s`, and what it was asked to do."""

    def __init__(
        self,
        folder: Path,
        effects: str,
        command: tuple[str, ...] = (),
        timeout_ms: int = 60_000,
        url: str = "",
    ) -> None:
        self.ledger = folder / "ledger"
        mine = (sys.executable, SERVER, "--ledger", str(self.ledger))
        self.settings = settings = McpServerSettings(
            name="s",
            command=command or (() if url else mine),
            url=url,
            env={},
            cwd=None,
            headers={},
            allow=("add", "send", "d?e", "large", "fail"),
            skills=("*",),
            effects=effects,
            timeout_ms=timeout_ms,
        )
        closed = replace(settings, name="closed", skills=("other",))
        self.caller = McpCaller({"s": settings, "closed": closed})
        handlers = {**decision_calls.HANDLERS, **self.caller.handlers}
        self.bench = FamilyBench(lambda kind, payload: None, handlers)

    @property
    def done(self) -> list[dict[str, Any]]:
        return list(map(json.loads, self.ledger.read_text().splitlines())) if self.ledger.exists() else []

    async def call(self, tool: str, arguments: Any = None, server: str = "s", **options: Any) -> McpAnswer:
        async def run(ctx: SkillContext) -> McpAnswer:
            return await ctx.mcp(server, tool, arguments, **options)

        answer: McpAnswer = await self.bench.attempt(run)
        return answer


Make = Callable[..., World]


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr(calls, "PAUSE_S", 0.01)
    made: list[World] = []

    def build(effects: str = "none", **more: Any) -> World:
        made.append(World(tmp_path, effects, **more))
        return made[-1]

    yield build
    for world in made:
        await world.caller.close()


@pytest.mark.parametrize("effects", ["none", "idempotent", "external"])
async def test_an_answer_is_recorded_and_never_asked_for_again(make: Make, effects: str) -> None:
    world = make(effects)
    first = await world.call("send", {"text": "a"})
    assert (first.text, first.is_error, first.replayed) == ("sent a", False, False)
    world.bench.lose()
    again = await world.call("send", {"text": "a"})
    assert again == first and again.replayed
    assert [one["key"] for one in world.done] == ["p/mcp:s.send"]
    assert not world.bench.core.state.doubts


async def test_a_tool_is_called_by_its_name_too(make: Make) -> None:
    world = make()

    async def run(ctx: SkillContext) -> Any:
        results = [await ctx.tool("s__add", {"a": 1, "b": 2}), await ctx.tool("s__send", {"text": "a"})]
        with pytest.raises(ToolFailed, match=r"s__fail: .*no luck"):
            await ctx.tool("s__fail", {"text": "no luck"}, name="f")
        with pytest.raises(ValueError, match="'priority' is an option of tasks"):
            await ctx.tool("s__add", {"a": 1, "b": 2}, priority="high")
        return results

    first = await world.bench.attempt(run)
    assert first == [{"result": 3}, {"result": "sent a"}], "structured, where there is such a result"
    world.bench.lose()
    assert await world.bench.attempt(run) == first and len(world.done) == 1


async def test_equal_calls_are_steps_of_their_own_and_may_run_together(make: Make) -> None:
    world = make()

    async def run(ctx: SkillContext) -> list[str]:
        asked = [ctx.mcp("s", "add", {"a": number, "b": 1}) for number in range(5)]
        return [one.text for one in await asyncio.gather(*asked)]

    assert await world.bench.attempt(run) == ["1", "2", "3", "4", "5"]


async def test_errors_of_a_tool_are_answers(make: Make) -> None:
    for tool, arguments, said in (
        ("fail", {"text": "x"}, "it went wrong: x"),
        ("add", {"a": "one"}, "valid integer"),
        ("dye", {}, "Unknown tool"),
    ):
        world = make("external")
        answer = await world.call(tool, arguments)
        assert answer.is_error and said in answer.text
        assert not world.bench.core.state.open_steps


async def test_an_answer_that_is_too_long_is_told_so(make: Make) -> None:
    answer = await make().call("large", {"size": answers.ANSWER_BYTES_MAX})
    assert answer.is_error and "bytes" in answer.text and len(answer.text) < 200


@pytest.mark.parametrize(("effects", "times"), [("none", 3), ("idempotent", 3), ("external", 1)])
async def test_a_server_that_dies_is_called_again_where_that_may_be(
    make: Make, effects: str, times: int
) -> None:
    world = make(effects)
    with pytest.raises(CallFailed) as failed:
        await world.call("die")
    assert failed.value.code == "MCP_CUT_OFF" and len(world.done) == times
    assert len({one["key"] for one in world.done}) == 1
    assert (await world.call("add", {"a": 1, "b": 2})).text == "3", "a new server is started"


async def test_after_a_cut_an_external_call_waits_for_a_person(make: Make) -> None:
    world = make("external")
    with pytest.raises(CallFailed):
        await world.call("die")
    world.bench.lose()
    with pytest.raises(Suspended):
        await world.call("die")
    wait = world.bench.core.task("p").wait
    assert wait is not None and (wait.reason, wait.name) == (WaitReason.IN_DOUBT, "mcp:s.die")
    said = ResolveStep(PARENT, "mcp:s.die", Resolution.DONE, Data(b'"it did"'), "ann", "I looked")
    world.bench.core.do(said)
    world.bench.core.assign("p")
    answer = await world.call("die")
    assert (answer.text, answer.is_error, len(world.done)) == ("it did", False, 1)


async def test_or_says_that_it_is_in_doubt(make: Make) -> None:
    world = make("external")
    with pytest.raises(CallFailed):
        await world.call("die", on_unknown="fail")
    world.bench.lose()
    with pytest.raises(InDoubt):
        await world.call("die", on_unknown="fail")
    with pytest.raises(CallRefused, match="none of ask, fail"):
        await world.call("send", {"text": "a"}, on_unknown="retry")


async def test_a_call_that_takes_too_long_fails_and_the_others_go_on(make: Make) -> None:
    world = make("idempotent", timeout_ms=3_000)
    await world.call("add", {"a": 1, "b": 2})

    async def run(ctx: SkillContext) -> list[Any]:
        slow = ctx.mcp("s", "send", {"text": "slow", "ms": 60_000})
        quick = ctx.mcp("s", "send", {"text": "quick", "ms": 100})
        return list(await asyncio.gather(slow, quick, return_exceptions=True))

    late, answer = await world.bench.attempt(run)
    assert isinstance(late, CallFailed) and late.code == "MCP_TIMED_OUT"
    assert answer.text == "sent quick"
    assert [one["text"] for one in world.done] == ["slow", "quick"], "not called again"


async def test_a_server_that_does_not_start_did_nothing(make: Make) -> None:
    world = make("external", command=(sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(CallFailed) as failed:
        await world.call("add", {"a": 1, "b": 2})
    assert failed.value.code == "MCP_UNREACHABLE"
    assert not world.bench.core.state.open_steps, "nothing is in doubt"
    world.bench.lose()
    assert not world.bench.core.state.doubts


@pytest.mark.parametrize(
    ("tool", "server", "code"),
    [
        ("hidden", "s", "MCP_NOT_ALLOWED"),
        ("add", "none", "MCP_UNKNOWN_SERVER"),
        ("add", "closed", "MCP_UNKNOWN_SERVER"),
    ],
)
async def test_what_is_not_allowed_is_refused_before_anything_is_begun(
    make: Make, tool: str, server: str, code: str
) -> None:
    world = make("external")
    with pytest.raises(CallRefused) as refused:
        await world.call(tool, {}, server)
    assert refused.value.code == code and not world.bench.core.state.open_steps


async def test_tools_are_told_with_their_schemas(make: Make) -> None:
    world = make()

    async def run(ctx: SkillContext) -> Any:
        return await ctx.mcp_servers(), await ctx.mcp_tools("s")

    servers, tools = await world.bench.attempt(run)
    assert servers == ["s"]
    assert [one.name for one in tools] == ["add", "die", "fail", "large", "send"]
    assert tools[0].description == "Adds two numbers."
    assert tools[0].input_schema["properties"]["a"]["type"] == "integer"


async def test_a_program_that_does_not_end_by_itself_is_killed(make: Make, tmp_path: Path) -> None:
    program = tmp_path / "stubborn.py"
    program.write_text(
        "import os, signal, sys, runpy, threading\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        f"sys.argv = ['server', '--ledger', {str(tmp_path / 'ledger')!r}]\n"
        f"runpy.run_path({SERVER!r}, run_name='__main__')\n"
    )
    world = make(command=(sys.executable, str(program)))
    assert (await world.call("add", {"a": 1, "b": 2})).text == "3"
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)
    await world.caller.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
