"""What a skill takes, does and gives when all goes well, and the errors that are the skill's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.skills.conftest import MakeBench
from tests.skills.support import FENCED, Bench, RecordingPort, as_steps

WriteFolder = Callable[..., Path]


async def test_the_shipped_echo_returns_its_input(bench: Bench) -> None:
    given = {"text": "größer", "list": [1, 2.5, None, True], "deep": {"a": {"b": []}}}
    assert await bench.value("echo", given) == given


async def test_the_shipped_sleep_records_each_nap(bench: Bench) -> None:
    port = RecordingPort()
    assert await bench.value("sleep", {"seconds": 0, "steps": 3}, port=port) == {
        "slept_seconds": 0.0,
        "steps": 3,
    }
    assert list(port.steps) == ["nap", "nap#2", "nap#3"]
    assert port.progress[-1] == (100.0, "3 of 3")


@pytest.mark.parametrize("given", [{"seconds": "x"}, {"seconds": -1}, {"steps": 0}, {"steps": True}, "soon"])
async def test_the_shipped_sleep_refuses_bad_input(bench: Bench, given: Any) -> None:
    outcome = await bench.run("sleep", given)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("failed", "BAD_INPUT", False)


async def test_an_empty_payload_is_none(bench: Bench) -> None:
    outcome = await bench.run("echo", payload=b"")
    assert (outcome.kind, outcome.result) == ("succeeded", b"null")


@pytest.mark.parametrize("payload", [b"{", b"NaN", b"\xff", b"[" * 100_000])
async def test_a_payload_that_is_not_json_is_refused(bench: Bench, payload: bytes) -> None:
    outcome = await bench.run("echo", payload=payload)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("failed", "BAD_INPUT", False)
    assert outcome.message.startswith("payload: not JSON")


async def test_models_are_validated_and_dumped(bench: Bench) -> None:
    assert await bench.value("model", {"item": "tea", "count": 2}) == {"total": 6}
    outcome = await bench.run("model", {"count": "many"})
    assert (outcome.code, outcome.retryable) == ("BAD_INPUT", False)
    assert "payload: 'item' is missing; add a string" in outcome.message
    assert 'payload.count: "many" is not an integer; send an integer' in outcome.message


async def test_a_result_is_what_the_skill_promises(make_bench: MakeBench, skill_folder: WriteFolder) -> None:
    typed = """
from pydantic import BaseModel, Field

class Sum(BaseModel):
    total: int = Field(le=10)
    parts: list[int] = []

def run(ctx, given) -> Sum:
    return Sum(total=given) if given < 3 else {"total": given, "parts": ["1"]}
"""
    described = """---
name: {name}
description: Adds. Use in tests.
metadata:
  coterie: '{{"handler": "handler.py:run"{more}}}'
