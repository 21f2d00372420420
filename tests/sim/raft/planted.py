"""Bugs planted on purpose, to see that the simulator finds them. They exist in this file only."""

from __future__ import annotations

from coterie.raft.member import Member
from tests.sim.raft.run import Report, seeded_size, simulate

PLANTED: dict[str, type[Member]] = {"": Member}


def simulate_planted(sizes: list[int], plant: str, seed: int) -> Report:
    """One run with the planted bug of that name; without one when it is empty."""
    return simulate(seed, seeded_size(seed, sizes), PLANTED[plant])
