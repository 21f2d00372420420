"""Bar 11: disks that are slow, fail, or stand still for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field, others
from tests.chaos.load import Load, Record
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report
from tests.chaos.tools import needs
from tests.chaos.tools.disks import Ext4
from tests.chaos.tools.machine import is_busy, patience
from tests.chaos.tools.shim import Shim
from tests.chaos.verdict import judge, judge_journals

SLOW_MS, VERY_SLOW_MS = 50, 500
SLOW_SHARE_MIN = 0.4  # of the healthy throughput: fsyncs of one moment are one fsync
FAIL_PERCENT = 5
STOPPED_S = 1.0
IN_FLIGHT_S = 0.25  # an answer that was under way when the disk failed
FREEZE_S = HANDOVER_S = 3.0
NEEDED_FILES = ("/raft/", "/ledger.db")
SETTLE_S, WINDOW_S, VERY_SLOW_WINDOW_S = 2.0, 4.0, 20.0
DRAIN_S = 240.0  # what is acknowledged in the windows is queued, and takes much longer to be run
CLIENTS, SUBMITTERS = 4, 32  # an fsync must be shared by many: that is what a slow disk is survived by
# Acknowledged submits are counted, not results: a place to run is taken for several commits.
OPTIONS = {"distribution": {"taskQueue": {"maxPending": 200_000}}}
# An answer to a heartbeat can wait for three fsyncs, and a vote needs two: so much patience is needed.
PATIENT = {
    **OPTIONS,
    "cluster": {"consensus": {"electionTimeout": "4s", "heartbeatInterval": "500ms"}},
    "faultTolerance": {"healthCheck": {"unhealthyThreshold": 80}},
}


@dataclass(slots=True)
class Scene:
    """What the parts of the bar work with."""

    field: Field
    shim: Shim
    disks: dict[str, Ext4]
    lookout: Lookout
    record: Record
    report: Report
    witness: Path

    async def rate(self, seconds: float) -> float:
        """Acknowledged tasks per second, once things have settled."""
        await asyncio.sleep(SETTLE_S)
        began = time.monotonic()
        await asyncio.sleep(seconds)
        end = time.monotonic()
        return self.record.acked_between(began, end) / (end - began)

    @asynccontextmanager
    async def load(self, clients: int, submitters: int) -> AsyncIterator[None]:
        """That many clients at work."""
        async with AsyncExitStack() as stack:
            for _ in range(clients):
                client = await stack.enter_async_context(self.field.client())
                load = Load(client, self.witness, submitters=submitters, pause_s=0.0, record=self.record)
                await stack.enter_async_context(load)
            yield

    def set_all(self, delay_ms: int) -> None:
        for node_id in self.field.node_ids:
            if delay_ms:
                self.shim.slow(node_id, delay_ms)
            else:
                self.shim.well(node_id)


@asynccontextmanager
async def _scene(
    setting: Setting, report: Report, name: str, options: Mapping[str, Any]
) -> AsyncIterator[Scene]:
    """A cluster at work on slow or failing disks; judged at the end."""
    base = setting.base_dir / name
    names = [f"node-{number}" for number in range(1, 6)]
    shim = Shim(base / "shim", names)
    field = Field(base, env_of=shim.env, options=options)
    disks = {node_id: Ext4(base / "images" / node_id, field.data_dir(node_id)) for node_id in names}
    with field:
        await field.wait_ready(READY_S)
        record = Record()
        async with Lookout(field) as lookout, field.client() as client:
            yield Scene(field, shim, disks, lookout, record, report, base / "witness")
            async with Load(client, base / "witness", record=record):
                well = time.monotonic()
                again = await record.next_ack(well, 30.0)
            report.demand(again is not None, f"{name}: no more acknowledgements")
            await judge(field, record, base / "witness", report, since=well, drain_s=DRAIN_S)
        field.stop()
        judge_journals(field, report)


async def run(setting: Setting, report: Report) -> None:
    """Slow disks everywhere, failing ones in turn, one that stands still; then very slow ones."""
    failures, freezes, acked = (6, 5, 5_000) if setting.full else (2, 1, 1_000)
    async with _scene(setting, report, "slow", OPTIONS) as scene:
        healthy = await _share(scene, SLOW_MS, WINDOW_S)
        async with scene.load(clients=1, submitters=6):
            stops = [await _failing(scene, of_leader=bool(number % 2)) for number in range(failures)]
            handovers = [await _frozen(scene) for _ in range(freezes)]
    totals = {name: report.figures[name] for name in ("acked", "lost")}
    async with _scene(setting, report, "very-slow", PATIENT) as scene:
        await _share(scene, VERY_SLOW_MS, VERY_SLOW_WINDOW_S)
    for name, count in totals.items():
        report.figures[name] += count
    report.figures["healthy_per_s"] = round(healthy, 1)
    share = report.figures[f"share_at_{SLOW_MS}_ms"]
    enough = share >= SLOW_SHARE_MIN
    report.demand(enough, f"{SLOW_MS} ms for an fsync left {share:.0%} of the throughput")
    report.require("acked", report.figures["acked"], acked)
    report.require("failed disks", len(stops), failures)
    report.require("freezes", len(handovers), freezes)
    _conclude(report, stops, handovers)


async def _share(scene: Scene, delay_ms: int, seconds: float) -> float:
    """Every fsync of every node takes longer. Returns the healthy rate."""
    async with scene.load(CLIENTS, SUBMITTERS):
        before = await scene.rate(WINDOW_S)
        scene.set_all(delay_ms)
        slow = await scene.rate(seconds)
        scene.set_all(0)
        # Other programs come and go: the healthy rate is taken on both sides.
        healthy = (before + await scene.rate(WINDOW_S)) / 2
    scene.report.figures[f"share_at_{delay_ms}_ms"] = round(slow / healthy, 3)
    scene.report.demand(slow > 0, f"nothing was acknowledged with {delay_ms} ms for an fsync")
    return healthy


async def _failing(scene: Scene, *, of_leader: bool) -> float:
    """Some fsyncs of one node fail: it must go, and acknowledge nothing more. Returns how long it took."""
    field, shim = scene.field, scene.shim
    leader = await scene.lookout.known_leader()
    victim = leader if of_leader else others(field, leader)[0]
    shim.forget(victim)
    own = Record()
    async with (
        field.client(victim, call_s=3.0) as client,
        Load(client, scene.witness, submitters=4, steps_every_s=0, record=own),
    ):
        await own.next_ack(time.monotonic(), READY_S)
        shim.fail(victim, FAIL_PERCENT)
        ended_at = await _end_of(field, victim, READY_S)
    scene.record.acks += own.acks
    failures = shim.failures(victim)
    failed_at = next((at for at, path in failures if any(name in path for name in NEEDED_FILES)), None)
    shim.well(victim)
    if failed_at is None or ended_at is None:
        scene.report.violations.append(f"{victim} did not stop although fsyncs failed")
        return READY_S
    late = [ack for ack in own.acks if ack.acked_at > failed_at + IN_FLIGHT_S]
    scene.report.demand(not late, f"{victim} acknowledged {len(late)} tasks after its disk had failed")
    said = "fsync" in field.log_path(victim).read_text(errors="replace")
    scene.report.demand(said, f"{victim} did not say why it stopped")
    field.start_node(victim)
    await field.wait_ready(READY_S)
    return ended_at - failed_at


async def _end_of(field: Field, node_id: str, timeout_s: float) -> float | None:
    """When the node's process ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not field.alive(node_id):
            return time.monotonic()
        await asyncio.sleep(0.01)
    return None


