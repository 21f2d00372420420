"""A cluster of real node processes for the benches, its clients, and the books on its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import proc
from bench.figures import WorkNotDone
from bench.options import Options
from bench.processes import Helper
from coterie.client import TLS, Cluster, CoterieError
from coterie.node.localcluster import ClusterFailed, LocalCluster

READY_S = 60.0
BOOKS_S = 15.0


@asynccontextmanager
async def running(
    options: Options, capacity: int | None = None, skills: Path | None = None
) -> AsyncIterator[LocalCluster]:
    """Node processes that are ready for work; they end with the block. `skills`: a folder of further ones."""
    more = {"skills": {"dirs": [str(skills)]}} if skills is not None else {}
    slots = capacity or options.capacity
    cluster = LocalCluster(nodes=options.nodes, tls=options.tls, capacity=slots, options=more)
    try:
        cluster.start()
        await ready(cluster)
        yield cluster
        _check_alive(cluster, "")
    except ClusterFailed as error:
        raise WorkNotDone(str(error)) from None
    except (WorkNotDone, CoterieError) as error:
        _check_alive(cluster, str(error))
        raise WorkNotDone(str(error)) from None
    finally:
        await asyncio.to_thread(cluster.stop)


def _check_alive(cluster: LocalCluster, seen: str) -> None:
    """A node that ended by itself is the cause, whatever was seen of it."""
    if failed := cluster.failed_nodes():
        tails = "\n".join(cluster.log_tail(node_id) for node_id in failed)
        raise WorkNotDone(f"{', '.join(failed)} ended by itself; {seen}\n{tails}") from None


async def ready(cluster: LocalCluster) -> str:
    """Wait until all running nodes agree. Returns the leader's id."""
    return await cluster.wait_ready(READY_S)


def client_of(cluster: LocalCluster, node_ids: Sequence[str] = ()) -> Cluster:
    """A client of the whole cluster, or of these nodes only."""
    paths = cluster.client_tls
    tls = TLS(ca=paths.ca, cert=paths.cert, key=paths.key) if paths else None
    return Cluster(addresses(cluster, node_ids), tls=tls, auto_discovery=not node_ids)


def addresses(cluster: LocalCluster, node_ids: Sequence[str] = ()) -> list[str]:
    """Endpoints of these nodes, or of all."""
    return [cluster.addresses[node_id] for node_id in node_ids or cluster.node_ids]


class Books:
    """Compares what clients were told with what the cluster counts: nothing lost, nothing twice."""

    def __init__(self, client: Cluster) -> None:
        self._client = client
        self._before = 0

    async def open(self) -> None:
        """Begin to count. The cluster must be at rest."""
        self._before = (await self._client.get_status()).tasks_finished_total

    async def close(self, submitted: int) -> None:
        """Raises WorkNotDone unless exactly `submitted` tasks have finished since, and none is left."""
        deadline = time.monotonic() + BOOKS_S
        while True:
            status = await self._client.get_status()
            finished = status.tasks_finished_total - self._before
            if finished == submitted and not status.active_tasks:
                return
            if time.monotonic() > deadline or finished > submitted:
                left = f"{status.active_tasks} are still active"
                raise WorkNotDone(f"{submitted} tasks were submitted, {finished} finished, {left}")
            await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What all client processes of one load saw together."""

    answers: list[dict[str, Any]]

    @property
    def finished(self) -> int:
        return sum(answer["finished"] for answer in self.answers)

    @property
    def submitted(self) -> int:
        return sum(answer["submitted"] for answer in self.answers)

    @property
    def seconds(self) -> float:
        """From the first submit to the last result."""
        return float(max(a["ended"] for a in self.answers) - min(a["began"] for a in self.answers))

    @property
    def cpu_s(self) -> float:
        return float(sum(answer["cpu_s"] for answer in self.answers))

    def values(self, name: str) -> list[float]:
        """All samples of that name: task_ms, ack_ms or acked_at."""
        return [value for answer in self.answers for value in answer[name]]

    def check(self) -> None:
        """Raises WorkNotDone when any task failed or answered wrongly."""
        failed = sum(answer["failed"] for answer in self.answers)
        if failed or self.finished != self.submitted:
            shown = next((answer["errors"][0] for answer in self.answers if answer["errors"]), "")
            raise WorkNotDone(f"{failed} of {self.submitted} tasks failed, {self.finished} finished: {shown}")


class Fleet:
    """Client processes that begin together. Use it in an `async with` block."""

    def __init__(self, cluster: LocalCluster, processes: int, plan: dict[str, Any]) -> None:
        paths = cluster.client_tls
        tls = {"ca": str(paths.ca), "cert": str(paths.cert), "key": str(paths.key)} if paths else None
        base = {"mode": "closed", "endpoints": addresses(cluster), "tls": tls} | plan
        self._plans = [base | {"client": number} for number in range(processes)]
        self._stack = AsyncExitStack()
        self._helpers: list[Helper] = []

    async def __aenter__(self) -> Fleet:
        for _ in self._plans:
            self._helpers.append(await self._stack.enter_async_context(Helper("bench.load")))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def pids(self) -> list[int]:
        """The client processes."""
        return [helper.pid for helper in self._helpers]

    async def warm_up(self) -> None:
        """Connect and run the first tasks."""
        pairs = zip(self._helpers, self._plans, strict=True)
        await asyncio.gather(*(helper.ask(plan) for helper, plan in pairs))

    def go(self) -> None:
        """Begin; all processes at once."""
        for helper in self._helpers:
            helper.tell({"go": True})

    def stop(self) -> None:
        """End a probe."""
        for helper in self._helpers:
            helper.tell({"stop": True})

    async def outcome(self) -> Outcome:
        """Wait for the end."""
        return Outcome(await asyncio.gather(*(helper.hear() for helper in self._helpers)))


class CpuBooks:
    """CPU time of the node processes and of their skill processes, from one moment to another."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._pids = {node_id: cluster.pid(node_id) for node_id in cluster.node_ids}
        self._before = self._read()

    def used_s(self) -> tuple[dict[str, float], float]:
        """Seconds of each node process, and of all zygotes and skill processes together."""
        nodes, skills = self._read()
        return {node_id: nodes[node_id] - self._before[0][node_id] for node_id in nodes}, (
            skills - self._before[1]
        )

    def _read(self) -> tuple[dict[str, float], float]:
        nodes = {node_id: proc.cpu_s([pid]) for node_id, pid in self._pids.items()}
        return nodes, sum(proc.cpu_s(proc.descendants(pid), with_reaped=True) for pid in self._pids.values())


async def run_load(cluster: LocalCluster, processes: int, plan: dict[str, Any]) -> tuple[Outcome, CpuBooks]:
    """Warm up, run a closed load, check every result and the cluster's own count."""
    async with client_of(cluster) as client, Fleet(cluster, processes, plan) as fleet:
        await fleet.warm_up()
        books = Books(client)
        await books.open()
        cpu = CpuBooks(cluster)
        fleet.go()
        outcome = await fleet.outcome()
        outcome.check()
        await books.close(outcome.submitted)
        return outcome, cpu
