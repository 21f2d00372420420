"""Bar 13: wall clocks of single nodes jump by an hour, forward and back, under load."""

from __future__ import annotations

import asyncio
import time

from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field, others
from tests.chaos.histories import Onlookers, judge_history, recorded, told
from tests.chaos.load import Load, Record
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report
from tests.chaos.tools import needs
from tests.chaos.tools.clocks import Clocks
from tests.chaos.verdict import judge, judge_journals

JUMPS_S = (3_600, -3_600, 0)
KILLED_S = 1.5
NEAR_S = 60.0
LATE_S = 20.0  # for delayed tasks to be run
DELAYS_S = (1, 2, 4)


async def run(setting: Setting, report: Report) -> None:
    """Clocks jump on one node after the other, and nodes whose clocks have jumped are killed now and then."""
    rounds, acked = (12, 3_000) if setting.full else (3, 300)
    clocks = Clocks(setting.base_dir / "clocks", [f"node-{number}" for number in range(1, 6)])
    witness = setting.base_dir / "witness"
    with Field(setting.base_dir, env_of=clocks.env) as field:
        await field.wait_ready(READY_S)
        async with Lookout(field) as lookout, recorded(field, setting.base_dir) as client:
            load = Load(client, witness)
            onlookers = Onlookers(client, load.record, setting.dice("looks"), setting.base_dir)
            async with load as record, onlookers:
                delayed = [
                    await client.submit_task(type="echo", payload=seconds, start_delay=f"{seconds}s")
                    for seconds in DELAYS_S
                ]
                jumps = await _jumps(field, clocks, lookout, record, rounds, report)
                well = time.monotonic()
                again = await record.next_ack(well, 30.0)
            report.demand(again is not None, "nothing was acknowledged at the end")
            for job in delayed:
                await job.wait(timeout=LATE_S)
                attempts = (await job.get()).attempt
                report.demand(attempts == 1, f"a delayed task ran {attempts} times")
            await judge(field, record, witness, report, since=well)
            await onlookers.last_looks()
        judge_history(setting.base_dir, report, reads_min=acked)
        field.stop()
        judge_journals(field, report)
    figures = report.figures
    figures["jumps"] = jumps
    report.require("acked", len(record.acks), acked)
    report.require("jumps", jumps, rounds * len(JUMPS_S))
    report.text = (
        f"{jumps} jumps of an hour, {figures['elections_by_jumps']} elections by them, "
        f"{figures['leader_changes']} leader changes; acked {figures['acked']:,}, lost {figures['lost']}, "
        f"doubled {figures['doubled']}, "
        f"repeated steps {figures['repeated_steps']}, {told(report)}, states equal on all nodes"
    )


async def _jumps(
    field: Field, clocks: Clocks, lookout: Lookout, record: Record, rounds: int, report: Report
) -> int:
    """The leader's clock or a follower's: forward, back, right; the jumped leader is killed now and then."""
    jumps = 0
    for number in range(rounds):
        leader = await lookout.known_leader()
        victim = leader if number % 2 == 0 else others(field, leader)[number % 4]
        for offset_s in JUMPS_S:
            term, began = lookout.term(), time.monotonic()
            clocks.set(victim, offset_s)
            jumps += await _is_off_by(field, victim, offset_s)
            goes_on = await record.next_ack(began, 20.0)
            report.demand(
                goes_on is not None, f"nothing was acknowledged after {victim}'s clock jumped {offset_s} s"
            )
            await asyncio.sleep(1.0)
            calm = lookout.term() == term
            report.figures["elections_by_jumps"] = report.figures.get("elections_by_jumps", 0) + (not calm)
        if number % 3 == 2:
            await _killed(field, victim, lookout)
    return jumps


async def _is_off_by(field: Field, node_id: str, offset_s: int) -> bool:
    """Whether the node itself says so: a jump that it did not see counts for nothing."""
    async with field.client(node_id) as client:
        status = await client.get_status(stale=True)
    return abs(status.raw.time.seconds - time.time() - offset_s) < NEAR_S


async def _killed(field: Field, node_id: str, lookout: Lookout) -> None:
    field.kill_node(node_id)
    await asyncio.sleep(KILLED_S)
    field.start_node(node_id)
    await field.wait_ready(READY_S)
    await lookout.known_leader()


BAR = Bar(13, "clocks that jump", run, (*needs.APART, *needs.SHIM))
