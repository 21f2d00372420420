"""Who uses the cluster in a run: proposals and reads on any node, now and then in bursts; in some of the runs
nodes that have just been started are used at once, by callers who wait there for them."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.raft.world import World


class Clients:
    """`body` makes the next entry; every entry is unlike all others."""

    def __init__(self, world: World, body: Callable[[], bytes]) -> None:
        self.world, self.rng, self.body = world, world.rng, body
        self.rate = self.rng.choice([2, 8, 15, 30])  # per second; with more, bugs are found later
        self._at_the_door = self.rng.choice([0, 0, 1, 4])  # calls on a node that has been started
        self._starts: dict[str, int] = {}

    def act(self) -> None:
        rng, world = self.rng, self.world
        node_id = rng.choice(world.ids)
        for _ in range(rng.randint(5, 30) if rng.random() < 0.03 else 1):
            world.propose(node_id, self.body(), rng.choice([0.1, 0.5, 1.5]), vital=rng.random() < 0.3)
        if rng.random() < 0.4:
            world.read(rng.choice(world.ids), 0.5)
        if self._at_the_door:
            self._use_the_started()

    def _use_the_started(self) -> None:
        for node_id in self.world.ids:
            starts = self.world.nodes[node_id].starts
            if starts != self._starts.get(node_id):
                self._starts[node_id] = starts
                for _ in range(self._at_the_door):
                    self.world.read(node_id, 0.5)
                    self.world.propose(node_id, self.body(), 0.5)
