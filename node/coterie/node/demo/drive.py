"""One run of the demo from start to verdict."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from coterie.client import Cluster
from coterie.node.demo import evidence as ev
from coterie.node.demo import output, proof
from coterie.node.demo.documents import Choice
from coterie.node.demo.faults import Faults
from coterie.node.demo.journal import Journal
from coterie.node.demo.probe import Probe, write_gap_s
from coterie.node.demo.stage import READY_MAX_S, beside, client_of, follow
from coterie.node.demo.view import show
from coterie.node.demo.work import map_documents, reduce_documents
from coterie.node.localcluster import LocalCluster

RUN_MAX_S = 300.0
CAPACITY = 8
WITNESS = "witness.tsv"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    nodes: int
    out: Path
    kill: bool
    plain: bool


class Demo:
    """Owns the node processes, the clients and the journal of one run."""

    def __init__(self, options: Options, choice: Choice, console: Console) -> None:
        self._options = options
        self._choice = choice
        self._console = console
        self._journal = Journal(total=len(choice.documents))
        self._labels = {"demo": uuid.uuid4().hex[:12]}
        self._merged: Mapping[str, Any] = {}

    async def run(self) -> int:
        """Returns the exit code. Every node process is stopped when this returns or raises."""
        self._console.print(f"reading {len(self._choice.documents):,} documents from", highlight=False)
        for label in self._choice.labels:
            self._console.print(f"  {label}", markup=False, highlight=False, soft_wrap=True)
        nodes = LocalCluster(nodes=self._options.nodes, capacity=CAPACITY)
        nodes.files = [allow_witness(nodes.base_dir)]
        try:
            async with beside(show(self._console, self._journal, self._options.plain)):
                nodes.start()
                self._journal.processes = dict.fromkeys(nodes.node_ids, "running")
                leader = await nodes.wait_ready(READY_MAX_S)
                self._journal.say(f"{len(nodes.node_ids)} nodes are ready, {leader} leads")
                async with asyncio.timeout(RUN_MAX_S):
                    checks = await self._observed(nodes)
            return self._conclude(nodes, checks)
        except Exception:
            self._keep_logs(nodes)
            raise
        finally:
            nodes.stop()

    async def _observed(self, nodes: LocalCluster) -> list[proof.Check]:
        witness = nodes.base_dir / WITNESS
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(client_of(nodes, nodes.endpoints))
            await stack.enter_async_context(beside(follow(self._journal, nodes, cluster)))
            await self._work(nodes, cluster, str(witness))
            self._journal.phase = "reduce"
            self._merged = await reduce_documents(cluster, self._journal, "Documents read by the demo")
            self._journal.phase = "read back"
            clients = {
                node_id: await stack.enter_async_context(
                    client_of(nodes, nodes.addresses[node_id], alone=True)
                )
                for node_id in nodes.node_ids
            }
            return proof.judge(await self._gather(cluster, clients, witness))

    async def _work(self, nodes: LocalCluster, cluster: Cluster, witness: str) -> None:
        self._journal.phase = "map"
        probe = Probe(cluster, self._journal, self._labels)
        async with asyncio.TaskGroup() as group:
            group.create_task(probe.run())
            async with asyncio.TaskGroup() as main:
                main.create_task(
                    map_documents(cluster, self._journal, self._choice.documents, witness, self._labels)
                )
                if self._options.kill:
                    main.create_task(Faults(nodes, cluster, self._journal).run())
            probe.stop()

    async def _gather(self, cluster: Cluster, clients: Mapping[str, Cluster], witness: Path) -> ev.Evidence:
        journal = self._journal
        found = ev.Evidence(
            acked=frozenset(journal.acked),
            probes=frozenset(journal.probes),
            with_results=frozenset(journal.results),
        )
        labels_filter = " AND ".join(f'labels.{key}="{value}"' for key, value in self._labels.items())
        await ev.read_back(clients, labels_filter, found.acked | found.probes, found)
        found.histories = await ev.read_histories(cluster, found.acked)
        found.hashes = await ev.read_hashes(clients, lambda indexes: len(indexes) == 1)
        found.executions, found.damaged_lines = ev.read_witness(witness)
        for kill in journal.kills:
            kill.gap_s = write_gap_s(kill, list(journal.probes.values()))
            kill.resumed = ev.resume_times(kill, found.histories)
        return found

    def _conclude(self, nodes: LocalCluster, checks: list[proof.Check]) -> int:
        numbers = output.figures(self._journal, self._choice)
        output.write_reports(self._options.out, self._merged, numbers, checks)
        output.print_summary(self._console, numbers, checks, self._options.out)
        if all(check.kept for check in checks):
            self._console.print("every promise was kept", style="green")
            return 0
        self._console.print("a promise was BROKEN", style="bold red")
        self._keep_logs(nodes)
        return 1

    def _keep_logs(self, nodes: LocalCluster) -> None:
        logs = output.keep_logs(self._options.out, [nodes.log_path(node_id) for node_id in nodes.node_ids])
        self._console.print(f"the nodes' logs are in {logs}", markup=False, highlight=False, soft_wrap=True)


def allow_witness(folder: Path) -> Path:
    """A file of the cluster that lets document-map write its witness, and nothing else."""
    file = folder / "witness.yaml"
    settings = {"document-map": {"witness": str(folder / WITNESS)}}
    file.write_text(json.dumps({"skills": {"settings": settings}}))
    return file
