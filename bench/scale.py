"""Many clients at once: 500 callers, each with its own connection, running tasks of 100 ms."""

from __future__ import annotations

from bench.figures import Section, percentile
from bench.nodes import run_load, running
from bench.options import Options, run_alone

NAME = "scale"
CLIENTS = 500
PROCESSES = 5
TASK_S = 0.1


async def measure(options: Options) -> Section:
    """Tasks per second, the share of what the slots allow, and how long a task took, queueing included."""
    slots = options.nodes * options.capacity
    ideal = slots / TASK_S
    section = Section(
        NAME, f"Scale: {CLIENTS} clients with tasks of 100 ms, {slots} slots on {options.nodes} nodes"
    )
    callers = CLIENTS // PROCESSES
    plan = {"skill": "sleep", "sleep_seconds": TASK_S, "callers": callers, "connections": callers}
    plan |= {"seconds": options.seconds, "warm_up": 1}
    rates: list[float] = []
    p50s: list[float] = []
    p99s: list[float] = []
    async with running(options) as cluster:
        for _ in range(options.runs):
            outcome, _ = await run_load(cluster, PROCESSES, plan)
            task_ms = outcome.values("task_ms")
            rates.append(outcome.finished / outcome.seconds)
            p50s.append(percentile(task_ms, 0.5))
            p99s.append(percentile(task_ms, 0.99))
    section.add("per_s", "finished", "tasks/s", rates)
    section.add("share", "of what the slots allow", "%", [100 * rate / ideal for rate in rates])
    section.add("p50", "submit to result: p50", "ms", p50s)
    section.add("p99", "submit to result: p99", "ms", p99s)
    section.notes.append(
        f"{CLIENTS} connections in {PROCESSES} processes; each client has one task at a time, so a task "
        f"waits for its turn: {slots} slots finish at most {ideal:,.0f} tasks/s, which makes "
        f"{1000 * CLIENTS / ideal:,.0f} ms from submit to result. Each task has one recorded step."
    )
    return section


if __name__ == "__main__":
    run_alone(NAME, measure)
