"""The state machine and a plain interpreter say the same of random workflows; see tests/sim/workflows."""

from __future__ import annotations

import pytest

from tests.sim.workflows.drive import check


@pytest.mark.parametrize("first", range(0, 300, 20))
def test_random_workflows_mean_what_they_say(first: int) -> None:
    for seed in range(first, first + 20):
        check(seed)
