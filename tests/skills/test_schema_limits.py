"""What a skill takes and gives is checked around its run, however large, and the node goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from coterie.node.skillhost import SkillOutcome
from tests.skills.conftest import MakeBench
from tests.skills.support import RecordingPort

MANIFEST = """---
name: numbers
description: Gives back what it is given.
metadata:
  version: "1"
  coterie:
    handler: handler.py:run
    input: {type: array, items: {type: number}}
    output: {type: array, items: {type: number}}
---
"""
HANDLER = """
async def run(ctx, given):
    return given if len(given) > 1 else [1.5] * 200_000 + ["x"]
"""


async def turns_beside(work: asyncio.Task[SkillOutcome]) -> int:
    """How often the loop turned until it was done."""
    turns = 0
    while not (await asyncio.wait([work], timeout=0.001))[0]:
        turns += 1
    return turns


async def test_large_payloads_and_results_are_checked_beside_the_loop(
    make_bench: MakeBench, skill_folder: Callable[..., Path]
) -> None:
    bench = await make_bench(skill_folder("numbers", MANIFEST, HANDLER))
    given = [i / 7 for i in range(200_000)]
    for value, code, at in (
        (given, "", ""),
        ([*given, "x"], "BAD_INPUT", "payload[200000]"),
        ([1], "BAD_OUTPUT", "result[200000]"),
    ):
        running = asyncio.create_task(bench.run("numbers", value))
        turns = await turns_beside(running)
        outcome = await running
        assert outcome.code == code and at in outcome.message, outcome.message
        assert turns > 5  # beside a loop that is blocked there are none, or two


async def test_a_run_is_cancelled_while_its_payload_is_checked(
    make_bench: MakeBench, skill_folder: Callable[..., Path]
) -> None:
    bench = await make_bench(skill_folder("numbers", MANIFEST, HANDLER))
    job = bench.job("numbers", [1] * 200_000)
    running = asyncio.create_task(bench.host.run(job, RecordingPort()))
    await asyncio.sleep(0)
    bench.host.cancel(job.task_id, job.attempt, 10_000)
    assert (await running).kind == "cancelled"
