"""Tasks per second with a skill that does nothing, at a fixed number of outstanding tasks."""

from __future__ import annotations

from dataclasses import dataclass

from bench.figures import Aim, Section, percentile
from bench.nodes import run_load, running
from bench.options import Options, run_alone
from coterie.node.localcluster import LocalCluster

NAME = "throughput"
AIM = Aim(">", 1_500)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the outstanding tasks are spread over client processes."""

    key: str
    outstanding: int
    processes: int
    aim: Aim | None = None

    @property
    def title(self) -> str:
        clients = "1 client process" if self.processes == 1 else f"{self.processes} client processes"
        return f"{self.outstanding} outstanding, {clients}"


SHAPES = (
    Shape("one_client", 64, 1, AIM),
    Shape("four_clients", 64, 4, AIM),
    Shape("wide", 512, 1),
)


async def measure(options: Options) -> Section:
    """Each shape `runs` times on one cluster, the shapes taking turns."""
    slots = options.nodes * options.capacity
    section = Section(
        NAME,
        f"Throughput: no-op tasks from submit to result, {options.nodes} nodes x "
        f"{options.capacity} slots = {slots}",
    )
    rates: dict[str, list[float]] = {shape.key: [] for shape in SHAPES}
    p50s: dict[str, list[float]] = {shape.key: [] for shape in SHAPES}
    costs: list[str] = []
    async with running(options) as cluster:
        for _ in range(options.runs):
            for shape in SHAPES:
                rate, p50, cost = await _round(cluster, shape, options)
                rates[shape.key].append(rate)
                p50s[shape.key].append(p50)
                costs.append(f"{shape.title}: {cost}")
    for shape in SHAPES:
        section.add(f"{shape.key}.per_s", shape.title, "tasks/s", rates[shape.key], shape.aim)
        section.add(f"{shape.key}.p50", f"{shape.title}: p50", "ms", p50s[shape.key])
    section.notes += costs[-len(SHAPES) :]
    section.notes.append(
        "Every result is compared with its input, and the cluster's count of finished tasks "
        "with the number submitted."
    )
    section.details["cpu_ms_per_task"] = costs
    return section


async def _round(cluster: LocalCluster, shape: Shape, options: Options) -> tuple[float, float, str]:
    """Tasks per second, median latency in ms, and who used how much CPU for one task."""
    leader = await cluster.wait_ready()
    plan = {"skill": "echo", "callers": shape.outstanding // shape.processes, "seconds": options.seconds}
    outcome, cpu = await run_load(cluster, shape.processes, plan)
    nodes, skills = cpu.used_s()
    per_task = 1_000 / outcome.finished
    followers = [used for node_id, used in nodes.items() if node_id != leader]
    cost = (
        f"CPU ms per task: leader {nodes[leader] * per_task:.2f}, "
        f"each follower {sum(followers) / max(1, len(followers)) * per_task:.2f}, "
        f"skill processes {skills * per_task:.2f}, clients {outcome.cpu_s * per_task:.2f}"
    )
    return outcome.finished / outcome.seconds, percentile(outcome.values("task_ms"), 0.5), cost


if __name__ == "__main__":
    run_alone(NAME, measure)
