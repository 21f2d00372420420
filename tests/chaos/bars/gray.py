"""Bar 14: a node that lives and says so, with a twentieth of a processor. Work avoids it, and comes back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from coterie.client import Cluster
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field, others
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report
from tests.chaos.tools import needs
from tests.chaos.tools.cgroups import Squeeze, processor_groups
from tests.chaos.tools.family import family
from tests.chaos.tools.machine import is_busy, patience

TASK: dict[str, Any] = {"type": "sleep", "payload": {"seconds": 0.2, "steps": 2}}
RATE_PER_S = 20.0
PERCENT = 5
LEARNT_S = 10.0  # from then on it gets hardly anything
SHARE_MAX = 0.05
BACK_S, BACK_SHARE = 30.0, 0.5  # half of what is its due
P99_FACTOR, P99_FLOOR_S = 2.0, 0.5
WINDOW_S = 3.0
END_S = 120.0


@dataclass(frozen=True, slots=True)
class Done:
    """A task that ended."""

    asked_at: float
    took_s: float
    node: str


@dataclass(slots=True)
class Stream:
    """Tasks at a steady rate."""

    client: Cluster
    done: list[Done] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled."""
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while True:
                due += 1 / RATE_PER_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._one())

    async def _one(self) -> None:
        asked = time.monotonic()
        job = await self.client.submit_task(**TASK)
        await job.wait(timeout=END_S)
        took = time.monotonic() - asked
        self.done.append(Done(asked, took, (await job.get()).node))

    def share(self, node_id: str, begin: float, end: float) -> float:
        """Of the tasks asked for then and done by now."""
        nodes = [one.node for one in self.done if begin <= one.asked_at < end]
        return nodes.count(node_id) / len(nodes) if nodes else 0.0

    def p99(self, begin: float, end: float, but: str = "") -> float:
        """Of tasks that did not end on that node."""
        took = sorted(one.took_s for one in self.done if begin <= one.asked_at < end and one.node != but)
        return took[int(0.99 * (len(took) - 1))] if took else float("inf")


async def run(setting: Setting, report: Report) -> None:
    """Healthy, gray, healthy again."""
    healthy_s, gray_s, tasks = (30.0, 90.0, 2_000) if setting.full else (8.0, 20.0, 400)
    with Field(setting.base_dir, nodes=3) as nodes:
        await nodes.wait_ready(READY_S)
        async with Lookout(nodes) as lookout:
            leader = await lookout.known_leader()
        victim = others(nodes, leader)[0]
        async with nodes.client(*others(nodes, victim)) as client:
            busy = is_busy()
            stream = Stream(client)
            streaming = asyncio.create_task(stream.run())
            await asyncio.sleep(3.0)
            began = time.monotonic()
            await asyncio.sleep(healthy_s)
            squeezed = time.monotonic()
            squeeze = Squeeze(victim, PERCENT)
            try:
                squeeze.take(family(nodes.pid(victim)))
                await asyncio.sleep(gray_s)
            finally:
                released = time.monotonic()
                squeeze.release()
            back = await _back(stream, victim, released, len(nodes.node_ids))
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
    healthy, gray = stream.p99(began, squeezed), stream.p99(squeezed + LEARNT_S, released, victim)
    share = stream.share(victim, squeezed + LEARNT_S, released)
    _judge(report, healthy, gray, share, back, patience(busy))
    report.require("tasks", len(stream.done), tasks)
    report.text = (
        f"a node with {PERCENT} % of a processor: from {LEARNT_S:.0f} s on it gets {share:.1%} of new "
        f"tasks; p99 elsewhere {gray:.2f} s, healthy {healthy:.2f} s; back "
        f"{'never' if back is None else f'{back:.0f} s'} after its recovery"
    )


def _judge(
    report: Report, healthy: float, gray: float, share: float, back: float | None, factor: float
) -> None:
    report.figures |= {
        "p99_healthy_s": round(healthy, 3),
        "p99_gray_s": round(gray, 3),
        "share": round(share, 4),
    }
    report.figures["back_s"] = back
    limit = max(P99_FLOOR_S, P99_FACTOR * healthy) * factor
    report.demand(gray <= limit, f"p99 of tasks elsewhere {gray:.2f} s, healthy {healthy:.2f} s")
    report.demand(share <= SHARE_MAX, f"the gray node got {share:.1%} of new tasks")
    report.demand(back is not None, f"{BACK_S:g} s after its recovery it got less than half of its due")


async def _back(stream: Stream, victim: str, released: float, nodes: int) -> float | None:
    """Seconds until it got half of its due again during WINDOW_S."""
    while (now := time.monotonic()) < released + BACK_S + WINDOW_S:
        await asyncio.sleep(0.5)
        begin = max(released, now - WINDOW_S)
        if now - begin >= WINDOW_S / 2 and stream.share(victim, begin, now) >= BACK_SHARE / nodes:
            return round(now - released, 1)
    return None


BAR = Bar(14, "a gray node", run, (needs.root, processor_groups))
