"""Tools of real MCP servers, called by tasks whose nodes are killed in the middle of a call."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coterie.client import Cluster, Job, TaskFailed
from coterie.node.localcluster import LocalCluster, free_addresses
from tests.cluster.conftest import READY_S, client_of, new_cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SERVER = str(Path(__file__).parents[1] / "node" / "mcp_server.py")
WAIT_S = 90.0


@dataclass
class World:
    nodes: LocalCluster
    ledger: Path

    def done(self, text: str) -> list[dict[str, Any]]:
        """What the servers did under that text."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return [one for one in map(json.loads, lines) if one["text"] == text]


def start_http_server(ledger: Path) -> tuple[subprocess.Popen[bytes], str]:
    port = int(free_addresses(1)[0].rpartition(":")[2])
    process = subprocess.Popen([sys.executable, SERVER, "--ledger", str(ledger), "--http", str(port)])
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, f"http://127.0.0.1:{port}/mcp"
        time.sleep(0.1)
    raise RuntimeError("the server does not listen")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Three nodes; each starts its own server on stdio, and all use one over HTTP."""
    folder = tmp_path_factory.mktemp("mcp")
    ledger, word = folder / "ledger", folder / "word"
    word.write_text("from a file\n")
    process, url = start_http_server(ledger)
    command = [sys.executable, SERVER, "--ledger", str(ledger)]
    allow = ["add", "send", "fail", "told"]
    servers = {
        "local": {"command": command, "env": {"WORD": {"file": str(word)}}, "allow": allow, "class": "none"},
        "keyed": {"command": command, "allow": ["s*", "die"], "class": "idempotent", "timeout": "5m"},
        "web": {"url": url, "headers": {"X-Word": {"env": "MCP_WORD"}}, "allow": ["*"], "timeout": "5m"},
        "others": {"url": url, "allow": ["*"], "skills": ["other-*"]},
    }
    try:
        with new_cluster(options={"mcp": {"servers": servers}}, env={"MCP_WORD": "from env"}) as nodes:
            asyncio.run(nodes.wait_ready(READY_S))
            yield World(nodes, ledger)
    finally:
        process.kill()
        process.wait()


async def use(client: Cluster, *calls: list[Any], **more: Any) -> Job:
    return await client.submit_task(
        type="toolbox", payload={"calls": calls, **more}, max_attempts=2, constraints={"session": "together"}
    )


async def refusal(job: Job) -> str:
    with pytest.raises(TaskFailed) as failed:
        await job.wait(timeout=WAIT_S)
    assert failed.value.task.error is not None
    return failed.value.task.error.code


async def test_tools_over_stdio_and_http(world: World) -> None:
    async with client_of(world.nodes) as client:
        calls: list[list[Any]] = [
            ["local", "add", {"a": 1, "b": 2}],
            ["local", "told", {"name": "WORD"}],
            ["local", "fail", {"text": "badly"}],
            ["web", "add", {"a": 20, "b": 22}],
            ["web", "told", {"name": "X-Word"}],
            ["web", "send", {"text": "http"}],
            ["web", "no-such-tool", {}],
        ]
        job = await use(client, *calls, list="local")
        result = await job.wait(timeout=WAIT_S)
        texts = [text for text, _, _ in result["answers"]]
        assert result["servers"] == ["keyed", "local", "web"], "not those for others"
        assert list(result["tools"]) == ["add", "fail", "send", "told"], "and none of what is not allowed"
        assert result["tools"]["add"]["required"] == ["a", "b"]
        assert texts[:2] == ["3", "from a file"] and texts[3:6] == ["42", "from env", "sent http"]
        assert [error for _, error, _ in result["answers"]] == [False, False, True, False, False, False, True]
        assert "it went wrong: badly" in texts[2]
        steps = [step.name for step in (await job.get(include_steps=True)).steps]
        assert steps[:3] == ["mcp:local.add", "mcp:local.told", "mcp:local.fail"]
        (sent,) = world.done("http")
        assert sent["key"] == f"{job.id}/mcp:web.send" and sent["attempt"] >= 1
        assert await refusal(await use(client, ["local", "hidden", {}])) == "MCP_NOT_ALLOWED"
        assert await refusal(await use(client, ["others", "add", {}])) == "MCP_UNKNOWN_SERVER"
        assert world.done("seen") == []


async def killed_in_the_air(world: World, jobs: dict[str, Job]) -> None:
    """Kill the nodes that run the tasks while their tools work, which the test holds. The session has them
    all run on one, mostly: what runs elsewhere costs one more kill, and `again` may then be called again."""
    for text in jobs:

        async def called(text: str = text) -> bool:
            return bool(world.done(text))

        await until(called, f"{text} was called", WAIT_S)
    for node in sorted({(await job.get()).node for job in jobs.values()}):
        world.nodes.kill_node(node)
        world.nodes.start_node(node)
        await world.nodes.wait_ready(READY_S)


async def test_a_call_in_the_air_is_made_again_or_asked_about(world: World) -> None:
    hold = world.ledger.with_name("release")
    send = {name: ["send", {"text": name, "hold": str(hold)}] for name in "kef"}
    async with client_of(world.nodes) as client:
        again = await use(client, ["local", "add", {"a": 1, "b": 1}], ["keyed", *send["k"]])
        asked = await use(client, ["web", *send["e"]])
        failed = await use(client, ["web", *send["f"]], on_unknown="fail")
        await killed_in_the_air(world, {"k": again, "e": asked, "f": failed})
        hold.touch()

        result = await again.wait(timeout=WAIT_S)
        assert [text for text, _, _ in result["answers"]] == ["2", "sent k"]
        assert result["answers"][0][2], "what was recorded is not called again"
        calls = world.done("k")
        assert len(calls) >= 2 and {one["key"] for one in calls} == {f"{again.id}/mcp:keyed.send"}
        attempts = [one["attempt"] for one in calls]
        assert attempts == sorted(set(attempts)), "the fence grows"

        async def waits() -> bool:
            info = await asked.get()
            return (info.state, info.wait_reason) == ("WAITING", "IN_DOUBT")

        await until(waits, "a person is asked", WAIT_S)
        assert len(world.done("e")) == 1
        await client.effects.retry(asked.id, "mcp:web.send", principal="ann")
        assert (await asked.wait(timeout=WAIT_S))["answers"][0][0] == "sent e"
        assert len(world.done("e")) == 2

        assert await refusal(failed) == "IN_DOUBT"
        assert len(world.done("f")) == 1


async def test_programs_end_with_their_node(world: World) -> None:
    async with client_of(world.nodes) as client:
        job = await use(client, ["local", "add", {"a": 1, "b": 1}])
        await job.wait(timeout=WAIT_S)
        node = (await job.get()).node
    world.nodes.kill_node(node)

    async def gone() -> bool:
        return not any(parent == 1 for parent in parents(SERVER))

    await until(gone, "no server is left without its node")
    world.nodes.start_node(node)
    await world.nodes.wait_ready(READY_S)


def parents(word: str) -> list[int]:
    """The parents of the processes that have that word in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_text()
                if word in command.split("\0") and "--http" not in command:
                    found.append(int((entry / "stat").read_text().rpartition(")")[2].split()[1]))
            except OSError:
                continue
    return found
