"""Bar 20: tasks that harm whoever runs them, among good ones. No node dies, good tasks hardly wait longer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import Any

from coterie.client import Cluster, Job, TaskError
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.report import Report
from tests.chaos.tools.machine import is_busy, patience

WAYS = ("abort", "segv", "memory", "loop", "flood", "exit-in-checkpoint")
ATTEMPTS = 3
RETRY = {"max_attempts": ATTEMPTS, "initial_backoff": "50ms", "max_backoff": "200ms", "dead_letter": True}
GOOD: dict[str, Any] = {"type": "sleep", "payload": {"seconds": 0.1}}
RATE_PER_S = 20.0  # of good tasks
ATTEMPT = "1s"  # a loop's
DELAY_FACTOR = 2.0
DELAY_FLOOR_S = 0.5  # below which twice as long is nothing
END_S = 180.0
# What is to be seen is the tasks' own end: breakers would keep them waiting, and after three nodes they
# would be put away before their attempts are used up.
OPTIONS = {"faultTolerance": {"circuitBreaker": {"enabled": False}}}


async def run(setting: Setting, report: Report) -> None:
    """The good alone, then the good with the bad among them."""
    good, bad = (1_000, 100) if setting.full else (120, 12)
    with Field(setting.base_dir, nodes=3, options=OPTIONS) as field:
        await field.wait_ready(READY_S)
        pids = {node_id: field.pid(node_id) for node_id in field.node_ids}
        async with field.client() as client:
            busy = is_busy()
            alone, _ = await _measure(client, good, 0)
            mixed, poison = await _measure(client, good, bad)
            await _judge_poison(client, poison, report)
        died = [node_id for node_id in field.node_ids if not field.alive(node_id)]
        died += [
            node_id for node_id, pid in pids.items() if field.alive(node_id) and field.pid(node_id) != pid
        ]
    report.demand(not died, f"node processes died: {died}")
    report.require("good tasks done", len(mixed), good)
    report.require("poison", len(poison), bad)
    before, with_poison = _p99(alone), _p99(mixed)
    limit = max(DELAY_FLOOR_S, DELAY_FACTOR * before) * patience(busy)
    report.demand(
        with_poison <= limit, f"good tasks took {with_poison:.2f} s (p99), {before:.2f} s without poison"
    )
    report.figures |= {
        "p99_alone_s": round(before, 3),
        "p99_mixed_s": round(with_poison, 3),
        "died": len(died),
    }
    report.text = (
        f"{len(poison)} poisonous tasks ({', '.join(WAYS)}) among {len(mixed):,} good ones: node processes "
        f"that died {len(died)}, good tasks done {len(mixed):,}, poison put away after {ATTEMPTS} attempts "
        f"{report.figures['put_away']}; good tasks p99 {with_poison:.2f} s, {before:.2f} s without poison"
    )


async def _measure(client: Cluster, good: int, bad: int) -> tuple[list[float], list[Job]]:
    """Good tasks at a steady rate, bad ones in between. Returns how long the good took, and the bad."""
    took: list[float] = []
    poison: list[Job] = []

    async def one_good() -> None:
        began = time.monotonic()
        job = await client.submit_task(**GOOD)
        await job.wait(timeout=END_S)
        took.append(time.monotonic() - began)

    async def one_bad(number: int) -> None:
        how = WAYS[number % len(WAYS)]
        task = {"type": "poison", "payload": {"how": how}, "retry": RETRY, "timeout": ATTEMPT}
        poison.append(await client.submit_task(**task))  # type: ignore[arg-type]

    due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(good):
            due += 1 / RATE_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(one_good())
            if bad and number % (good // bad) == 0 and number // (good // bad) < bad:
                group.create_task(one_bad(number // (good // bad)))
    return took, poison


async def _judge_poison(client: Cluster, poison: list[Job], report: Report) -> None:
    attempts: Counter[int] = Counter()
    states: Counter[str] = Counter()
    for job in poison:
        with contextlib.suppress(TaskError):
            await job.wait(timeout=END_S)
        info = await job.get()
        attempts[info.failures] += 1
        states[info.state] += 1
    report.figures |= {"poison_states": dict(states), "failures": dict(attempts)}
    report.figures["put_away"] = min(states["DEAD_LETTERED"], attempts[ATTEMPTS])
    wrong = report.figures["put_away"] != len(poison)
    report.demand(not wrong, f"poison ended as {dict(states)} after {dict(attempts)} failures")


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))] if seconds else float("inf")


BAR = Bar(20, "poisonous tasks", run, ())
