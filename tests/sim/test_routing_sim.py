"""Uneven nodes in virtual time: who gets the work, by measurement alone. Every node sends its heartbeats."""

from __future__ import annotations

import pytest

from bench.figures import percentile
from bench.routing import gray_share, stretches
from bench.routing_sim import Load, Machine, Run, Simulation
from coterie.core.routing import RoutingRules

GRAY_FROM_S, GRAY_TO_S, SECONDS = 10.0, 30.0, 70.0
SKILLS = (("short", 0.05, 0.8), ("mid", 0.2, 0.2))


def run(strategy: str, seed: int, per_second: float = 60.0) -> list[Run]:
    def gray(now_s: float) -> float:
        return 20.0 if GRAY_FROM_S <= now_s < GRAY_TO_S else 1.0

    usual = [Machine(f"node-{number}", capacity=4) for number in range(1, 4)]
    # The slow one is slower than usual and not gray: only its service times speak against it.
    uneven = [Machine("slow", 4, lambda now_s: 2.5), Machine("gray", 4, gray)]
    load = Load(per_second, SECONDS, SKILLS)
    return Simulation([*usual, *uneven], RoutingRules(strategy), seed).go(load)


@pytest.mark.parametrize("seed", range(3))
def test_a_gray_node_loses_new_work_and_gets_it_back(seed: int) -> None:
    runs = run("adaptive", seed)
    assert gray_share(runs, 0.0, GRAY_FROM_S) > 0.1, "it has its part while it is well"
    assert gray_share(runs, GRAY_FROM_S + 10, GRAY_TO_S) <= 0.05
    assert gray_share(runs, GRAY_TO_S + 30, SECONDS) > 0.1, "within 30 s of its recovery"


@pytest.mark.parametrize("seed", range(2))
def test_adaptive_beats_the_others_where_nodes_differ(seed: int) -> None:
    p99 = {
        name: percentile(stretches(run(name, seed)), 0.99)
        for name in ("adaptive", "round-robin", "least-loaded")
    }
    assert p99["adaptive"] <= 0.7 * p99["round-robin"]
    assert p99["adaptive"] < p99["least-loaded"]


def test_when_there_is_too_much_to_do_slow_nodes_work_too() -> None:
    """Waiting for a fast node ends where the queue is longer than the detour; nothing is left behind."""
    runs = run("adaptive", 1, per_second=170.0)
    assert sum(one.node == "slow" for one in runs) > 0.02 * len(runs)
    assert sum(one.node == "gray" for one in runs if one.placed_s > GRAY_TO_S + 20) > 0
