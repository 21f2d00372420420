"""Bar 24: backups of a cluster at work, each restored beside it while the old nodes live.

The third node of each restored cluster has the address of an old one, which is alive, with the same
certificate and another cluster's name: each side must take the other for strangers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from coterie.client import Cluster, Job
from coterie.node.config import free_ports
from coterie.node.localcluster import LocalCluster
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.report import Report
from tests.cluster.conftest import client_of, until
from tests.cluster.twins import Load, ports_of, restored, twin

RUNNING = 4  # long tasks at work in every backup
QUEUE_S = 600.0  # for a backlog that grew under load, on a machine that other work may slow down
JUMP = 1_000_000  # attempts of a restored task begin above this


@dataclass
class Round:
    """One backup: what was acknowledged before it, in the order of the log, and how long things took."""

    path: Path
    before: list[Job]
    create_s: float
    silence_s: float  # the longest time without an acknowledgement meanwhile


async def run(setting: Setting, report: Report) -> None:
    """Load all the time; as many backups as the size says."""
    count, rate = (10, 200) if setting.full else (2, 50)
    base = setting.base_dir
    with Field(base / "old", nodes=3, options={"distribution": {"taskQueue": {"maxPending": 50_000}}}) as old:
        await old.wait_ready(READY_S)
        async with old.client() as client:
            load, began = Load(client, lanes=24), time.monotonic()
            found = await load.run(_rounds(old, client, load, base, count, report))
            seconds = time.monotonic() - began
            status = await client.get_status()
            report.demand(status.active_nodes == 3, "the old cluster lost a node to the new ones")
    report.figures |= {
        "create_s": [round(one.create_s, 2) for one in found],
        "silence_s": [round(one.silence_s, 2) for one in found],
        "rate": round(len(load.acked) / seconds),
    }
    report.require("backups", len(found), count)
    report.require("acked a second", len(load.acked) / seconds, rate)
    report.text = (
        f"{len(found)} backups at {len(load.acked) / seconds:.0f} submits/s, each in at most "
        f"{max(one.create_s for one in found):.1f} s without a pause above "
        f"{max(one.silence_s for one in found):.2f} s; restored {report.figures.get('tasks', 0):,} tasks, "
        f"lost {report.figures.get('lost', 0)}"
    )


async def _rounds(
    old: Field, client: Cluster, load: Load, base: Path, count: int, report: Report
) -> list[Round]:
    witness = {"witness": str(base / "witness"), "steps": 100_000, "step_ms": 100}
    busy = [await client.submit_task(type="steps", payload=witness) for _ in range(RUNNING)]
    await until(lambda: _all_running(busy), "long tasks that run", READY_S)
    rounds = []
    for number in range(count):
        await load.reach(len(load.acked) + 200)
        one = await _backed_up(client, load, base / f"backup-{number}.tar")
        rounds.append(one)
        await _check(old, client, one, busy, base / f"new-{number}", report)
    for job in busy:
        await job.cancel("the bar is over")
    return rounds


async def _all_running(jobs: list[Job]) -> bool:
    return all([(await job.get()).state == "RUNNING" for job in jobs])


async def _backed_up(client: Cluster, load: Load, path: Path) -> Round:
    before, since, began = list(load.acked), len(load.acked_at), time.monotonic()
    await client.create_backup(path)
    times = [began, *load.acked_at[since:], time.monotonic()]
    return Round(path, before, times[-1] - began, max(later - sooner for sooner, later in pairwise(times)))


async def _check(
    old: Field, client: Cluster, one: Round, busy: list[Job], base: Path, report: Report
) -> None:
    ports = [*free_ports(2), ports_of(old)[2]]
    new = twin(old, base, ports)
    try:
        await restored(new, one.path)
        for node_id in ("node-1", "node-2"):
            new.start_node(node_id)
        await until(lambda: _leads(new), "a leader of the restored cluster", READY_S)
        async with client_of(new, "node-1", "node-2") as theirs:
            ours = await _ids(client)
            found = await _ids(theirs)
            lost = {job.id for job in one.before} - set(found)
            _add(report, "tasks", len(found))
            _add(report, "lost", len(lost))
            report.demand(not lost, f"{len(lost)} tasks that were acknowledged before the backup are missing")
            report.demand(found == ours[: len(found)], "what was restored is no prefix of the log")
            for job in one.before[-20:]:
                await theirs.job(job.id).wait(timeout=QUEUE_S)
            for job in busy:
                await _check_fence(client, theirs, job, report)
            nodes = {node.id for node in (await theirs.get_status()).nodes if node.state == "ACTIVE"}
            report.demand(nodes == {"node-1", "node-2"}, f"the new cluster counts {sorted(nodes)} as its own")
    finally:
        new.stop()


async def _leads(new: LocalCluster) -> bool:
    async with client_of(new, "node-1") as client:
        status = await client.get_status(stale=True)
        return status.has_quorum and status.active_nodes >= 2


async def _ids(client: Cluster) -> list[str]:
    """In the order of the log."""
    return [task.id async for task in client.list_tasks(page_size=1000)][::-1]


async def _check_fence(ours: Cluster, theirs: Cluster, job: Job, report: Report) -> None:
    """The old worker still runs it there; here it has begun an attempt far above, and goes on."""
    there = await ours.job(job.id).get()

    async def runs_anew() -> bool:
        return (await theirs.job(job.id).get()).attempt > JUMP

    await until(runs_anew, f"a new attempt of {job.id}", READY_S)
    report.demand(there.attempt < JUMP, f"{job.id} has attempt {there.attempt} in the old cluster")


def _add(report: Report, name: str, count: int) -> None:
    report.figures[name] = report.figures.get(name, 0) + count


BAR = Bar(24, "backups under load, restored while the old nodes live", run, ())
