"""Skills that wait: nothing of them is left while they do, and each attempt gets the same signals."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.node.skillhost.nouns import SkillWait
from coterie.skills import Fenced
from tests.skills.support import Bench, RecordingPort


async def test_signals_come_in_their_order_name_by_name(bench: Bench) -> None:
    port = RecordingPort(signals={"a": [b'{"n": 1}', b"", b"3"], "b": [b'"x"']})
    assert await bench.value("waits", ["a", "b", "a", "a"], port=port) == [{"n": 1}, "x", None, 3]
    assert [(wait.name, wait.seen) for wait in port.waits] == [("a", 0), ("b", 0), ("a", 1), ("a", 2)]


@pytest.mark.parametrize("skill", ["waits", "waits-plainly"])
async def test_a_wait_for_what_has_not_come_ends_the_run(bench: Bench, skill: str) -> None:
    port = RecordingPort(signals={"a": [b"1"]})
    outcome = await bench.run(skill, ["a", "b"], port=port)
    assert outcome.kind == "suspended"
    assert port.waits[-1] == SkillWait("SIGNAL", "b", 0, 0)
    assert bench.host.running == 0
    port.signals["b"] = [b"2"]
    assert await bench.value(skill, ["a", "b"], port=port) == [1, 2], "a later attempt"


async def test_a_wait_that_ran_out_says_so(bench: Bench) -> None:
    port = RecordingPort(signals={"a": [None]})
    outcome = await bench.run("waits", ["a"], port=port)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("failed", "WAIT_TIMED_OUT", False)


async def test_a_sleep_is_a_timer_of_its_own(bench: Bench) -> None:
    port = RecordingPort(signals={"timer:1": [None]})
    assert (await bench.run("naps", [0.5, 0], port=port)).kind == "suspended"
    assert port.waits == [SkillWait("TIMER", "timer:1", 0, 500), SkillWait("TIMER", "timer:2", 0, 1)]


async def test_an_approval_says_what_it_is(bench: Bench) -> None:
    port = RecordingPort(signals={"ok": [b"true"]})
    assert await bench.value("asks", {"name": "ok", "timeout": 1.5}, port=port) is True
    assert port.waits == [SkillWait("APPROVAL", "ok", 0, 1_500)]


@pytest.mark.parametrize(
    "given", [{"name": "a b"}, {"name": ""}, {"name": "timer:1"}, {"name": "a", "timeout": -1}]
)
async def test_a_wait_that_makes_no_sense_is_the_skills_own_fault(bench: Bench, given: Any) -> None:
    port = RecordingPort()
    assert (await bench.run("asks", given, port=port)).code == "SKILL_FAILED"
    assert not port.waits


async def test_a_deposed_attempt_is_not_told_anything(bench: Bench) -> None:
    outcome = await bench.run("waits", ["a"], port=RecordingPort(refuse=Fenced("attempt 2 runs")))
    assert outcome.kind == "fenced"
