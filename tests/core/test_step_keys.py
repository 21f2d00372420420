"""Keys of steps are part of what a task keeps: they have an end, and what is long counts."""

from __future__ import annotations

import pytest

from coterie.core.commands import Accepted, BeginStep, Outcome, RecordStep, Rejected
from coterie.core.decisions.nouns import OnUnknown
from coterie.core.nouns import NO_DATA, TaskId
from coterie.core.task_rules import STEP_KEY_CHARS_MAX, STEP_OVERHEAD_BYTES
from coterie.skills import replay
from tests.core.builders import CoreCluster
from tests.core.llm_calls import begin

T1 = TaskId("t1")
LONGEST = "k" * STEP_KEY_CHARS_MAX


@pytest.fixture
def cluster() -> CoreCluster:
    made = CoreCluster().with_node()
    made.running()
    return made


def code(outcome: Outcome) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def test_no_step_has_a_longer_key_however_it_begins(cluster: CoreCluster) -> None:
    long = f"{LONGEST}k"
    assert code(cluster.do(RecordStep(T1, 1, long, NO_DATA))) == "BAD_STEP"
    assert code(cluster.do(BeginStep(T1, 1, long, "effect", OnUnknown.RETRY))) == "BAD_STEP"
    assert code(begin(cluster, key=long)) == "BAD_STEP"
    assert not cluster.state.steps and not cluster.state.open_steps and not cluster.state.llm.calls
    assert cluster.do(RecordStep(T1, 1, LONGEST, NO_DATA)) == Accepted(T1)


@pytest.mark.parametrize(("key", "more"), [(LONGEST, 0), ("\u00e9" * STEP_KEY_CHARS_MAX, STEP_KEY_CHARS_MAX)])
def test_what_a_key_takes_beyond_ascii_counts(cluster: CoreCluster, key: str, more: int) -> None:
    before = cluster.task().bytes_held
    cluster.do(RecordStep(T1, 1, key, NO_DATA))
    assert cluster.task().bytes_held == before + STEP_OVERHEAD_BYTES + more


def test_a_skill_and_the_log_know_one_bound() -> None:
    """The core imports nothing of the skills, so it is written down twice."""
    assert replay.STEP_KEY_CHARS_MAX == STEP_KEY_CHARS_MAX
