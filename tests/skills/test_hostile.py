"""Processes that say more than they may, or what no process says: the node stays quick, small and sure."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coterie.node.skillhost.records import PER_TURN, RECORDS_MAX
from tests.skills.conftest import MakeBench
from tests.skills.support import SAMPLES, Bench

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
