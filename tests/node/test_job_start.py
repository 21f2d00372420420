"""When the start of an attempt is reported."""

from __future__ import annotations

import asyncio

import pytest

from coterie.core.commands import Accepted, Command, Outcome, StartTask
from coterie.node.skillhost import SkillOutcome
from tests.node.test_job import Bench, FakeHost, FakeProposer


class Starts(FakeProposer):
    """Says when a start is reported."""

    def __init__(self) -> None:
        super().__init__()
        self.reported = asyncio.Event()

    async def one(self, command: Command, timeout_s: float) -> Outcome:
        if isinstance(command, StartTask):
            self.reported.set()
            return Accepted(command.task_id)
        return await super().one(command, timeout_s)


class BusyHost(FakeHost):
    """Has no process to give for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.looked = 3, asyncio.Event()

    def is_waiting(self, task_id: str, attempt: int) -> bool:
        self.busy -= 1
        if not self.busy:
            self.looked.set()
        return self.busy >= 0


async def test_a_start_is_reported_once_a_process_has_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.node.job.START_DELAY_S", 0.001)
    proposer, host = Starts(), BusyHost()
    bench = Bench(proposer, host)
    bench.start()
    await host.looked.wait()
    assert not proposer.reported.is_set()
    await proposer.reported.wait()
    host.end.set_result(SkillOutcome("succeeded", b"42"))
    await bench.job.done
    assert host.busy == -1
