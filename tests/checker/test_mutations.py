"""The checker finds each of fourteen kinds of broken history, and nothing in histories that are good.

The good histories come from simulated runs with faults, so they hold lost answers, deposed attempts and
cancellations. The table goes to the output: `pytest -s tests/checker`."""

from __future__ import annotations

import random

import pytest

from tests.checker.check import judge
from tests.checker.history import History
from tests.checker.mutations import MUTATIONS, broken
from tests.sim.cluster.run import run_history

HISTORIES = 60
APPLICABLE_MIN = 5


@pytest.fixture(scope="module")
def histories() -> list[History]:
    return [run_history(seed, 3).history for seed in range(50_000, 50_000 + HISTORIES)]


@pytest.mark.timeout(300)
def test_good_histories_raise_no_alarm(histories: list[History]) -> None:
    verdicts = [judge(history) for history in histories]
    assert [verdict.faults for verdict in verdicts if verdict.faults] == []
    assert sum(verdict.undecided for verdict in verdicts) == 0
    assert sum(verdict.tasks for verdict in verdicts) > 500
    print(f"\n{len(histories)} good histories, {sum(v.tasks for v in verdicts)} tasks: 0 false alarms")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_history_is_found(histories: list[History], name: str) -> None:
    caught = applicable = 0
    for number, history in enumerate(histories):
        made = broken(history, MUTATIONS[name], random.Random(number))
        if made is not None:
            applicable += 1
            caught += bool(judge(made).faults)
    print(f"\n{name:24} {caught:3} of {applicable:3} caught")
    assert caught == applicable
    assert applicable >= APPLICABLE_MIN
