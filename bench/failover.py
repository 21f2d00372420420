"""kill -9 of the leader: how long no submit is acked, while one goes to the survivors every 10 ms."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.figures import Aim, Section, WorkNotDone
from bench.nodes import Books, Fleet, addresses, client_of, ready, running
from bench.options import Options, run_alone
from coterie.client import Cluster
from coterie.node.localcluster import LocalCluster

NAME = "failover"
AIM = Aim("<", 1_000)
PROBE_MS = 10
STEADY_S = 1.0
ELECTION_S = 30.0
LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class Gap:
    """One leader killed: times in ms."""

    without_ack: float
    new_leader: float
    probes: int


async def measure(options: Options) -> Section:
    """Kill the leader `runs` times on one cluster; each time it comes back and catches up before the next."""
    section = Section(NAME, f"Failover: kill -9 of the leader, {options.nodes} nodes")
    gaps: list[Gap] = []
    async with running(options) as cluster:
        for _ in range(options.runs):
            leader = await ready(cluster)
            gaps.append(await _kill(cluster, leader))
            cluster.start_node(leader)
        await ready(cluster)
    section.add("gap", "longest time without an acked submit", "ms", [gap.without_ack for gap in gaps], AIM)
    section.add("leader", "until a survivor names the new leader", "ms", [gap.new_leader for gap in gaps])
    section.notes.append(
        f"{sum(gap.probes for gap in gaps)} submits, one every {PROBE_MS} ms from a client process that "
        "knows the survivors only; each was acked and gave its result exactly once."
    )
    return section


async def _kill(cluster: LocalCluster, leader: str) -> Gap:
    survivors = [node_id for node_id in cluster.node_ids if node_id != leader]
    plan = {"mode": "probe", "interval_ms": PROBE_MS, "skill": "echo", "callers": 4, "discovery": False}
    plan["endpoints"] = addresses(cluster, survivors)
    async with client_of(cluster, survivors) as client, Fleet(cluster, 1, plan) as fleet:
        await fleet.warm_up()
        books = Books(client)
        await books.open()
        fleet.go()
        await asyncio.sleep(STEADY_S)
        killed_at = time.monotonic()
        cluster.kill_node(leader)
        elected_at = await _elected(client, leader)
        await asyncio.sleep(STEADY_S)
        fleet.stop()
        outcome = await fleet.outcome()
        outcome.check()
        await books.close(outcome.submitted)
    gap_s = longest_gap(outcome.values("acked_at"), killed_at)
    return Gap(1000 * gap_s, 1000 * (elected_at - killed_at), outcome.submitted)


def longest_gap(acked_at: Sequence[float], killed_at: float) -> float:
    """Seconds between two acks that follow each other, the later of them after the kill; the longest."""
    times = sorted(acked_at)
    return max((later - earlier for earlier, later in pairwise(times) if later > killed_at), default=math.nan)


async def _elected(client: Cluster, dead: str) -> float:
    """When a surviving node first named another leader."""
    deadline = time.monotonic() + ELECTION_S
    while time.monotonic() < deadline:
        status = await client.get_status(stale=True)
        if status.leader not in ("", dead) and status.has_quorum:
            return time.monotonic()
        await asyncio.sleep(LOOK_S)
    raise WorkNotDone(f"no new leader {ELECTION_S:g} s after {dead} was killed")


if __name__ == "__main__":
    run_alone(NAME, measure)
