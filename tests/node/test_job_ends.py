"""Ends of attempts that a skill has a say in: none of them is started again for ever."""

from __future__ import annotations

import logging

import pytest

from coterie.core.commands import FailAttempt, ReleaseTask
from coterie.core.nouns import Data, Step
from coterie.node.skillhost import SkillOutcome, verdicts
from tests.node.test_job import Bench


async def test_who_is_said_to_be_deposed_is_reported_as_failed_and_the_log_decides() -> None:
    """A skill may raise Fenced itself. Without a report the same attempt would be started again, for ever."""
    bench = Bench()
    bench.start()
    bench.host.end.set_result(SkillOutcome("fenced", code="FENCED", message="I stop"))
    command = await bench.reported()
    assert isinstance(command, FailAttempt)
    assert (command.error.code, command.error.message, command.error.retryable) == ("FENCED", "I stop", True)


async def test_a_lost_lease_is_told_in_the_log_of_its_node(caplog: pytest.LogCaptureFixture) -> None:
    """Else a task that is begun again and again by a node that is cut off would have no visible cause."""
    bench = Bench()
    bench.start()
    with caplog.at_level(logging.WARNING, "coterie.node.job"):
        bench.host.end.set_result(verdicts.LEASE_LOST)
        assert isinstance(await bench.reported(), ReleaseTask)
    [said] = caplog.records
    assert (said.levelno, said.__dict__["task_id"], said.__dict__["attempt"]) == (logging.WARNING, "t1", 1)
    assert said.message == said.msg and "lease" in said.message, "the same phrase each time: so it is limited"


async def test_a_skill_cannot_say_that_its_node_is_to_blame() -> None:
    bench = Bench()
    bench.start()
    bench.host.end.set_result(SkillOutcome("failed", code="HOST_LOST", message="not me"))
    assert isinstance(await bench.reported(), FailAttempt)


async def test_a_journal_that_no_process_takes_is_not_even_loaded() -> None:
    """Only what lies in the log counts against the bytes of a task; of blobs there may be any amount."""
    steps = [Step(f"s{n}", 1, Data(sha256="0" * 64, size_bytes=1 << 20), 1) for n in range(1_025)]
    bench = Bench()
    bench.job._steps = steps
    bench.blobs.faults = [RuntimeError("something was loaded")]
    bench.start()
    command = await bench.reported()
    assert isinstance(command, FailAttempt)
    assert (command.error.code, command.error.retryable) == ("TOO_LARGE", False)
