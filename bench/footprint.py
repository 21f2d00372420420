"""What a cluster costs that does nothing: start-up time, memory and CPU of idle nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench import proc
from bench.figures import Aim, Section, WorkNotDone
from bench.nodes import Fleet, ready, running
from bench.options import Options, run_alone
from coterie.node.localcluster import LocalCluster
from coterie.node.localcluster.wait import open_channel, status_of
from coterie.v1 import cluster_pb2

NAME = "footprint"
RSS_AIM, READY_AIM = Aim("<", 90), Aim("<", 3)
LOOK_S = 0.02
CALL_S = 1.0
READY_MAX_S = 60.0
IDLE_S = 3.0
TASKS_SERVICE = "coterie.v1.Tasks"


async def measure(options: Options) -> Section:
    """Start-ups on empty and on old data; then memory and CPU, fresh and after every slot was used."""
    section = Section(NAME, f"Footprint: {options.nodes} nodes x {options.capacity} slots, idle")
    fresh_s = [await _first_start(options) for _ in range(options.runs)]
    async with running(options) as cluster:
        again_s = []
        for _ in range(options.runs):
            for node_id in cluster.node_ids:
                cluster.kill_node(node_id)
            again_s.append(await _start(cluster))
            await ready(cluster)
        section.add("ready", "all nodes started until ready, empty disks", "s", fresh_s, READY_AIM)
        section.add("ready_again", "the same after kill -9 of all", "s", again_s, READY_AIM)
        await _idle(section, cluster, "fresh", "fresh")
        async with Fleet(
            cluster, 1, {"skill": "sleep", "sleep_seconds": 0.5, "callers": _slots(options)}
        ) as load:
            await load.warm_up()
        await _idle(section, cluster, "used", "every slot used once")
    section.notes.append(
        "Ready: each node says has_quorum and its health service says SERVING. The zygote holds the loaded "
        "skills and forks one child for each slot in use; their memory is given as PSS, since "
        "they share pages."
    )
    return section


async def _first_start(options: Options) -> float:
    """Seconds from the start of the first process until all are ready, on empty data directories."""
    cluster = LocalCluster(nodes=options.nodes, tls=options.tls, capacity=options.capacity)
    try:
        return await _start(cluster)
    finally:
        await asyncio.to_thread(cluster.stop)


async def _start(cluster: LocalCluster) -> float:
    began = time.monotonic()
    cluster.start()
    await asyncio.gather(*(_serving(cluster, node_id) for node_id in cluster.node_ids))
    return time.monotonic() - began


async def _serving(cluster: LocalCluster, node_id: str) -> None:
    deadline = time.monotonic() + READY_MAX_S
    async with open_channel(cluster.addresses[node_id], cluster.client_tls) as channel:
        while not await _is_serving(channel):
            if time.monotonic() > deadline:
                tail = cluster.log_tail(node_id)
                raise WorkNotDone(f"{node_id} was not ready after {READY_MAX_S:g} s\n{tail}")
            await asyncio.sleep(LOOK_S)


async def _is_serving(channel: grpc.aio.Channel) -> bool:
    check = health_pb2_grpc.HealthStub(channel).Check
    try:
        answer = await check(health_pb2.HealthCheckRequest(service=TASKS_SERVICE), timeout=CALL_S)
    except grpc.aio.AioRpcError:
        return False
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return False
    status = await status_of(channel)
    return isinstance(status, cluster_pb2.ClusterStatus) and status.has_quorum


async def _idle(section: Section, cluster: LocalCluster, key: str, title: str) -> None:
    await asyncio.sleep(IDLE_S)  # not a condition: idleness is what is measured
    pids = [cluster.pid(node_id) for node_id in cluster.node_ids]
    before = [proc.cpu_s([pid]) for pid in pids]
    await asyncio.sleep(IDLE_S)
    cpu = [100 * (proc.cpu_s([pid]) - used) / IDLE_S for pid, used in zip(pids, before, strict=True)]
    trees = [proc.descendants(pid) for pid in pids]
    zygotes = [proc.pss_mib(tree[0]) for tree in trees if tree]
    children = [sum(proc.pss_mib(pid) for pid in tree[1:]) for tree in trees]
    section.add(
        f"rss_{key}", f"node process, {title}: RSS", "MiB", [proc.rss_mib(pid) for pid in pids], RSS_AIM
    )
    section.add(f"zygote_{key}", f"its zygote, {title}: PSS", "MiB", zygotes)
    section.add(f"children_{key}", f"its {_counts(trees)} skill processes, {title}: PSS", "MiB", children)
    section.add(f"cpu_{key}", f"node process, {title}: CPU of one core", "%", cpu)


def _counts(trees: Sequence[Sequence[int]]) -> str:
    counts = sorted({max(0, len(tree) - 1) for tree in trees})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _slots(options: Options) -> int:
    return options.nodes * options.capacity


if __name__ == "__main__":
    run_alone(NAME, measure)
