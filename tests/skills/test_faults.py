"""Skills that crash, hang, flood and leak: each a clear outcome, and the host stays healthy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from coterie.node.skillhost.child import Child, Run
from tests.skills.conftest import MakeBench
from tests.skills.support import Bench, RecordingPort, alive, children_of, open_fds, until

MINUTE_MS = 60_000


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("abort", "killed by SIGABRT"),
        ("segfault", "killed by SIGSEGV"),
        ("kill", "killed by SIGKILL"),
        ("exit", "exited with status 3"),
        ("exit in task", "exited with status 70"),
        ("close and spin", "closed its connection to the node"),
    ],
)
async def test_a_crash_names_its_cause(bench: Bench, how: str, said: str) -> None:
    outcome = await bench.run("crash", how)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("crashed", "SKILL_CRASHED", True)
    assert outcome.message == f"the skill's process {said}"
    assert await bench.value("echo", 1) == 1


async def test_closing_all_descriptors_is_a_crash(bench: Bench) -> None:
    outcome = await bench.run("crash", "close")
    assert (outcome.kind, outcome.code) == ("crashed", "SKILL_CRASHED")
    assert await bench.value("echo", 1) == 1


async def test_a_segfault_leaves_a_traceback(bench: Bench) -> None:
    outcome = await bench.run("crash", "segfault")
    assert "Segmentation fault" in outcome.traceback and "samples.py" in outcome.traceback


async def test_writing_into_the_socket_is_a_protocol_error(bench: Bench) -> None:
    outcome = await bench.run("crash", "babble")
    assert (outcome.kind, outcome.code) == ("crashed", "PROTOCOL_ERROR")
    assert await bench.value("echo", 1) == 1


async def test_a_crash_harms_no_other_run(bench: Bench) -> None:
    task, job = await bench.begin("wait")
    for how in ("abort", "segfault", "close"):
        await bench.run("crash", how)
    assert not task.done()
    bench.host.cancel(job.task_id, job.attempt, MINUTE_MS)
    assert (await task).kind == "cancelled"


@pytest.mark.parametrize("skill", ["wait", "wait-plain", "spin", "block", "stubborn"])
async def test_a_timeout_kills_whatever_the_skill_does(bench: Bench, skill: str) -> None:
    outcome = await bench.run(skill, timeout_ms=300)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("timed_out", "TIMED_OUT", True)
    assert outcome.message == "the attempt took longer than 300 ms"
    assert bench.host.child_pids == []


async def test_a_timeout_counts_the_wait_for_a_process(make_bench: MakeBench) -> None:
    bench = await make_bench(max_children=1)
    task, job = await bench.begin("wait")
    assert (await bench.run("echo", timeout_ms=50)).kind == "timed_out"
    bench.host.cancel(job.task_id, job.attempt, MINUTE_MS)
    assert (await task).kind == "cancelled"


async def test_a_run_without_a_process_is_known_to_wait(make_bench: MakeBench) -> None:
    bench = await make_bench(max_children=1)
    task, first = await bench.begin("wait")
    second = bench.job("echo")
    later = asyncio.create_task(bench.host.run(second, RecordingPort()))
    await until(lambda: bench.host.is_waiting(second.task_id, 1), "it waits for the only process")
    assert not bench.host.is_waiting(first.task_id, 1)
    bench.host.cancel(first.task_id, 1, MINUTE_MS)
    assert [(await task).kind, (await later).kind] == ["cancelled", "succeeded"]
    assert not bench.host.is_waiting(second.task_id, 1)


@pytest.mark.parametrize("skill", ["wait", "wait-plain"])
async def test_a_skill_that_agrees_is_cancelled_and_its_process_used_again(bench: Bench, skill: str) -> None:
    task, job = await bench.begin(skill)
    (pid,) = bench.host.child_pids
    bench.host.cancel(job.task_id, job.attempt, MINUTE_MS)
    outcome = await task
    assert (outcome.kind, outcome.code, outcome.retryable) == ("cancelled", "CANCELLED", False)
    assert await bench.value("pid") == pid


async def test_a_cancellation_that_comes_with_the_run_is_not_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process finds both in its socket when it begins to read."""
    start = Child.start

    def cancelled(self: Child, run: Run, node_id: str, settings: Mapping[str, Any]) -> None:
        start(self, run, node_id, settings)
        bench.host.cancel(run.job.task_id, run.job.attempt, 60_000)

    with monkeypatch.context() as patch:
        patch.setattr(Child, "start", cancelled)
        outcome = await bench.run("pid")
    assert (outcome.kind, outcome.code, outcome.retryable) == ("cancelled", "CANCELLED", False)
    [pid] = bench.host.child_pids
    assert await bench.value("pid") == pid


async def test_a_plain_skill_is_cancelled_in_the_middle_of_a_step(bench: Bench) -> None:
    task, job = await bench.begin("wait-plain", "in a step")
    bench.host.cancel(job.task_id, job.attempt, MINUTE_MS)
    assert (await task).kind == "cancelled"


async def test_a_cancelled_skill_may_tidy_up_first(bench: Bench) -> None:
    task, job = await bench.begin("wait", "tidy")
    bench.host.cancel(job.task_id, job.attempt, MINUTE_MS)
    assert (await task).kind == "cancelled"
    assert bench.port.checkpoints == ["tidied"]


async def test_a_skill_that_finishes_in_its_grace_has_succeeded(bench: Bench) -> None:
    task, job = await bench.begin("late")
    bench.host.cancel(job.task_id, job.attempt, MINUTE_MS)
    assert (await task).result == b'"finished all the same"'


