"""What a run asks its node for, and what it gets back."""

from __future__ import annotations

import pytest

from coterie.skills import CallFailed, CallRefused, Fenced, NotRecorded
from tests.skills.support import Bench, RecordingPort


async def test_a_call_brings_arguments_there_and_an_answer_back(bench: Bench) -> None:
    port = RecordingPort(answer={"value": [1, "ä"]})
    assert await bench.value("calls", ["kv.get", {"key": "k"}], port=port) == {"value": [1, "ä"]}
    assert port.calls == [("kv.get", {"key": "k"})]


@pytest.mark.parametrize(
    ("error", "kind", "code", "retryable"),
    [
        (CallFailed("no majority", code="NO_QUORUM"), "failed", "NO_QUORUM", True),
        (CallRefused("too long a key", code="BAD_KEY"), "failed", "BAD_KEY", False),
        (NotRecorded("lost"), "failed", "NOT_RECORDED", True),
        (Fenced("attempt 2 runs"), "fenced", "FENCED", True),
    ],
)
async def test_a_refusal_reaches_the_skill_as_what_it_is(
    bench: Bench, error: Exception, kind: str, code: str, retryable: bool
) -> None:
    outcome = await bench.run("calls", ["kv.get", {}], port=RecordingPort(refuse=error))
    assert (outcome.kind, outcome.code, outcome.retryable) == (kind, code, retryable)
