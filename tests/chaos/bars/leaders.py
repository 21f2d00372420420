"""Bar 4: kill -9 of the leader, again and again, under load. How long is nothing acknowledged?"""

from __future__ import annotations

import asyncio
import time

from coterie.client import CoterieError
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.load import Load, Record
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report, median, spread
from tests.chaos.tools.machine import is_busy, patience
from tests.chaos.verdict import judge, judge_journals

GAP_P50_S, GAP_MAX_S = 1.5, 3.0
STEADY_S = 1.0
AFTER_S = 5.0  # that belong to a kill


async def run(setting: Setting, report: Report) -> None:
    """Each victim comes back before the next one dies."""
    kills, acked = (30, 5_000) if setting.full else (5, 500)
    witness = setting.base_dir / "witness"
    with Field(setting.base_dir, nodes=3) as field:
        await field.wait_ready(READY_S)
        async with Lookout(field) as lookout, field.client() as client:
            busy = is_busy()
            async with Load(client, witness, submitters=10) as record:
                found = await _gaps(field, lookout, record, kills)
                well = time.monotonic()
            await judge(field, record, witness, report, since=well)
        field.stop()
        judge_journals(field, report)
    report.figures |= {"gaps_s": [round(gap, 2) for gap in found], "busy": busy}
    report.require("kills", len(found), kills)
    report.require("acked", len(record.acks), acked)
    _limit(report, found, patience(busy))
    errors = sum(record.errors.values())
    report.demand(errors == 0, f"clients saw {errors} errors: {dict(record.errors)}")
    report.text = (
        f"{len(found)} leaders killed, no acknowledgement for {spread(found)}, "
        f"errors of clients {errors}, acked {report.figures['acked']:,}, lost {report.figures['lost']}"
    )


def _limit(report: Report, gaps: list[float], factor: float) -> None:
    if gaps:
        p50, longest = median(gaps), max(gaps)
        report.demand(p50 <= GAP_P50_S * factor, f"half of the gaps were longer than {p50:.1f} s")
        report.demand(longest <= GAP_MAX_S * factor, f"a gap of {longest:.1f} s")


async def _gaps(field: Field, lookout: Lookout, record: Record, kills: int) -> list[float]:
    """Of so many kills. A leader that is deposed before it can be killed is none, and another try is made."""
    gaps: list[float] = []
    for _ in range(2 * kills):
        if len(gaps) < kills and (gap := await _kill(field, lookout, record)) is not None:
            gaps.append(gap)
    return gaps


async def _kill(field: Field, lookout: Lookout, record: Record) -> float | None:
    """The longest time without an acknowledgement around the kill."""
    leader = await lookout.known_leader()
    await asyncio.sleep(STEADY_S)
    if not leader or lookout.leader() != leader:
        return None
    killed = time.monotonic()
    field.kill_node(leader)
    await record.next_ack(killed, READY_S)
    await asyncio.sleep(max(0.0, killed + AFTER_S - time.monotonic()))
    gap = record.longest_gap(killed - STEADY_S, time.monotonic())
    field.start_node(leader)
    await field.wait_ready(READY_S)
    await _answers(field, leader)
    return gap


async def _answers(field: Field, node_id: str) -> None:
    """It applied what it had missed: it would not count as one of a majority that lives."""
    deadline = time.monotonic() + READY_S
    async with field.client(node_id) as client:
        while time.monotonic() < deadline:
            try:
                if (await client.get_status()).has_quorum:
                    return
            except CoterieError:
                pass
            await asyncio.sleep(0.1)


BAR = Bar(4, "kill -9 of the leader under load", run, ())
