"""How long one task takes when it is alone: from submit to result, and from submit to ack."""

from __future__ import annotations

from bench.figures import Aim, Section, percentile
from bench.nodes import addresses, run_load, running
from bench.options import Options, run_alone

NAME = "latency"
TASKS = 400
AIM = Aim("<", 5.0)


async def measure(options: Options) -> Section:
    """One caller, one task at a time: by any node, by the leader only, by a follower only."""
    section = Section(NAME, f"Latency: one no-op task at a time, {TASKS} tasks a run")
    async with running(options) as cluster:
        leader = await cluster.wait_ready()
        followers = [node_id for node_id in cluster.node_ids if node_id != leader]
        ways = {"any": cluster.node_ids, "leader": [leader], "follower": followers[:1] or [leader]}
        samples: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(options.runs):
            for way, node_ids in ways.items():
                plan = {"skill": "echo", "callers": 1, "count": TASKS, "warm_up": 50, "discovery": False}
                plan["endpoints"] = addresses(cluster, node_ids)
                outcome, _ = await run_load(cluster, 1, plan)
                task_ms, ack_ms = outcome.values("task_ms"), outcome.values("ack_ms")
                samples[way].append(
                    {
                        "p50": percentile(task_ms, 0.5),
                        "p99": percentile(task_ms, 0.99),
                        "ack_p50": percentile(ack_ms, 0.5),
                    }
                )
        final = await cluster.wait_ready()
    for way, rounds in samples.items():
        by = "by any node" if way == "any" else f"by the {way}" if way == "leader" else "by a follower"
        p50s = [one["p50"] for one in rounds]
        section.add(f"{way}.p50", f"{by}: p50", "ms", p50s, AIM if way == "any" else None)
        section.add(f"{way}.p99", f"{by}: p99", "ms", [one["p99"] for one in rounds])
        section.add(f"{way}.ack_p50", f"{by}: p50 of the ack", "ms", [one["ack_p50"] for one in rounds])
    if final != leader:
        section.notes.append("The leadership moved during the bench: by leader and by follower are mixed.")
    return section


if __name__ == "__main__":
    run_alone(NAME, measure)
