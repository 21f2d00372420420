"""A cluster in the field: real nodes with TLS, on hosts, disks and clocks of their own if a bar wants it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coterie.client import TLS, Cluster, Timeouts
from coterie.node.localcluster import LocalCluster
from tests.chaos.tools.network import Network

SKILLS = Path(__file__).parents[1] / "cluster" / "skills"
READY_S = 90.0

# Where nodes die by our hand: on a busy machine also ten times before a run records anything, and such a
# run would be taken for one that kills nodes.
KILLED_BY_US = {"distribution": {"taskQueue": {"nodeLossesMax": 0}}}

EnvOf = Callable[[str], Mapping[str, str]]


def _nothing(node_id: str) -> Mapping[str, str]:
    return {}


class Field(LocalCluster):
    """Five nodes, if nothing else is said; node-1 lives on host 1 of the network, and so on.

    env_of: further environment variables, by node; asked anew whenever a node is started.
    options: further keys of the cluster file."""

    def __init__(
        self,
        base_dir: Path,
        *,
        nodes: int = 5,
        network: Network | None = None,
        env_of: EnvOf = _nothing,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self.env_of = network, env_of
        super().__init__(
            nodes=nodes,
            base_dir=base_dir,
            capacity=8,
            options={"skills": {"dirs": [str(SKILLS)]}, **(options or {})},
            hosts=[network.address(number) for number in range(1, nodes + 1)] if network else (),
        )

    def host(self, node_id: str) -> int:
        """The number of the host a node lives on."""
        return self.node_ids.index(node_id) + 1

    def data_dir(self, node_id: str) -> Path:
        """Where a node keeps everything."""
        return self.base_dir / "data" / node_id

    def node_command(self, node_id: str) -> list[str]:
        command = super().node_command(node_id)
        return self.network.enter(self.host(node_id)) + command if self.network else command

    def node_env(self, node_id: str) -> Mapping[str, str]:
        return {**super().node_env(node_id), **self.env_of(node_id)}

    def client(self, *node_ids: str, call_s: float = 60.0, attempt_s: float = 3.0) -> Cluster:
        """A client of the whole cluster, or of the named nodes only."""
        paths = self.client_tls
        assert paths is not None
        endpoints = [self.addresses[node_id] for node_id in node_ids or self.node_ids]
        return Cluster(
            endpoints,
            tls=TLS(ca=paths.ca, cert=paths.cert, key=paths.key),
            auto_discovery=not node_ids,
            timeouts=Timeouts(call=call_s, attempt=attempt_s),
        )

    def sweep_dead(self) -> None:
        """Kill what nodes that are dead have left running: its open files would keep their disks busy."""
        for node_id in self.node_ids:
            if not self.alive(node_id):
                self._forget(node_id)

    def revive(self) -> list[str]:
        """Start whoever is dead and wake whoever is paused. Returns whom it started."""
        dead = [node_id for node_id in self.node_ids if not self.alive(node_id)]
        for node_id in self.node_ids:
            if node_id in dead:
                self.start_node(node_id)
            else:
                self.resume_node(node_id)
        return dead


def others(field: Field, *node_ids: str) -> list[str]:
    """Every node but these."""
    return [node_id for node_id in field.node_ids if node_id not in node_ids]
