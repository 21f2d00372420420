"""The routing strategies side by side on uneven nodes, and what a decision costs: `make bench-routing`.

    python -m bench.routing

Seven nodes of eight slots: five usual ones, one three times slower, one that turns gray (twenty times slower,
and alive) for a while. The state machine, plan() and the measurement are the real ones; only nodes and time
are pretended, so the figures do not depend on the machine. The decision costs do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from bench.figures import Aim, Section, WorkNotDone, percentile
from bench.options import Options, run_alone
from bench.routing_sim import Load, Machine, Run, Simulation
from coterie.core.commands import AssignTask, RegisterNode, SubmitTask
from coterie.core.machine import apply
from coterie.core.nouns import NO_DATA, NodeId, RetryPolicy, SkillRef, TaskId
from coterie.core.routing import STRATEGIES, NodeLoad, RoutingRules, SkillLoad
from coterie.core.scheduler import plan
from coterie.core.state import ClusterState, Moment
from coterie.core.view import PlanPolicy, View

NAME = "routing"
SLOW, GRAY = 3.0, 20.0  # times longer than on a usual node
GRAY_FROM_S, GRAY_TO_S, SECONDS = 20.0, 60.0, 100.0
SETTLED_S = 10.0  # after which a gray node should have lost its new work
BACK_S = 30.0  # after which a recovered node should have it again
LOADS = (0.3, 0.6)  # shares of what the usual nodes can do
SKILLS = (("short", 0.05, 0.7), ("mid", 0.2, 0.25), ("long", 1.0, 0.05))
PENDING, NODES = 10_000, 7
FAIR_SHARE = 1 / 6  # of the work, among the gray node, once well again, and the five usual ones


async def measure(options: Options) -> Section:
    """Every strategy under the same loads, then the cost of deciding."""
    section = Section(NAME, "Routing on uneven nodes: five usual, one 3 times slower, one gray for 40 s")
    for share in LOADS:
        runs = {name: await asyncio.to_thread(simulate, name, share, options.runs) for name in STRATEGIES}
        _compare(section, share, runs)
    for name in STRATEGIES:
        costs = [await asyncio.to_thread(decision_us, name) for _ in range(options.runs)]
        title = f"one decision, {name}, {NODES} nodes, {PENDING} pending"
        section.add(f"decision.{name}", title, "us", costs, Aim("<", 1_000.0))
    section.notes.append(
        "stretch: how many times its length on a usual node a task took from its submission to its end; the "
        "ratio compares the p99 with round-robin's"
    )
    return section


def machines() -> list[Machine]:
    """Five usual nodes, a slow one, and one that turns gray."""

    def gray(now_s: float) -> float:
        return GRAY if GRAY_FROM_S <= now_s < GRAY_TO_S else 1.0

    usual = [Machine(f"node-{number}") for number in range(1, 6)]
    return [*usual, Machine("slow", slowness=lambda now_s: SLOW), Machine("gray", slowness=gray)]


def simulate(strategy: str, share: float, seeds: int, seconds: float = SECONDS) -> list[list[Run]]:
    """One list of runs per seed. `share` of the slots of the five usual nodes is asked for."""
    usual_s = sum(length * part for _, length, part in SKILLS)
    load = Load(share * 5 * 8 / usual_s, seconds, SKILLS)
    return [Simulation(machines(), RoutingRules(strategy), seed).go(load) for seed in range(seeds)]


def stretches(runs: Sequence[Run]) -> list[float]:
    return [run.took_s / run.length_s for run in runs]


def gray_share(runs: Sequence[Run], begin_s: float, end_s: float) -> float:
    """Of the tasks placed in that time, those that the gray node got."""
    placed = [run.node == "gray" for run in runs if begin_s <= run.placed_s < end_s]
    return sum(placed) / max(1, len(placed))


def _compare(section: Section, share: float, runs: dict[str, list[list[Run]]]) -> None:
    p99 = {name: [percentile(stretches(one), 0.99) for one in found] for name, found in runs.items()}
    at = f"load {share:.0%}"
    for name, found in runs.items():
        key = f"{name}.{share:g}"
        p50 = [percentile(stretches(one), 0.5) for one in found]
        section.add(f"p50.{key}", f"{at}: p50, {name}", "stretch", p50)
        section.add(f"p99.{key}", f"{at}: p99, {name}", "stretch", p99[name])
    ratios = [ours / theirs for ours, theirs in zip(p99["adaptive"], p99["round-robin"], strict=True)]
    section.add(f"ratio.{share:g}", f"{at}: p99 of adaptive / round-robin", "ratio", ratios, Aim("<", 0.7))
    while_gray = [gray_share(one, GRAY_FROM_S + SETTLED_S, GRAY_TO_S) for one in runs["adaptive"]]
    title = f"{at}: new work of the gray node, {SETTLED_S:.0f} s after it turned"
    section.add(f"gray.{share:g}", title, "share", while_gray, Aim("<", 0.05))
    after = [gray_share(one, GRAY_TO_S + BACK_S, SECONDS) for one in runs["adaptive"]]
    title = f"{at}: its new work {BACK_S:.0f} s after it recovered"
    section.add(f"back.{share:g}", title, "share", after, Aim(">", FAIR_SHARE / 2))


def decision_us(strategy: str) -> float:
    """Microseconds of plan() for each assignment it makes, with a long queue."""
    state, index = ClusterState(), 0
    loads = {}
    for number in range(NODES):
        node_id, index = NodeId(f"node-{number}"), index + 1
        skills = (SkillRef("short", "1"),)
        command = RegisterNode(node_id, "127.0.0.1:1", 1, PENDING, zone=f"zone-{number % 3}", skills=skills)
        apply(state, command, Moment(index, 1_000))
        loads[node_id] = NodeLoad(
            node_id, 1, 100, cpu=0.2, skills={"short": SkillLoad(50.0 + 10 * number, 50, 9)}
        )
    for number in range(PENDING):
        index += 1
        task = SubmitTask(TaskId(f"t{number}"), "default", "short", NO_DATA, 2, RetryPolicy())
        apply(state, task, Moment(index, 1_000))
    policy, view = PlanPolicy(RoutingRules(strategy, affinity=True)), View(1_001, loads)
    began = time.perf_counter()
    decisions = sum(isinstance(command, AssignTask) for command in plan(state, view, policy))
    if not decisions:
        raise WorkNotDone(f"{strategy}: nothing was assigned")
    return (time.perf_counter() - began) / decisions * 1e6


if __name__ == "__main__":
    run_alone(NAME, measure)
