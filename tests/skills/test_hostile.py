"""Processes that say more than they may, or what no process says: the node stays quick, small and sure."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest

from coterie.node.skillhost.records import PER_TURN, RECORDS_MAX
from coterie.skills.frames import FrameSocket
from coterie.skills.limits import REQUESTS_MAX
from tests.skills.conftest import MakeBench
from tests.skills.support import SAMPLES, Bench, RecordingPort, alive, open_fds, until

HOSTILE = Path(__file__).with_name("hostile.py")


async def hostile_bench(make_bench: MakeBench, **changes: object) -> Bench:
    return await make_bench(HOSTILE, SAMPLES, **changes)


class Turns:
    """Counts how many records came in each turn of the loop."""

    def __init__(self, bench: Bench) -> None:
        self.most = self._in_this = 0
        keep = bench.host.on_skill_log
        loop = asyncio.get_running_loop()

        def seen(task_id: str, attempt: int, level: str, text: str) -> None:
            if not self._in_this:
                loop.call_soon(self._end)
            self._in_this += 1
            keep(task_id, attempt, level, text)

        bench.host.on_skill_log = seen

    def _end(self) -> None:
        self.most, self._in_this = max(self.most, self._in_this), 0


async def test_many_short_lines_are_let_go_a_few_at_a_time_and_to_an_end(make_bench: MakeBench) -> None:
    bench = await hostile_bench(make_bench)
    turns = Turns(bench)
    assert await bench.value("short-lines", 32_768) == "done"
    assert turns.most == PER_TURN
    assert len(bench.logged) == RECORDS_MAX + 1
    *_, level, text = bench.logged[-1]
    assert level == "warning" and "was dropped" in text


async def test_all_that_a_run_said_is_there_when_it_has_ended(make_bench: MakeBench) -> None:
    bench = await hostile_bench(make_bench)
    assert await bench.value("short-lines", 1_500) == "done"
    assert [text for *_, text in bench.logged] == ["a"] * 1_500


async def test_a_process_that_logs_for_ever_is_ended(make_bench: MakeBench) -> None:
    bench = await hostile_bench(make_bench)
    for text in ("", "x" * 4_000):
        bench.logged.clear()
        outcome = await bench.run("log-frames", text)
        assert (outcome.kind, outcome.code) == ("crashed", "PROTOCOL_ERROR")
        assert len(bench.logged) <= RECORDS_MAX + 1
        assert sum(len(said) for *_, said in bench.logged) < 70_000
    assert await bench.value("pid") > 0


PROGRESS = '{"op":"progress","percent":%s,"message":""}'
MALFORMED = {
    "a percent beyond all floats": PROGRESS % ("9" * 400),
    "an infinite id": '{"op":"wait","id":Infinity,"reason":"TIMER","name":"n","seen":0,"timeout_ms":1}',
    "an infinite timeout": '{"op":"wait","id":1,"reason":"TIMER","name":"n","seen":0,"timeout_ms":Infinity}',
    "a level that is a list": '{"op":"log","level":[],"text":""}',
    "no name": '{"op":"call","id":1}',
    "a long op": json.dumps({"op": "x" * 60_000}),
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_frame_ends_the_run(make_bench: MakeBench, what: str) -> None:
    bench = await hostile_bench(make_bench)
    await bench.value("pid")
    before = open_fds() - 2 * len(bench.host.child_pids)
    outcome = await bench.run("raw-frame", MALFORMED[what])
    assert (outcome.kind, outcome.code) == ("crashed", "PROTOCOL_ERROR")
    assert len(outcome.message) <= 2_000
    await until(lambda: open_fds() - 2 * len(bench.host.child_pids) <= before, "its descriptors are closed")
    assert bench.host.running == 0


async def test_malformed_last_words_end_the_run_too(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in the socket when the process is already dead."""
    bench = await hostile_bench(make_bench)
    before = open_fds()
    monkeypatch.setattr(FrameSocket, "_readable", lambda self: None)  # the loop has no time to read
    attach = bench.host._keeper.zygote._frames
    assert attach is not None
    asyncio.get_running_loop().remove_reader(attach._sock.fileno())
    asyncio.get_running_loop().add_reader(attach._sock.fileno(), attach._read_once)
    job = bench.job("raw-frame", PROGRESS % ("9" * 400))
    run = asyncio.create_task(bench.host.run(job, RecordingPort()))
    await until(lambda: bool(bench.host.child_pids), "it has a process")
    (pid,) = bench.host.child_pids
    await until(lambda: waits_in_a_send(pid), "the socket is full")
    bench.host.cancel(job.task_id, job.attempt, 0)
    outcome = await asyncio.wait_for(run, 20)
    assert (outcome.kind, outcome.code) == ("cancelled", "CANCELLED")
    assert bench.host.child_pids == [] and not alive(pid)
    assert open_fds() == before


def waits_in_a_send(pid: int) -> bool:
    """Whether the process sleeps after it has written."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S" and unread_by_us()


def unread_by_us() -> bool:
    """Whether much lies in one of this process's sockets."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            held = fcntl.ioctl(int(name), termios.FIONREAD, b"\0" * 4)
            if int.from_bytes(held, sys.byteorder) > 10_000:
                return True
    return False


CALL = {"op": "call", "id": 1, "name": "any"}
STEP = {"op": "step", "id": 1, "key": "s"}
DONE = {"op": "done", "kind": "succeeded", "code": "", "message": "", "retryable": True, "traceback": ""}


