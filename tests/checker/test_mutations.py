"""The checker finds each of fourteen kinds of broken history, and nothing in histories that are good.

The good histories come from simulated runs with faults, so they hold lost answers, deposed attempts and
cancellations. Each is tried whole, and as clients alone could tell it: of real runs nothing else is known.
The tables go to the output: `pytest -s tests/checker`."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from tests.checker.check import judge
from tests.checker.history import History
from tests.checker.mutations import MUTATIONS, Mutation, broken
from tests.checker.opened import CLIENTS_CALLS, FACES, SEEN, UNSEEN, opened
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


def caught(name: str, made: Iterable[History | None]) -> tuple[int, int]:
    """Of the histories to which it applied: how many the checker faulted, and how many there are."""
    faulted = [bool(judge(one).faults) for one in made if one is not None]
    print(f"\n{name:28} {sum(faulted):3} of {len(faulted):3} caught")
    assert len(faulted) >= APPLICABLE_MIN
    return sum(faulted), len(faulted)


def broken_all(histories: list[History], mutation: Mutation) -> Iterator[History | None]:
    for number, history in enumerate(histories):
        yield broken(history, mutation, random.Random(number))


@pytest.mark.timeout(300)
def test_a_copy_that_nothing_was_done_to_raises_no_alarm(histories: list[History]) -> None:
    """Else everything would be found."""
    for history in histories:
        for one in (history, opened(history)):
            made = broken(one, lambda history, rng: True, random.Random(1))
            assert made is not None and judge(made).faults == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_history_is_found(histories: list[History], name: str) -> None:
    found, of = caught(name, broken_all(histories, MUTATIONS[name]))
    assert found == of


# --- as clients alone can tell it


def test_of_each_kind_of_fault_it_is_said_whether_clients_see_it() -> None:
    assert sorted([*SEEN, *UNSEEN]) == sorted(MUTATIONS)


@pytest.mark.timeout(300)
def test_good_histories_of_clients_raise_no_alarm(histories: list[History]) -> None:
    told = [opened(history) for history in histories]
    assert {call.kind for history in told for call in history.calls} == CLIENTS_CALLS
    verdicts = [judge(history) for history in told]
    assert [verdict.faults for verdict in verdicts if verdict.faults] == []
    assert sum(verdict.undecided for verdict in verdicts) == 0
    assert sum(verdict.tasks for verdict in verdicts) > 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SEEN)
def test_a_fault_that_clients_see_is_found(histories: list[History], name: str) -> None:
    made = broken_all(histories, MUTATIONS[name])
    found, of = caught(name, (one and opened(one) for one in made))
    assert found == of


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", UNSEEN)
def test_a_fault_that_clients_do_not_see_may_pass(histories: list[History], name: str) -> None:
    """If it were found each time it would belong to those that must be."""
    made = broken_all(histories, MUTATIONS[name])
    found, of = caught(name, (one and opened(one) for one in made))
    assert found < of, UNSEEN[name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FACES)
def test_what_a_fault_looks_like_to_clients_is_found(histories: list[History], name: str) -> None:
    found, of = caught(name, broken_all([opened(history) for history in histories], FACES[name]))
    assert found == of
