"""Bar 8: a cut in one direction that lasts. Once a follower that can speak and cannot hear, once a leader."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field, others
from tests.chaos.histories import Onlookers, judge_history, recorded, told
from tests.chaos.load import Load, Record
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report
from tests.chaos.tools import needs
from tests.chaos.tools.network import Network
from tests.chaos.verdict import judge, judge_journals

TERM_GROWTH_MAX = 1
NEW_LEADER_S = 2.0
THROUGHPUT_SHARE_MIN = 0.8
SETTLE_S = 3.0  # clients find out which node does not answer


@dataclass(slots=True)
class Scene:
    """What both halves of the bar work with."""

    field: Field
    network: Network
    lookout: Lookout
    record: Record
    report: Report
    seconds: float

    async def rate(self, seconds: float) -> float:
        """Acknowledged tasks per second during the next `seconds`."""
        began = time.monotonic()
        await asyncio.sleep(seconds)
        end = time.monotonic()
        return self.record.acked_between(began, end) / (end - began)


async def run(setting: Setting, report: Report) -> None:
    """Healthy, follower deaf, healthy, leader deaf, healed: then judge."""
    seconds, acked = (60.0, 4_000) if setting.full else (15.0, 600)
    network = Network(hosts=5)
    witness = setting.base_dir / "witness"
    with Field(setting.base_dir, network=network) as field:
        await field.wait_ready(READY_S)
        async with Lookout(field) as lookout, recorded(field, setting.base_dir) as client:
            load = Load(client, witness, submitters=16, pause_s=0.0, to_the_end=True)
            onlookers = Onlookers(client, load.record, setting.dice("looks"), setting.base_dir)
            async with load as record, onlookers:
                scene = Scene(field, network, lookout, record, report, seconds)
                await asyncio.sleep(SETTLE_S)
                await _deaf_follower(scene)
                await _deaf_leader(scene)
                healed = time.monotonic()
                await asyncio.sleep(SETTLE_S)
            await judge(field, record, witness, report, since=healed)
            await onlookers.last_looks()
        judge_history(setting.base_dir, report, reads_min=acked)
        field.stop()
        judge_journals(field, report)
    figures = report.figures
    report.require("acked", len(record.acks), acked)
    report.text = (
        f"{seconds:.0f} s each; deaf follower: term +{figures['follower_term_growth']}, throughput "
        f"{figures['follower_throughput_share']:.0%} of healthy; deaf leader: new leader after "
        f"{figures['new_leader_s']} s, then term +{figures['leader_term_growth']}; acked "
        f"{figures['acked']:,}, lost {figures['lost']}, {told(report)}"
    )


async def _deaf_follower(scene: Scene) -> None:
    """It cannot hear its leader, wants to be elected, and everybody hears it say so."""
    leader = await scene.lookout.known_leader()
    victim = others(scene.field, leader)[0]
    before = await scene.rate(scene.seconds / 2)
    term = scene.lookout.term()
    host = scene.field.host(victim)
    cuts = scene.network.cut([host], scene.network.hosts)
    await asyncio.sleep(SETTLE_S)
    during = await scene.rate(scene.seconds - SETTLE_S)
    growth = scene.lookout.term() - term
    scene.network.heal(cuts)
    await asyncio.sleep(SETTLE_S)
    after = await scene.rate(scene.seconds / 2)
    # Other programs on the machine come and go: the healthy rate is taken on both sides of the fault.
    share = during / ((before + after) / 2)
    scene.report.figures |= {
        "healthy_per_s": [round(before, 1), round(after, 1)],
        "deaf_follower_per_s": round(during, 1),
        "follower_term_growth": growth,
        "follower_throughput_share": round(share, 3),
    }
    scene.report.demand(growth <= TERM_GROWTH_MAX, f"a deaf follower raised the term by {growth}")
    enough = share >= THROUGHPUT_SHARE_MIN
    scene.report.demand(enough, f"a deaf follower left {share:.0%} of the throughput")


async def _deaf_leader(scene: Scene) -> None:
    """Its heartbeats arrive and no answer does: it must make way, and stay out of the way."""
    old = await scene.lookout.known_leader()
    cut_at = time.monotonic()
    cuts = scene.network.cut([scene.field.host(old)], scene.network.hosts)
    new = await scene.lookout.known_leader(timeout_s=30.0, but=old)
    took = time.monotonic() - cut_at
    await asyncio.sleep(SETTLE_S)
    term, began = scene.lookout.term(), time.monotonic()
    await asyncio.sleep(scene.seconds - SETTLE_S)
    growth = scene.lookout.term() - term
    acked = scene.record.acked_between(began, time.monotonic())
    scene.network.heal(cuts)
    scene.report.figures |= {
        "new_leader_s": round(took, 2),
        "leader_term_growth": growth,
        "deaf_leader_per_s": round(acked / (scene.seconds - SETTLE_S), 1),
    }
    scene.report.demand(bool(new), "a deaf leader was not replaced within 30 s")
    scene.report.demand(took <= NEW_LEADER_S, f"a deaf leader was replaced after {took:.1f} s")
    scene.report.demand(growth <= TERM_GROWTH_MAX, f"a deaf former leader raised the term by {growth}")
    scene.report.demand(acked > 0, "nothing was acknowledged while the former leader was deaf")


BAR = Bar(8, "cuts in one direction that last", run, needs.NETWORK, own_network=True)
