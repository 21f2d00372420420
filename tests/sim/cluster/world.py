"""The simulated cluster: the raft simulator's nodes and faults, with a process on each node and clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from coterie.core.canonical import state_hash
from tests.sim.cluster.clients import SimClient
from tests.sim.cluster.machine import Applied, ClusterMachine
from tests.sim.cluster.process import Process
from tests.sim.cluster.recorder import Recorder
from tests.sim.raft.checks import SimMachine
from tests.sim.raft.world import World


class ClusterWorld(World):
    """See World. Whatever starts on a node is a Process; whatever kills the node kills it too."""

    def __init__(self, seed: int, count: int) -> None:
        self.applied = Applied()
        self.processes: dict[str, Process] = {}
        self.history = Recorder(lambda: self.now_us)
        self.task_ids: list[str] = []  # acknowledged to some client
        self.open_for_clients = True
        self._task_number = 0
        self._tuned: set[str] = set()
        super().__init__(seed, count)
        loss = self.rng.choice([0.0, 0.05, 0.3])
        pause_ms = self.rng.choice([30, 80, 160])
        self.clients = [SimClient(self, f"c{number}", loss, pause_ms) for number in range(4)]

    def _tune(self, node_id: str) -> None:
        """Room for the product's images, which are larger than a checksum's."""
        if node_id not in self._tuned:
            self._tuned.add(node_id)
            self.options[node_id] = replace(
                self.options[node_id],
                append_bytes_max=8_000,
                window_bytes_max=32_000,
                snapshot_every_entries=60,
                snapshot_every_bytes=40_000,
                snapshot_slice_bytes=600,
                snapshot_chunk_bytes=4_000,
            )

    def new_machine(self, node_id: str) -> SimMachine:
        return ClusterMachine(node_id, self.applied)

    def start(self, node_id: str) -> None:
        self._tune(node_id)
        was_up = self.nodes[node_id].is_up
        super().start(node_id)
        if not was_up and self.nodes[node_id].is_up:
            self.processes[node_id] = Process(self, self.nodes[node_id])

    def kill(self, node_id: str, *, power: bool = False) -> None:
        process = self.processes.pop(node_id, None)
        if process is not None:
            process.dead = True
        super().kill(node_id, power=power)

    def pause(self, node_id: str) -> None:
        super().pause(node_id)
        process = self.processes.get(node_id)
        if process is not None:
            process.frozen = self.rng.random() < 0.5

    # --- between processes ---

    def process_at(self, node_id: str) -> Process | None:
        return self.processes.get(node_id)

    def message(self, sender: Process, receiver: str, what: Callable[[Process], None]) -> None:
        """To another node, over the link of the Raft messages: lost when it is down or stands still."""
        link = self.network.link(sender.me, receiver)
        if not link.up or link.ways[receiver].stalled:
            return
        generation = link.generation

        def arrive() -> None:
            there = self.processes.get(receiver)
            if there is not None and link.generation == generation:
                there.run(lambda: what(there))

        self.later(self.rng.randint(100, 1_500), arrive)

    def new_task_id(self) -> str:
        self._task_number += 1
        return f"t{self._task_number}"

    # --- what everybody can see ---

    def hashes(self) -> set[str]:
        """Of the states of all nodes that are up."""
        return {state_hash(process.state) for process in self.processes.values()}
