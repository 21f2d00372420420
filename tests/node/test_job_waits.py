"""What a skill is told that cannot be let wait."""

from __future__ import annotations

import pytest

from coterie.core.commands import Rejected
from tests.node.test_job import WAIT, Bench


@pytest.mark.parametrize("code", ["TOO_MANY_STEPS", "TASK_TOO_LARGE"])
async def test_a_wait_that_the_journal_has_no_room_for_is_an_error_of_the_skill(code: str) -> None:
    """It would come again with the next attempt, were this one only fenced off."""
    bench = Bench()
    bench.proposer.suspend = lambda _: Rejected(code, "at most 2 waits of a task run out")
    with pytest.raises(ValueError, match="at most 2 waits"):
        await bench.job.wait(WAIT)