async def _frozen(scene: Scene) -> float:
    """The leader's disk stands still. Returns how long it took until another node led."""
    leader = await scene.lookout.known_leader()
    began = time.monotonic()
    await asyncio.to_thread(scene.disks[leader].freeze)
    try:
        new = await scene.lookout.known_leader(timeout_s=FREEZE_S, but=leader)
        took = time.monotonic() - began
        await asyncio.sleep(max(0.0, FREEZE_S - took))
    finally:
        await asyncio.to_thread(scene.disks[leader].thaw)
    if not new:
        new = await scene.lookout.known_leader(timeout_s=READY_S, but=leader)
        took = time.monotonic() - began
    await scene.field.wait_ready(READY_S)
    return took


def _conclude(report: Report, stops: Sequence[float], handovers: Sequence[float]) -> None:
    factor = patience(is_busy())
    figures = report.figures
    figures |= {
        "stopped_s": [round(seconds, 2) for seconds in stops],
        "handover_s": [round(seconds, 2) for seconds in handovers],
    }
    for seconds in stops:
        limit = STOPPED_S * factor
        report.demand(
            seconds <= limit, f"a node went {seconds:.1f} s after its disk failed, not within {limit:g}"
        )
    for seconds in handovers:
        report.demand(seconds <= HANDOVER_S, f"a leader whose disk stood still led on for {seconds:.1f} s")
    shares = [
        f"{figures[f'share_at_{delay_ms}_ms']:.0%} of the throughput at {delay_ms} ms an fsync"
        for delay_ms in (SLOW_MS, VERY_SLOW_MS)
    ]
    report.text = (
        f"{', '.join(shares)} (healthy {figures['healthy_per_s']:.0f}/s); {len(stops)} failed disks, "
        f"node gone after at most {max(stops):.2f} s; {len(handovers)} frozen disks of leaders, handed over "
        f"after at most {max(handovers):.2f} s; acked {figures['acked']:,}, lost {figures['lost']}"
    )


BAR = Bar(11, "slow, failing and frozen disks", run, (*needs.DISKS, *needs.SHIM))