@pytest.mark.parametrize(
    ("header", "size"),
    [(CALL, 1_001), (STEP, 1_001), ({"op": "checkpoint", "id": 1}, 2_001), ({**DONE, "reuse": True}, 3_001)],
)
async def test_what_a_process_refuses_to_send_ends_the_run(
    make_bench: MakeBench, header: dict[str, object], size: int
) -> None:
    limits = {"step_bytes_max": 1_000, "checkpoint_bytes_max": 2_000, "result_bytes_max": 3_000}
    bench = await hostile_bench(make_bench, limits=limits)
    port = RecordingPort()
    outcome = await bench.run("frames", {"frames": [(header, "1" * size)], "times": 1}, port=port)
    assert (outcome.kind, outcome.code) == ("crashed", "PROTOCOL_ERROR")
    assert (port.calls, port.steps, port.checkpoints) == ([], {}, [])


async def test_a_large_call_is_refused_before_it_is_read(make_bench: MakeBench) -> None:
    bench = await hostile_bench(make_bench)
    port = RecordingPort()
    outcome = await bench.run("big-call", 8_000_000, port=port)
    assert (outcome.kind, outcome.code) == ("crashed", "PROTOCOL_ERROR")
    assert port.calls == []


async def test_a_process_that_reads_no_answers_is_ended(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.node.skillhost.child.UNSENT_BYTES_MAX", 4_000_000, raising=False)
    bench = await hostile_bench(make_bench)
    port = RecordingPort(answer="x" * 200_000)
    outcome = await bench.run("unread", 100, port=port, timeout_ms=10_000)
    assert (outcome.kind, outcome.code) == ("crashed", "PROTOCOL_ERROR")
    assert "does not read" in outcome.message
    assert 20 < len(port.calls) < 30


class SlowPort(RecordingPort):
    """Holds requests until it is told to let them go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.begun = 0

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        self.begun += 1
        await self.go.wait()
        await super().record_step(key, result, beside)


async def test_what_is_in_flight_is_limited_and_nothing_of_it_is_lost(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.node.skillhost.child.IN_FLIGHT_BYTES_MAX", 1_000_000, raising=False)
    bench = await hostile_bench(make_bench)
    port = SlowPort()
    run = asyncio.create_task(bench.run("many-steps", {"count": 60, "size": 100_000}, port=port))
    await until(lambda: port.begun >= 10, "it has sent more than is allowed")
    await asyncio.sleep(0.2)
    assert port.begun == 10
    port.go.set()
    assert (await run).result == b'"done"'
    assert len(port.steps) == 60


@pytest.mark.parametrize("char", ["a", "字", "😀"])
async def test_an_error_may_be_said_in_any_script(make_bench: MakeBench, char: str) -> None:
    bench = await hostile_bench(make_bench)
    outcome = await bench.run("says", {"char": char, "count": 20_000})
    assert (outcome.kind, outcome.code) == ("failed", "SKILL_FAILED")
    assert outcome.message.count(char) > 4_000 and outcome.traceback.count(char) > 4_000


async def test_more_requests_than_the_node_serves_at_once_wait_their_turn(make_bench: MakeBench) -> None:
    bench = await hostile_bench(make_bench)
    port = SlowPort()
    run = asyncio.create_task(bench.run("many-steps", {"count": 600, "size": 1}, port=port))
    await until(lambda: port.begun >= REQUESTS_MAX, "the node serves as many as it may")
    await asyncio.sleep(0.2)
    assert port.begun == REQUESTS_MAX
    port.go.set()
    assert (await run).result == b'"done"'
    assert len(port.steps) == 600


class TidalPort(RecordingPort):
    """Answers all that are held in one turn of the loop, as one entry of the log does; then the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[asyncio.Future[None]] = []

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        loop = asyncio.get_running_loop()
        held: asyncio.Future[None] = loop.create_future()
        if not self._held:
            loop.call_later(0.02, self._answer)
        self._held.append(held)
        await held
        await super().record_step(key, result, beside)

    def _answer(self) -> None:
        answered, self._held = self._held, []
        for held in answered:
            held.set_result(None)


async def test_answers_that_come_at_once_let_as_many_requests_come(make_bench: MakeBench) -> None:
    bench = await hostile_bench(make_bench)
    port = TidalPort()
    outcome = await bench.run("many-steps", {"count": 1_000, "size": 1}, port=port)
    assert (outcome.kind, outcome.code, len(port.steps)) == ("succeeded", "", 1_000)


async def test_a_request_that_nobody_waits_for_any_more_still_counts(make_bench: MakeBench) -> None:
    bench = await hostile_bench(make_bench)
    port = SlowPort()
    outcome = await bench.run("impatient", REQUESTS_MAX + 50, port=port)
    assert (outcome.kind, outcome.result, port.begun) == ("succeeded", b'"done"', REQUESTS_MAX)


@pytest.mark.parametrize("key", ["", "k" * 161, 7, None])
async def test_a_step_with_a_key_that_no_process_gives_ends_the_run(
    make_bench: MakeBench, key: object
) -> None:
    bench = await hostile_bench(make_bench)
    port, good = RecordingPort(), {**STEP, "key": "k" * 160}
    given = {"frames": [(good, "1"), ({**STEP, "key": key}, "2")], "times": 1}
    outcome = await bench.run("frames", given, port=port, timeout_ms=10_000)
    assert (outcome.kind, outcome.code) == ("crashed", "PROTOCOL_ERROR")
    assert set(port.steps) <= {"k" * 160}
