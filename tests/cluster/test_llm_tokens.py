"""The words of language models reach every reader whole, from any node, whoever dies in the middle."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from coterie.client import Cluster, Event, InvalidRequest, Job, TokenText
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.chaos.streams import streams
from tests.cluster.conftest import READY_S, client_of, new_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

CHUNK_MS = 60
PROMPT = "Wörter, 一 二 三, one after the other, and some more of them"


@pytest.fixture(scope="module")
def server() -> Iterator[LlmServerProcess]:
    with LlmServerProcess("--chunk-chars", "3") as process:
        process.script(chunk_ms=CHUNK_MS)
        yield process


@pytest.fixture(scope="module")
def nodes(server: LlmServerProcess) -> Iterator[LocalCluster]:
    options = {"llm": {"providers": {"main": {"baseUrl": server.url, "model": "m"}}}}
    with new_cluster(options=options) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def client(nodes: LocalCluster) -> AsyncIterator[Cluster]:
    async with client_of(nodes) as opened:
        yield opened


async def think(client: Cluster, *prompts: str, **more: Any) -> Job:
    asks = [{"prompt": prompt} for prompt in prompts]
    return await client.submit_task(type="think", payload={"asks": asks, **more})


async def recorded(job: Job) -> dict[str, str]:
    steps = (await job.get(include_steps=True)).steps
    return {step.name: json.loads(step.raw.result.inline)["text"] for step in steps}


def joined(events: list[Event]) -> dict[str, str]:
    text = TokenText()
    for event in events:
        if event.token is not None:
            text.add(event.token)
    return {step: text[step] for step in text.steps()}


@pytest.fixture
def slow_words(server: LlmServerProcess) -> Iterator[None]:
    """A text lasts for some five seconds: who opens a stream now sees most of it come."""
    server.script(chunk_ms=200)
    yield
    server.script(chunk_ms=CHUNK_MS)


@pytest.mark.usefixtures("slow_words")
async def test_every_node_tells_the_words_as_they_come(nodes: LocalCluster, client: Cluster) -> None:
    async def read(reader: Cluster, job: Job) -> list[Event]:
        async with aclosing(reader.job(job.id).stream()) as events:
            return [event async for event in events]

    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(client_of(nodes, node_id)) for node_id in nodes.node_ids]
        for reader in readers:
            await reader.get_status()
        job = await think(client, PROMPT, PROMPT + "!", parallel=True)
        told = await asyncio.gather(*(read(reader, job) for reader in readers))
    texts = await recorded(job)
    assert texts == {"llm": f"You said: {PROMPT}", "llm#2": f"You said: {PROMPT}!"}
    for events in told:
        assert joined(events) == texts
        assert sum(event.token is not None and not event.token.replayed for event in events) > 10
        durable = [event.sequence for event in events if event.token is None]
        assert durable == list(range(1, len(durable) + 1))
        place = {event.detail: at for at, event in enumerate(events) if event.type == "step"}
        late = [at for at, event in enumerate(events) if event.token and at > place[event.token.step]]
        assert late == [], "all of a text comes before the event of its step"


async def test_a_reader_goes_on_with_its_token_on_another_node(nodes: LocalCluster, client: Cluster) -> None:
    job = await think(client, PROMPT, PROMPT + "?")
    seen: list[Event] = []
    token = ""
    for turn in range(12):
        node_id = nodes.node_ids[turn % 3]
        count = 0
        async with (
            client_of(nodes, node_id) as own,
            aclosing(own.job(job.id).stream(resume_token=token)) as events,
        ):
            async for event in events:
                seen.append(event)
                token = event.resume_token or token
                count += event.token is not None
                if count == 3:
                    break
    async with aclosing(job.stream(resume_token=token)) as events:
        seen += [event async for event in events]
    assert joined(seen) == await recorded(job)
    offsets = [
        (one.token.step, one.token.order, one.token.offset) for one in seen if one.token and one.token.text
    ]
    assert len(offsets) == len(set(offsets)), "nothing comes twice"
    sequences = [event.sequence for event in seen if event.token is None]
    assert sequences == list(range(1, len(sequences) + 1))


async def test_a_reader_who_comes_late_gets_the_recorded_words(client: Cluster) -> None:
    job = await think(client, "short")
    await job.wait(timeout=60)
    async with aclosing(job.stream()) as events:
        found = [event async for event in events]
    assert joined(found) == {"llm": "You said: short"}
    assert all(event.token.replayed for event in found if event.token)
    async with aclosing(job.watch()) as events:
        assert all([event.token is None async for event in events])


async def test_the_command_line_prints_the_words(nodes: LocalCluster, client: Cluster) -> None:
    job = await think(client, PROMPT)
    assert nodes.client_tls is not None
    where = ["--endpoint", nodes.endpoints, "--tls-dir", str(nodes.client_tls.ca.parent)]
    command = [sys.executable, "-m", "coterie.node.cli", *where, "task", "watch", job.id, "--tokens"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    # Events stand on lines of their own, wherever the words are by then; the label comes again after them.
    words = [line for line in said.decode().splitlines() if not re.match(r"\d\d:\d\d:\d\d\.\d+ ", line)]
    assert f"You said: {PROMPT}" in "".join(words).replace("[llm] ", "") and process.returncode == 0


@pytest.mark.parametrize("rest", ["~x", "~W1sxXQ", "~W1siYSIsMSwxLC01XV0", "~" + "A" * 5])
async def test_a_token_of_nobody_is_refused(client: Cluster, rest: str) -> None:
    job = await think(client, "short")
    with pytest.raises(InvalidRequest, match="not a token"):
        async with aclosing(job.stream(resume_token=f"{job.id}.1{rest}")) as events:
            async for _ in events:
                pass


async def test_no_word_is_lost_or_repeated_while_nodes_die() -> None:
    figures = await streams(kills=1, readers=3, asks=2)
    assert figures.faults == [] and figures.wrong == 0
    assert min(figures.kills.values()) >= 1 and figures.nodes_killed <= 3
    assert figures.texts >= 6 and figures.live > 50
