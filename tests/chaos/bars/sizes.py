"""Bar 21: what is too large is refused at the edge, by name, never in the log; a long queue costs little."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from coterie.client import Cluster, CoterieError
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.report import Report
from tests.chaos.tools.family import resident_bytes
from tests.chaos.tools.machine import is_busy, patience

KIB, MIB = 1024, 1024 * 1024
INLINE_MAX, BLOB_MAX, RESULT_MAX, CHECKPOINT_MAX = 256 * KIB, 8 * MIB, 1 * MIB, 1 * MIB
HUGE = 200 * MIB
DAG_NODES = 10_000
RSS_MAX = 1_536 * MIB
P99_FACTOR, P99_FLOOR_S = 3.0, 0.05
PROBES = 300
PENDING_MAX = 1_000_000  # the most a cluster can be told to hold
QUEUED_AT_ONCE = 2_000
END_S = 120.0
OPTIONS = {
    "distribution": {"taskQueue": {"maxPending": PENDING_MAX}},
    "limits": {
        "blobMax": BLOB_MAX,
        "resultMax": RESULT_MAX,
        "checkpointMax": CHECKPOINT_MAX,
        "liveBytesMax": 1 << 30,
    },
}


@dataclass(slots=True)
class Edge:
    """Asks for what is allowed and for what is not."""

    client: Cluster
    report: Report
    asked: int = 0

    async def takes(self, what: str, ask: Callable[[], Awaitable[Any]]) -> None:
        """It must work."""
        self.asked += 1
        try:
            await ask()
        except CoterieError as error:
            self.report.demand(False, f"{what}: refused, {type(error).__name__}: {str(error)[:120]}")

    async def refuses(self, what: str, ask: Callable[[], Awaitable[Any]], word: str) -> None:
        """It must fail with an error of ours that holds the word."""
        self.asked += 1
        try:
            await ask()
        except CoterieError as error:
            text = f"{getattr(error, 'reason', '')} {getattr(error, 'code', '')} {error}"
            self.report.demand(word.lower() in text.lower(), f"{what}: {text[:200]} does not say {word!r}")
        else:
            self.report.demand(False, f"{what}: accepted")

    async def echo(self, size: int) -> None:
        """A JSON payload of that many bytes, which is its own result."""
        job = await self.client.submit_task(type="echo", payload="x" * (size - 2))
        await job.wait(timeout=END_S)

    async def submit(self, size: int) -> None:
        """The payload alone: it is not run."""
        payload = "x" * (size - 2)
        await (await self.client.submit_task(type="echo", payload=payload, start_delay="1h")).cancel()

    async def checkpoint(self, size: int) -> None:
        """A skill that keeps a checkpoint of that many bytes."""
        job = await self.client.submit_task(type="keep", payload={"bytes": size}, max_attempts=1)
        await job.wait(timeout=END_S)


async def run(setting: Setting, report: Report) -> None:
    """Sizes, graphs, a long queue."""
    queued = PENDING_MAX - 2 * PROBES if setting.full else 20_000
    with Field(setting.base_dir, nodes=3, options=OPTIONS) as nodes:
        await nodes.wait_ready(READY_S)
        async with nodes.client(attempt_s=20.0) as client:  # a graph of 10,000 nodes is a lot of text
            edge = Edge(client, report)
            log_before = await _log_bytes(nodes)
            await _sizes(edge)
            grown = await _log_bytes(nodes) - log_before
            await _graphs(edge)
            await _queue(nodes, client, queued, report)
        died = [node_id for node_id in nodes.node_ids if not nodes.alive(node_id)]
    report.demand(not died, f"node processes died: {died}")
    report.demand(grown < BLOB_MAX, f"the log of a node grew by {grown >> 20} MB: what is large is in there")
    report.require("sizes asked for", edge.asked, 12)
    figures = report.figures
    report.text = (
        f"{edge.asked} sizes just within and just beyond their limits, {HUGE >> 20} MB, a graph of "
        f"{DAG_NODES:,} nodes, a cycle: each taken or refused by name; {queued:,} tasks queued in "
        f"{figures['filled_s']} s: RSS {figures['rss_mb']} MB, submit p99 {figures['p99_full_ms']} ms, "
        f"{figures['p99_empty_ms']} ms when empty"
    )


async def _sizes(edge: Edge) -> None:
    for size in (INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1):
        await edge.takes(f"payload and result of {size:,} bytes", partial(edge.echo, size))
    await edge.takes("a payload of the most a blob may have", lambda: edge.submit(BLOB_MAX))
    await edge.refuses("a payload of one byte more", lambda: edge.submit(BLOB_MAX + 1), "blob")
    await edge.refuses("a payload of 200 MB", lambda: edge.submit(HUGE), "blob")
    await edge.takes("a result of the most it may have", lambda: edge.echo(RESULT_MAX))
    await edge.refuses("a result of one byte more", lambda: edge.echo(RESULT_MAX + 1), "result")
    await edge.takes("a checkpoint of the most it may have", lambda: edge.checkpoint(CHECKPOINT_MAX))
    await edge.refuses("a checkpoint of one more", lambda: edge.checkpoint(CHECKPOINT_MAX + 1), "checkpoint")


async def _graphs(edge: Edge) -> None:
    workflows = edge.client.workflows
    most, more = _chain(DAG_NODES), _chain(DAG_NODES + 1)

    async def planned() -> None:
        problems = (await workflows.plan(most)).problems
        edge.report.demand(not problems, f"a graph of {DAG_NODES:,} nodes: {problems[:2]}")

    async def cycle() -> None:
        await workflows.run(json.dumps({"name": "round", "tasks": _tasks(3, closed=True)}))

    await edge.takes("the largest graph", planned)
    await edge.refuses("a graph of one node more", lambda: workflows.run(more), "10001")
    await edge.refuses("a cycle", cycle, "t0")


def _chain(count: int) -> str:
    return json.dumps({"name": "chain", "tasks": _tasks(count)})


def _tasks(count: int, *, closed: bool = False) -> list[dict[str, Any]]:
    """Rows of 100, each task after one of the row before."""
    after = {number: [f"t{number - 100}"] for number in range(100, count)}
    if closed:
        after = {number: [f"t{(number + 1) % count}"] for number in range(count)}
    return [
        {"id": f"t{number}", "skill": "echo", "dependencies": after.get(number, [])}
        for number in range(count)
    ]


async def _queue(nodes: Field, client: Cluster, count: int, report: Report) -> None:
    """Tasks that wait for their time, many of them; what one more costs then."""
    busy = is_busy()
    empty = await _p99(client)
    began = time.monotonic()
    acked = 0
    for start in range(0, count, QUEUED_AT_ONCE):
        later = {"type": "echo", "payload": start, "start_delay": "10h"}
        acked += len(await client.submit_tasks([later] * min(QUEUED_AT_ONCE, count - start)))
    filled = time.monotonic() - began
    full = await _p99(client)
    rss = max(resident_bytes(nodes.pid(node_id)) for node_id in nodes.node_ids)
    pending = (await client.get_status()).active_tasks
    report.figures |= {"queued": pending, "filled_s": round(filled, 1), "rss_mb": rss >> 20}
    report.figures |= {"p99_empty_ms": round(1_000 * empty, 1), "p99_full_ms": round(1_000 * full, 1)}
    report.demand(rss <= RSS_MAX, f"a node took {rss >> 20} MB")
    limit = max(P99_FLOOR_S, P99_FACTOR * empty) * patience(busy)
    report.demand(
        full <= limit, f"a submit took {1_000 * full:.0f} ms (p99), {1_000 * empty:.0f} ms when empty"
    )
    report.require("tasks queued", pending, acked)
    report.require("tasks acked", acked, count)


async def _p99(client: Cluster) -> float:
    """Seconds of a submit, one after the other."""
    took = []
    for number in range(PROBES):
        began = time.monotonic()
        await client.submit_task(type="echo", payload=number, start_delay="10h")
        took.append(time.monotonic() - began)
    return sorted(took)[int(0.99 * (PROBES - 1))]


async def _log_bytes(nodes: Field) -> int:
    """The largest journal of a node."""

    def size(node_id: str) -> int:
        return (nodes.data_dir(node_id) / "raft" / "raft.journal").stat().st_size

    return await asyncio.to_thread(lambda: max(map(size, nodes.node_ids)))


BAR = Bar(21, "sizes and long queues", run, ())
