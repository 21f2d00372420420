"""Processes that say more than they may, or what no process says: the node stays quick, small and sure."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sys
import termios
from pathlib import Path

import pytest

from coterie.node.skillhost.records import PER_TURN, RECORDS_MAX
from coterie.skills.frames import FrameSocket
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
