"""A local cluster whose nodes come and go, driven by the command line as an operator would."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from coterie.client import Cluster, ClusterError
from coterie.node.localcluster import free_addresses
from coterie.node.tls.issue import issue_node, open_authority
from tests.cluster.conftest import ShownCluster, client_of, until, with_skills

CLI_S = 90.0
ENDED_S = 30.0


class CliFailed(Exception):
    """The command line ended with another exit code than it should."""

    def __init__(self, arguments: tuple[str, ...], code: int, error: dict[str, Any], stderr: str) -> None:
        super().__init__(f"{' '.join(arguments)}: exit code {code}: {stderr}")
        self.code, self.reason = code, str(error.get("reason", ""))


class GrowingCluster(ShownCluster):
    """Nodes may be added to it, and their data wiped."""

    def __init__(
        self, options: dict[str, Any] | None = None, *, patient: bool = True, **arguments: Any
    ) -> None:
        merged = with_skills(options, patient=patient)
        super().__init__(options=merged, **{"nodes": 3, "capacity": 8, **arguments})

    def prepare(self, node_id: str) -> str:
        """An address, a certificate, and an entry with `join` in the cluster file. Returns the address."""
        [address] = free_addresses(1)
        host, port = address.split(":")
        self.node_ids.append(node_id)
        self.addresses[node_id] = address
        issue_node(open_authority(self.base_dir / "tls"), self.base_dir / "tls", node_id, [host, "localhost"])
        document = yaml.safe_load(self.config_path.read_text())
        entry = {"id": node_id, "host": host, "port": int(port), "capacity": 8, "join": True}
        document["cluster"]["nodes"].append(entry)
        self._write(document)
        return address

    def move(self, node_id: str) -> str:
        """Give a stopped node another address, in its own file only."""
        [address] = free_addresses(1)
        document = yaml.safe_load(self.config_path.read_text())
        for entry in document["cluster"]["nodes"]:
            if entry["id"] == node_id:
                entry["port"] = int(address.rpartition(":")[2])
        self.addresses[node_id] = address
        self._write(document)
        return address

    def forget(self, node_id: str) -> None:
        """A removed node is none of this cluster any more; its entry stays in the file."""
        self._forget(node_id)
        self.node_ids.remove(node_id)

    def data(self, node_id: str) -> Path:
        return self.base_dir / "data" / node_id

    def wipe(self, node_id: str) -> None:
        shutil.rmtree(self.data(node_id))

    async def cli(self, *arguments: str, code: int = 0, on_its_host: bool = False) -> dict[str, Any]:
        """Run `coterie --json` against the nodes that run. Returns its document. Raises CliFailed."""
        running = [node_id for node_id in self.node_ids if self.alive(node_id)]
        endpoints = ",".join(self.addresses[node_id] for node_id in running)
        where = ["--endpoint", endpoints, "--tls-dir", str(self.base_dir / "tls")]
        where = [] if on_its_host else where
        command = [sys.executable, "-m", "coterie.node.cli", *where, "--json", *arguments]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            capture_output=True,
            text=True,
            timeout=CLI_S,
            check=False,
            cwd=self.base_dir,
            env={name: value for name, value in os.environ.items() if not name.startswith("COTERIE_")},
        )
        found = json.loads(done.stdout or "{}")
        assert isinstance(found, dict)
        if done.returncode != code:
            raise CliFailed(arguments, done.returncode, found.get("error", {}), done.stderr)
        return found

    async def add(self, node_id: str) -> None:
        """`node add`, then the start of the node."""
        await self.cli("node", "add", node_id, "--address", self.prepare(node_id))
        self.start_node(node_id)

    async def resync(self, node_id: str) -> dict[str, Any]:
        """`node resync` on the host of a stopped node, by the node's own certificate, then its start."""
        where = ["--config", str(self.config_path), "--id", node_id]
        found = await self.cli("node", "resync", *where, on_its_host=True)
        self.start_node(node_id)
        return found

    async def ended(self, node_id: str) -> tuple[int, str]:
        """The exit code of a node that ends by itself, and its last words."""
        process = self._processes[node_id]
        assert await asyncio.to_thread(process.wait_ended, ENDED_S), self.log_tail(node_id)
        said = [line for line in self.log_tail(node_id).splitlines() if line.startswith("coterie: ")]
        return self._forget(node_id), said[-1] if said else self.log_tail(node_id)

    def client(self, *node_ids: str) -> Cluster:
        return client_of(self, *(node_ids or tuple(n for n in self.node_ids if self.alive(n))))

    async def until_role(
        self, client: Cluster, node_id: str, role: str, state: str = "ACTIVE", timeout_s: float = 60.0
    ) -> None:
        async def reached() -> bool:
            try:
                nodes = {node.id: node for node in await client.list_nodes()}
            except ClusterError:
                return False
            node = nodes.get(node_id)
            return node is not None and (node.role, node.state) == (role, state)

        try:
            await until(reached, f"{node_id} is {role} and {state}", timeout_s)
        except BaseException:
            print(self.log_tails())
            raise

    def _write(self, document: dict[str, Any]) -> None:
        fresh = self.config_path.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        fresh.rename(self.config_path)