@pytest.mark.parametrize("skill", ["spin", "block", "stubborn"])
async def test_a_skill_that_does_not_listen_is_killed_after_the_grace(bench: Bench, skill: str) -> None:
    task, job = await bench.begin(skill)
    (pid,) = bench.host.child_pids
    bench.host.cancel(job.task_id, job.attempt, 50)
    assert (await task).kind == "cancelled"
    assert not alive(pid)


async def test_a_waiting_run_is_cancelled_at_once(make_bench: MakeBench) -> None:
    bench = await make_bench(max_children=1)
    task, job = await bench.begin("wait")
    second = bench.job("echo")
    waiting = asyncio.create_task(bench.run("echo", task_id=second.task_id))
    await until(lambda: bench.host.running == 2, "the second run is queued")
    bench.host.cancel(second.task_id, 1, MINUTE_MS)
    assert (await waiting).kind == "cancelled"
    bench.host.cancel(job.task_id, job.attempt, MINUTE_MS)
    assert (await task).kind == "cancelled"


async def test_cancelling_an_unknown_run_does_nothing(bench: Bench) -> None:
    bench.host.cancel("nobody", 1, 0)
    assert await bench.value("echo", 1) == 1


async def test_cancelling_the_coroutine_kills_the_process(bench: Bench) -> None:
    task, _ = await bench.begin("spin")
    (pid,) = bench.host.child_pids
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)
    assert await bench.value("echo", 1) == 1


@pytest.mark.parametrize("how", ["print", "lines", "log", "descriptor"])
async def test_a_flood_of_output_is_cut_and_hurts_nobody(make_bench: MakeBench, how: str) -> None:
    bench = await make_bench(limits={"log_bytes_max": 20_000})
    assert await bench.value("flood", how) == "done"
    assert sum(len(text) for *_, text in bench.logged) < 25_000
    assert await bench.value("echo", 1) == 1
    await bench.run("chatty")
    assert any(text == "by print" for *_, text in bench.logged), "the next run has a budget of its own"


async def test_memory_above_the_limit_is_an_error_of_the_skill(make_bench: MakeBench) -> None:
    bench = await make_bench(limits={"memory_bytes_max": 400_000_000})
    outcome = await bench.run("allocate", 2_000_000_000)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("failed", "OUT_OF_MEMORY", True)
    assert await bench.value("allocate", 1_000) == 1_000


@pytest.mark.parametrize("what", ["stubborn task", "thread", "step thread", "fds", "memory", "process"])
async def test_a_process_with_leftovers_is_not_used_again(make_bench: MakeBench, what: str) -> None:
    bench = await make_bench(max_children=1, limits={"rss_bytes_max": 90_000_000})
    pid = await bench.value("leak", what)
    assert await bench.value("pid") != pid
    await until(lambda: not alive(pid), "the process with leftovers is dead")


async def test_a_task_left_behind_is_cancelled_and_the_process_used_again(bench: Bench) -> None:
    assert await bench.value("leak", "task") == await bench.value("pid")


@pytest.mark.parametrize("end", ["end", "kill"])
async def test_no_descendant_outlives_its_run(bench: Bench, end: str) -> None:
    if end == "end":
        task, job = await bench.begin("family", "end")
    else:
        task, job = await bench.begin("family")
        bench.host.cancel(job.task_id, job.attempt, 0)
    await task
    ((skill, child, daemon),) = bench.port.checkpoints
    await until(lambda: not any(map(alive, (skill, child, daemon))), "skill, child and daemon are dead")


async def test_a_fork_bomb_is_swept_away(bench: Bench) -> None:
    task, job = await bench.begin("bomb", 30)
    bench.host.cancel(job.task_id, job.attempt, 0)
    assert (await task).kind == "cancelled"
    await until(lambda: not children_of(bench.host.zygote_pid), "all descendants are dead")
    assert await bench.value("echo", 1) == 1


async def test_processes_are_used_again_up_to_their_limit(make_bench: MakeBench) -> None:
    bench = await make_bench(max_children=1, limits={"runs_max": 5})
    pids = [await bench.value("pid") for _ in range(15)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [5, 5, 5]


async def test_no_more_processes_than_allowed(make_bench: MakeBench) -> None:
    bench = await make_bench(max_children=3)
    outcomes = await asyncio.gather(*(bench.run("sleep", {"seconds": 0.01}) for _ in range(30)))
    assert {outcome.kind for outcome in outcomes} == {"succeeded"}
    assert bench.host.stats.forks == len(children_of(bench.host.zygote_pid)) == 3


async def test_five_hundred_runs_leak_no_descriptor_and_no_process(make_bench: MakeBench) -> None:
    bench = await make_bench(limits={"runs_max": 7})
    zygote = bench.host.zygote_pid
    ours, zygotes = open_fds(), open_fds(zygote)
    kinds: Counter[str] = Counter()
    for _ in range(10):
        good = [bench.run("pid") for _ in range(46)]
        bad = [bench.run("crash", how) for how in ("exit", "abort", "close")]
        slow = [bench.run("spin", timeout_ms=100)]
        kinds.update(outcome.kind for outcome in await asyncio.gather(*good, *bad, *slow))
    assert kinds == {"succeeded": 460, "crashed": 30, "timed_out": 10}
    # A living child costs the node its socket and its pipe, and the zygote nothing.
    await until(lambda: open_fds() <= ours + 2 * len(bench.host.child_pids), "our descriptors are closed")
    await until(lambda: open_fds(zygote) == zygotes, "the zygote's descriptors are closed")
    await until(lambda: children_of(zygote) == set(bench.host.child_pids), "no process too many")
    assert len(bench.host.child_pids) <= 4
