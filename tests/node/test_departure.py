"""An attempt that leaves its node while its skill has calls in the air."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from coterie.core.commands import FinishTask, ReleaseTask
from coterie.core.nouns import Data
from coterie.node.job import Job
from coterie.node.skill_calls import Run
from coterie.node.skillhost import SkillJob, SkillOutcome
from tests.node.test_job import CALLS, T1, Bench, FakeHost


class CallingHost(FakeHost):
    """A skill with two calls under way, and a third after the first."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.under_way, self.released, self.recorded = (asyncio.Event() for _ in range(3))

    async def run(self, job: SkillJob, port: Job) -> SkillOutcome:
        calls = [asyncio.create_task(self._call(port, name)) for name in ("quick", "slow")]
        try:
            self.started.set()
            await asyncio.gather(*calls)
        except asyncio.CancelledError:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            raise
        return SkillOutcome("succeeded", b"1")

    async def _call(self, port: Job, name: str) -> None:
        await port.call("llm.call", b'"%s"' % name.encode())
        if name == "quick":
            await port.call("llm.call", b'"next"')

    async def answer(self, run: Run, name: str) -> int:
        self.heard.append(f"{name} asked")
        if name == "slow":
            self.under_way.set()
            await self.released.wait()
        await self.under_way.wait()
        run.step_recorded()
        self.recorded.set()
        self.heard.append(f"{name} recorded")
        return 1


@pytest.mark.parametrize("called_off", [False, True])
async def test_leaving_cuts_off_no_call_in_the_air(monkeypatch: pytest.MonkeyPatch, called_off: bool) -> None:
    host = CallingHost()
    monkeypatch.setitem(cast(dict[str, Any], CALLS), "llm.call", host.answer)
    bench = Bench(host=host)
    job = bench.start()
    job.leave(at_once=False)
    await host.recorded.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert host.heard == ["quick asked", "slow asked", "quick recorded"], "and no new one is begun"
    if called_off:
        job.stay()
    host.released.set()
    ended = FinishTask(T1, 1, Data(b"1")) if called_off else ReleaseTask(T1, 1, "its node is draining")
    assert await bench.reported() == ended
    assert "slow recorded" in host.heard and ("next recorded" in host.heard) == called_off


async def test_leaving_at_once_waits_for_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    host = CallingHost()
    monkeypatch.setitem(cast(dict[str, Any], CALLS), "llm.call", host.answer)
    bench = Bench(host=host)
    job = bench.start()
    await host.recorded.wait()
    job.leave(at_once=True)
    assert await bench.reported() == ReleaseTask(T1, 1, "its node is draining")
    assert "slow recorded" not in host.heard