---
"""
    output = ', "output": {"type": "object", "required": ["total"]}'
    skill_folder("typed", described.format(name="typed", more=""), typed)
    plain = "def run(ctx, given):\n    return given\n"
    root = skill_folder("plain", described.format(name="plain", more=output), plain)
    bench = await make_bench(root)
    assert await bench.value("typed", 2) == {"total": 2, "parts": []}
    assert await bench.value("typed", 4) == {"total": 4, "parts": [1]}
    assert await bench.value("plain", {"total": "any"}) == {"total": "any"}
    too_much = await bench.run("typed", 11)
    assert (too_much.code, too_much.retryable) == ("BAD_OUTPUT", False)
    assert too_much.message.startswith("result: total: Input should be less than or equal to 10 (it is 11)")
    nothing = await bench.run("plain", {})
    assert (nothing.code, nothing.retryable) == ("BAD_OUTPUT", False)
    assert nothing.message == "result: 'total' is missing; add it"


async def test_the_context_knows_the_run(bench: Bench) -> None:
    facts = await bench.value("facts", attempt=7, task_id="t", checkpoint=b'{"cursor":10}')
    assert facts == {"task": "t", "attempt": 7, "node": "n1", "restored": {"cursor": 10}}


async def test_each_step_is_recorded_once_with_its_own_key(bench: Bench) -> None:
    port = RecordingPort()
    value = await bench.value("steps", ["a", "b", "a"], port=port)
    assert value["ran"] == ["a", "b", "a"]
    assert list(port.steps) == ["a", "b", "a#2"]
    # The first run sees what a resumed one would: JSON has no tuples.
    assert value["results"][0] == json.loads(port.steps["a"]) == {"name": "a", "pair": [1, 2]}


async def test_recorded_steps_are_not_run_again(bench: Bench) -> None:
    port = RecordingPort()
    recorded = as_steps({"a": "first", "a#2": None})
    given: dict[str, Any] = {"port": port, "steps": recorded, "attempt": 2}
    value = await bench.value("steps", ["a", "b", "a"], beside={"a#2": ("b",)}, **given)
    assert value["ran"] == ["b"]
    assert [value["results"][0], value["results"][2]] == ["first", None]
    assert list(port.steps) == ["b"]
    # Without a word on what became of b, a run that asked for it before the second a is not this one.
    other = await bench.run("steps", ["a", "b", "a"], **given)
    assert other.code == "NOT_DETERMINISTIC" and "'a#2' (number 2" in other.message
    whole = await bench.value("steps", ["a", "b", "a"], checkpoint=b"1", checkpointed=2, **given)
    assert whole["ran"] == ["b"]


async def test_steps_may_run_side_by_side(bench: Bench) -> None:
    port = RecordingPort()
    assert await bench.value("gather", 40, port=port) == [n * n for n in range(40)]
    assert len(port.steps) == 40


async def test_a_plain_function_runs_in_a_thread_with_the_same_context(bench: Bench) -> None:
    port = RecordingPort()
    assert await bench.value("plain", 5, port=port) == {"value": 20, "main": False}
    assert port.steps == {"double": b"10", "double#2": b"20"}
    assert (port.progress, port.checkpoints) == ([(50.0, "half")], [{"first": 10}])


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("json", "NOT_JSON", "the result of step 's' cannot be written as JSON"),
        ("large", "TOO_LARGE", "the result of step 's' takes 2000002 bytes as JSON, the limit is 1048576"),
        ("raises", "SKILL_FAILED", "ZeroDivisionError: integer"),
        ("stop-iteration", "SKILL_FAILED", "RuntimeError: the function raised StopIteration"),
        ("a#b", "SKILL_FAILED", "ValueError: step name: 'a#b' has '#'"),
        ("", "SKILL_FAILED", "ValueError: step name: ''"),
    ],
)
async def test_a_bad_step_fails_clearly_and_records_nothing(
    bench: Bench, what: str, code: str, said: str
) -> None:
    port = RecordingPort()
    outcome = await bench.run("bad-step", what, port=port)
    assert (outcome.kind, outcome.code) == ("failed", code)
    assert outcome.message.startswith(said)
    assert port.steps == {}


async def test_a_fenced_step_ends_the_run_and_its_process(bench: Bench) -> None:
    outcome = await bench.run("steps", ["a", "b"], port=RecordingPort(refuse=FENCED))
    assert (outcome.kind, outcome.code, outcome.message) == ("fenced", "FENCED", "attempt 1 was deposed")
    assert bench.host.child_pids == []


async def test_a_step_that_was_not_committed_is_a_retryable_failure(bench: Bench) -> None:
    port = RecordingPort(refuse=TimeoutError("no majority"))
    outcome = await bench.run("steps", ["a"], port=port)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("failed", "NOT_RECORDED", True)
    assert outcome.message == "no majority"


async def test_the_last_progress_of_a_burst_arrives(bench: Bench) -> None:
    port = RecordingPort()
    await bench.run("report", list(range(101)), port=port)
    assert (port.progress[0], port.progress[-1]) == ((0.0, "at 0"), (100.0, "at 100"))
    assert len(port.progress) < 50


@pytest.mark.parametrize("percent", [-1, 100.5, "half", True, None])
async def test_progress_out_of_range_is_an_error(bench: Bench, percent: Any) -> None:
    port = RecordingPort()
    outcome = await bench.run("report", [percent], port=port)
    assert outcome.message.startswith("ValueError: percent: ")
    assert port.progress == []


async def test_all_that_a_skill_says_goes_to_the_log_hook(bench: Bench) -> None:
    outcome = await bench.run("chatty", task_id="talker", attempt=3)
    assert outcome.kind == "succeeded", outcome
    assert {record[:2] for record in bench.logged} == {("talker", 3)}
    assert sorted(record[2:] for record in bench.logged) == [
        ("error", "by thread"),
        ("info", "by descriptor"),
        ("info", "by print"),
        ("info", "by program"),
        ("warning", "by log"),
    ]


async def test_the_environment_is_nearly_empty(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    monkeypatch.setenv("GREETING", "hello")
    bench = await make_bench(env_allow=("GREETING",))
    seen = await bench.value("surroundings")
    assert seen["env"].pop("GREETING") == "hello"
    allowed = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH"}
    assert set(seen["env"]) <= allowed


async def test_a_process_has_limits_and_a_session_of_its_own(make_bench: MakeBench) -> None:
    limits = {"open_files_max": 99, "memory_bytes_max": 2**31, "processes_max": 1234, "nice": 7}
    bench = await make_bench(limits=limits)
    seen = await bench.value("surroundings", ["CORE", "NOFILE", "AS", "NPROC"])
    assert seen["limits"] == {"CORE": 0, "NOFILE": 99, "AS": 2**31, "NPROC": 1234}
    assert (seen["nice"], seen["is_leader"], seen["stdin"]) == (7, True, "")
    # 0, 1, 2, the socket, the loop's own, and the listing itself: nothing of the node or the zygote.
    assert seen["fds"] <= 8


@pytest.mark.parametrize(
    ("how", "code", "said", "retryable"),
    [
        ("raise", "SKILL_FAILED", "ValueError: no good", True),
        ("give-up", "HOPELESS", "hopeless", False),
        ("unprintable", "SKILL_FAILED", "Unprintable: (its text cannot be shown)", True),
        ("exit", "SKILL_EXITED", "the skill called sys.exit(3); raise an error", True),
        ("interrupt", "SKILL_FAILED", "KeyboardInterrupt", True),
        ("self-cancel", "SKILL_FAILED", "CancelledError", True),
        ("recursion", "SKILL_FAILED", "RecursionError: ", True),
        ("object", "NOT_JSON", "the result cannot be written as JSON (a object is not", False),
        ("nan", "NOT_JSON", "the result cannot be written as JSON (Out of range float", False),
        ("large", "TOO_LARGE", "the result takes 100000002 bytes as JSON, the limit is 16777216", False),
    ],
)
async def test_a_failure_is_typed(bench: Bench, how: str, code: str, said: str, retryable: bool) -> None:
    outcome = await bench.run("fail", how)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("failed", code, retryable)
    assert outcome.message.startswith(said)
    assert await bench.value("echo", 1) == 1


async def test_a_failure_comes_with_its_traceback(bench: Bench) -> None:
    outcome = await bench.run("fail", "raise")
    assert "samples.py" in outcome.traceback and 'raise ValueError("no good")' in outcome.traceback


async def test_a_huge_message_is_cut(bench: Bench) -> None:
    outcome = await bench.run("fail", "huge")
    assert outcome.kind == "failed"
    assert len(outcome.message.encode()) < 10_000 and len(outcome.traceback.encode()) < 40_000


async def test_an_unknown_skill_is_a_retryable_failure(bench: Bench) -> None:
    outcome = await bench.run("nowhere")
    assert (outcome.kind, outcome.code, outcome.retryable) == ("failed", "UNKNOWN_SKILL", True)


async def test_the_same_attempt_cannot_run_twice(bench: Bench) -> None:
    task, job = await bench.begin("wait")
    with pytest.raises(ValueError, match="running already"):
        await bench.host.run(job, RecordingPort())
    bench.host.cancel(job.task_id, job.attempt, 10_000)
    assert (await task).kind == "cancelled"
