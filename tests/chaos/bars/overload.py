"""Bar 15: ten times as much work as the cluster can do, for a minute; and many clients that lose their node.

The work takes a slot's time and little of the processor's, so that what is measured is the cluster and not
the machine that the load comes from. Peak: what is done a second when the slots are never empty."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from coterie.client import Cluster, CoterieError, Job, QueueFull, TaskError
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report
from tests.chaos.tools.family import resident_bytes
from tests.chaos.tools.machine import is_busy, patience

TASK: dict[str, Any] = {"type": "sleep", "payload": {"seconds": 0.5}}
CALLERS_OF_PEAK = 100
WARM_S = 5.0
PENDING_MAX = 200
OVERLOAD = 10
TIMES_MIN = 9.0  # of the peak: a load that the machine could not make proves nothing
GOODPUT_MIN, BACK_MIN, BACK_S = 0.7, 0.9, 15.0
USUAL_SHARE = 0.95  # of the peak, afterwards: what is served can only be as much as is asked for
RSS_MAX = 512 << 20
AGAIN_S = 5.0  # after a leader's death nearly all clients have had an answer
OPTIONS = {"distribution": {"taskQueue": {"maxPending": PENDING_MAX}}}


@dataclass(slots=True)
class Crowd:
    """Callers who ask at a rate, whatever the answers are. Times are monotonic."""

    client: Cluster
    done_at: list[float] = field(default_factory=list)
    asked: int = 0
    accepted: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def rate(self, begin: float, end: float) -> float:
        """Tasks done a second."""
        return sum(begin <= at < end for at in self.done_at) / (end - begin)

    async def ask(self, per_s: float, seconds: float, group: asyncio.TaskGroup) -> None:
        """An open loop: it does not wait for anybody."""
        began = due = time.monotonic()
        while due < began + seconds:
            due += 1 / per_s
            if (pause := due - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            group.create_task(self.one())

    async def keep_asking(self, until: float) -> None:
        """A closed loop."""
        while time.monotonic() < until:
            await self.one()

    async def one(self) -> None:
        self.asked += 1
        try:
            job = await self.client.submit_task(**TASK)
        except QueueFull:
            self.refusals["QueueFull"] += 1
        except CoterieError as error:
            self.refusals[type(error).__name__] += 1
        else:
            self.accepted += 1
            await self._end(job)

    async def _end(self, job: Job) -> None:
        try:
            await job.wait()
            self.done_at.append(time.monotonic())
            self.ends["succeeded"] += 1
        except (CoterieError, TaskError) as error:
            self.ends[type(error).__name__] += 1


async def run(setting: Setting, report: Report) -> None:
    """Peak, overload, recovery; then a leader dies in front of many clients."""
    overload_s, clients, asked = (60.0, 200, 8_000) if setting.full else (12.0, 40, 1_600)
    with Field(setting.base_dir, nodes=3, options=OPTIONS) as cluster:
        await cluster.wait_ready(READY_S)
        async with cluster.client() as client:
            crowd = Crowd(client)
            busy = is_busy()
            peak = await _peak(crowd)
            await _overloaded(cluster, crowd, peak, overload_s, report)
            lost = crowd.accepted - crowd.ends["succeeded"]
            report.demand(lost == 0, f"{lost} accepted tasks have no result: {dict(crowd.ends)}")
        herd = await _herd(cluster, clients)
    late = sum(seconds > AGAIN_S * patience(busy) for seconds in herd)
    report.demand(late == 0, f"{late} of {clients} clients had no answer for more than {AGAIN_S:g} s")
    report.figures |= {"peak_per_s": round(peak, 1), "asked": crowd.asked, "accepted": crowd.accepted}
    report.figures |= {"lost": lost, "refusals": dict(crowd.refusals), "busy": busy}
    report.figures["herd_longest_s"] = round(max(herd, default=0.0), 2)
    report.require("asked", crowd.asked, asked)
    report.require("refused", crowd.refusals["QueueFull"], asked // 2)
    report.require("clients", len(herd), clients)
    figures = report.figures
    report.text = (
        f"peak {peak:.0f} tasks/s; {OVERLOAD} times that for {overload_s:.0f} s: goodput "
        f"{figures['goodput']:.0%}, afterwards {figures['back']:.0%} within {figures['back_after_s']} s; "
        f"asked {crowd.asked:,}, accepted {crowd.accepted:,}, of them lost {lost}; RSS at most "
        f"{figures['rss_mb']} MB; a leader's death before {clients} clients: all answered after "
        f"{figures['herd_longest_s']} s"
    )


async def _peak(crowd: Crowd) -> float:
    began = time.monotonic()
    end = began + 2 * WARM_S
    await asyncio.gather(*(crowd.keep_asking(end) for _ in range(CALLERS_OF_PEAK)))
    return crowd.rate(began + WARM_S, end)


async def _overloaded(cluster: Field, crowd: Crowd, peak: float, seconds: float, report: Report) -> None:
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            await asyncio.sleep(0.5)
            most = max(most, *(resident_bytes(cluster.pid(node_id)) for node_id in cluster.node_ids))

    watching = asyncio.create_task(watch())
    async with asyncio.TaskGroup() as group:
        began, asked = time.monotonic(), crowd.asked
        await crowd.ask(OVERLOAD * peak, seconds, group)
        over, asked = time.monotonic(), crowd.asked - asked
        await crowd.ask(USUAL_SHARE * peak, BACK_S + 5.0, group)
        end = time.monotonic()
    watching.cancel()
    goodput = crowd.rate(began, over) / peak
    back_after, back = _back(crowd, over, end, peak)
    report.figures |= {
        "goodput": round(goodput, 3),
        "back": round(back, 3),
        "back_after_s": round(back_after, 1),
    }
    report.figures["rss_mb"] = most >> 20
    times = asked / (over - began) / peak
    report.figures["times_peak"] = round(times, 1)
    report.require("times the peak that was asked for", round(times, 1), TIMES_MIN)
    report.demand(goodput >= GOODPUT_MIN, f"goodput was {goodput:.0%} of the peak under overload")
    report.demand(back >= BACK_MIN, f"{BACK_S:g} s later it was {back:.0%} of what is asked")
    report.demand(most <= RSS_MAX, f"a node took {most >> 20} MB")


def _back(crowd: Crowd, over: float, end: float, peak: float) -> tuple[float, float]:
    """When, after the overload, three seconds were as good as they should be again, and how good."""
    best = 0.0
    after = 0.0
    while after <= min(BACK_S - 3.0, end - over - 3.0):
        share = crowd.rate(over + after, over + after + 3.0) / (USUAL_SHARE * peak)
        best = max(best, share)
        if share >= BACK_MIN:
            return after + 3.0, share
        after += 0.5
    return BACK_S, best


async def _herd(cluster: Field, count: int) -> list[float]:
    """The leader dies in front of clients with connections of their own. How long each had no answer."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(cluster.client()) for _ in range(count)]
        await asyncio.gather(*(client.submit_task(type="echo", payload=0) for client in clients))
        async with Lookout(cluster) as lookout:
            cluster.kill_node(await lookout.known_leader())
        killed = time.monotonic()

        async def again(client: Cluster) -> float:
            await client.submit_task(type="echo", payload=1)
            return time.monotonic() - killed

        return await asyncio.gather(*(again(client) for client in clients))


BAR = Bar(15, "overload", run, ())
