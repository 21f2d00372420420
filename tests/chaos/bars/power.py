"""Bar 9: the power fails on all nodes at a random moment under load, again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.histories import Onlookers, judge_history, recorded, told
from tests.chaos.load import Load, Record
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report, median, spread
from tests.chaos.tools import needs
from tests.chaos.tools.disks import Ext4, power_off
from tests.chaos.tools.machine import is_busy, patience
from tests.chaos.tools.shim import Shim
from tests.chaos.verdict import journal_records, judge, judge_journals

RESTART_S = 5.0
LYING = "lying-disks"  # fsync says yes and does nothing: this bar has to notice
# Snapshots and cuts of the log happen every second or so: the power fails in the middle of them too.
OPTIONS = {"cluster": {"consensus": {"snapshotEvery": 300}}}


async def run(setting: Setting, report: Report) -> None:
    """Cycles of: work, darkness, restart. After the last one everything acknowledged must be there."""
    cycles, acked = (40, 5_000) if setting.full else (8, 500)
    dice, witness = setting.dice("moments"), setting.base_dir / "witness"
    field, disks = _build(setting)
    restarts: list[float] = []
    busy = False
    with field:
        await field.wait_ready(READY_S)
        async with Lookout(field) as lookout, recorded(field, setting.base_dir) as client:
            load = Load(client, witness, submitters=8, pause_s=0.01)
            onlookers = Onlookers(client, load.record, setting.dice("looks"), setting.base_dir)
            async with load as record, onlookers:
                for _ in range(cycles):
                    await asyncio.sleep(dice.uniform(0.3, 3.0))
                    restarts.append(await _cycle(field, disks, record))
                    await lookout.known_leader()
                    busy = busy or is_busy()
                lit = time.monotonic()
            await judge(field, record, witness, report, since=lit)
            await onlookers.last_looks()
        judge_history(setting.base_dir, report, reads_min=acked // 2)
        field.stop()
        judge_journals(field, report)
        _judge_snapshots(field, report)
    _conclude(report, restarts, cycles, busy)
    report.require("acked", len(record.acks), acked)
    report.require("cycles", len(restarts), cycles)


def _build(setting: Setting) -> tuple[Field, Sequence[Ext4]]:
    names = [f"node-{number}" for number in range(1, 6)]
    env_of = dict.fromkeys(names, _no_env())
    if setting.planted == LYING:
        shim = Shim(setting.base_dir / "shim", names)
        for name in names:
            shim.lie(name)
        env_of = {name: shim.env(name) for name in names}
    field = Field(setting.base_dir, env_of=env_of.__getitem__, options=OPTIONS)
    disks = [Ext4(setting.base_dir / "images" / name, field.data_dir(name)) for name in names]
    return field, disks


def _no_env() -> Mapping[str, str]:
    return {}


async def _cycle(field: Field, disks: Sequence[Ext4], record: Record) -> float:
    """Darkness and light. Returns how long after the start of the nodes a new task was acknowledged."""
    power_off(disks)
    for node_id in field.node_ids:
        if field.alive(node_id):  # one may have noticed that its disk is gone
            field.kill_node(node_id)
    field.sweep_dead()
    for disk in disks:
        disk.unmount()
        disk.mount()
    began = time.monotonic()
    field.start()
    first = await record.next_ack(began, READY_S)
    if first is None:
        raise RuntimeError(f"no task was acknowledged {READY_S:g} s after the restart\n{field.log_tails()}")
    await field.wait_ready(READY_S)
    return first - began


def _judge_snapshots(field: Field, report: Report) -> None:
    paths = [field.data_dir(node_id) / "raft" / "raft.snapshot" for node_id in field.node_ids]
    made = sum(map(Path.exists, paths))
    bases = [journal_records(field, node_id)[0] for node_id in field.node_ids]
    report.figures |= {
        "nodes_with_snapshot": made,
        "log_bases": [getattr(base, "index", 0) for base in bases],
    }


def _conclude(report: Report, restarts: Sequence[float], cycles: int, busy: bool) -> None:
    figures = report.figures
    limit = RESTART_S * patience(busy)
    figures |= {
        "cycles": cycles,
        "restart_s": [round(seconds, 2) for seconds in sorted(restarts)],
        "restart_p50_s": round(median(restarts), 2),
        "restart_max_s": round(max(restarts), 2),
        "restart_limit_s": limit,
    }
    slow = [seconds for seconds in restarts if seconds > limit]
    report.demand(not slow, f"{len(slow)} of {cycles} restarts took longer than {limit:g} s")
    report.text = (
        f"{len(restarts)}/{cycles} cycles, acked {figures['acked']:,}, lost {figures['lost']}, doubled "
        f"{figures['doubled']}, repeated steps {figures['repeated_steps']}, voted twice "
        f"{figures['voted_twice']}, restart {spread(restarts)} (limit {limit:g} s), {told(report)}"
    )


BAR = Bar(9, "power loss of all nodes", run, needs.DISKS, plants=(LYING,))
