"""Who uses the cluster in a run: proposals and reads on any node, now and then in bursts."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.raft.world import World


class Clients:
    """`body` makes the next entry; every entry is unlike all others."""

    def __init__(self, world: World, body: Callable[[], bytes]) -> None:
        self.world, self.rng, self.body = world, world.rng, body
        self.rate = self.rng.choice([3, 15, 30, 60])

    def act(self) -> None:
        rng, world = self.rng, self.world
        node_id = rng.choice(world.ids)
        for _ in range(rng.randint(5, 30) if rng.random() < 0.03 else 1):
            world.propose(node_id, self.body(), rng.choice([0.1, 0.5, 1.5]), vital=rng.random() < 0.3)
        if rng.random() < 0.4:
            world.read(rng.choice(world.ids), 0.5)
