"""The working folders of confined runs, and what becomes of runs while the sandbox begins."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from coterie.node.skillhost.nouns import ConfinedSkill, SandboxOptions
from tests.skills.conftest import MakeBench
from tests.skills.support import RecordingPort, children_of, until


def guest(folder: Path, source: str) -> ConfinedSkill:
    """A confined skill of these lines."""
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "handler.py").write_text(source)
    return ConfinedSkill(folder=folder, handler="handler.py:run", name="guest")


async def test_a_run_that_is_cancelled_while_the_sandbox_begins_never_runs(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = await make_bench()
    skill = guest(tmp_path / "guest", "async def run(ctx, given):\n    await ctx.progress(1)")
    port, job = RecordingPort(), bench.job("guest", confined=skill)
    run = asyncio.create_task(bench.host.run(job, port))
    await until(lambda: bench.host._starting.locked(), "the sandbox begins")
    with pytest.raises(ValueError, match="running already"):
        await bench.host.run(job, port)
    bench.host.cancel(job.task_id, job.attempt, 60_000)
    assert (await run).kind == "cancelled"
    assert port.progress == []
    assert (await bench.run("guest", port=port, confined=skill)).kind == "succeeded"


async def test_a_sandbox_that_cannot_begin_leaves_no_process(make_bench: MakeBench, tmp_path: Path) -> None:
    nowhere = tmp_path / "full"
    bench = await make_bench(sandbox=SandboxOptions(scratch_dir=nowhere))
    skill = guest(tmp_path / "guest", "def run(ctx, given): return given")
    before = children_of(os.getpid())
    for _ in range(2):
        outcome = await bench.run("guest", 1, confined=skill)
        assert (outcome.kind, outcome.code) == ("crashed", "SKILL_START_FAILED")
        assert children_of(os.getpid()) == before
    nowhere.mkdir()
    assert await bench.value("guest", 1, confined=skill) == 1
