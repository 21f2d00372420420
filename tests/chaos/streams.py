"""Token streams while nodes die: python -m tests.chaos.streams --kills 10.

Readers join the words of running model calls as they come, while the leader, a node that runs a task and a
node that serves readers are killed in turn. Each joined text must be the recorded answer, byte for byte."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import aclosing
from dataclasses import asdict, dataclass, field

from coterie.client import Cluster, Job, TokenText
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.chaos.field import KILLED_BY_US
from tests.cluster.conftest import READY_S, client_of, new_cluster

WORDS = "Ein Käfig voller Wörter, 一 二 三, und noch eines: "
TARGETS = ("leader", "running", "serving")


@dataclass
class Figures:
    """What came out. A killed node counts as each of what it was at that moment."""

    nodes_killed: int = 0
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TARGETS, 0))
    streams: int = 0
    texts: int = 0
    bytes: int = 0
    live: int = 0  # chunks that came while the call ran
    replayed: int = 0
    restarts: int = 0  # texts that began anew, announced by a chunk at 0
    wrong: int = 0  # joined texts that are not the recorded ones
    faults: list[str] = field(default_factory=list)


class Readers:
    """Submits tasks, reads their streams, compares."""

    def __init__(self, nodes: LocalCluster, client: Cluster, figures: Figures, asks: int) -> None:
        self._nodes, self._client, self.figures, self._asks = nodes, client, figures, asks
        self.jobs: list[Job] = []
        self._own: Cluster | None = None

    @property
    def serving(self) -> set[str]:
        """The nodes whose streams are read now."""
        if self._own is None or self._own._connection is None:
            return set()
        nodes = {address: node_id for node_id, address in self._nodes.addresses.items()}
        endpoints = self._own._connection.caller.pool._endpoints.values()
        return {nodes[one.address] for one in endpoints if one.calls and one.address in nodes}

    async def run(self, stop: asyncio.Event) -> None:
        """One stream after the other, each over its own connection, until told to stop."""
        number = 0
        while not stop.is_set():
            number += 1
            provider = ("plain", "background")[number % 2]
            asks = [{"prompt": f"{WORDS * 3}{number}.{one}", "model": provider} for one in range(self._asks)]
            payload = {"asks": asks, "parallel": number % 3 == 0}
            job = await self._client.submit_task(type="think", payload=payload)
            self.jobs.append(job)
            await self._read(job)
            self.jobs.remove(job)
            self.figures.streams += 1

    async def _read(self, job: Job) -> None:
        text, figures = TokenText(), self.figures
        orders: dict[str, tuple[int, int]] = {}
        async with client_of(self._nodes) as own, aclosing(own.job(job.id).stream()) as events:
            self._own = own
            async for event in events:
                if event.token is None:
                    continue
                text.add(event.token)
                figures.live += not event.token.replayed
                figures.replayed += event.token.replayed
                figures.restarts += orders.get(event.token.step, event.token.order) != event.token.order
                orders[event.token.step] = event.token.order
        info = await job.get(include_steps=True)
        for step in info.steps:
            recorded = json.loads(step.raw.result.inline)["text"]
            figures.texts += 1
            figures.bytes += len(recorded.encode())
            if step.name not in text.steps() or text[step.name] != recorded:
                figures.wrong += 1
                figures.faults.append(f"{job.id} {step.name}: joined text differs from the recorded one")
        if info.state != "SUCCEEDED" or len(info.steps) != self._asks:
            figures.faults.append(f"{job.id} ended as {info.state} with {len(info.steps)} steps")


async def roles_of(client: Cluster, readers: list[Readers]) -> dict[str, set[str]]:
    """What the nodes are now: the leader, those that run a watched task, those that serve a reader."""
    leader = (await client.get_status()).leader
    running = {(await job.get()).node for reader in readers for job in reader.jobs}
    serving: set[str] = set().union(*(reader.serving for reader in readers))
    return {"leader": {leader} - {""}, "running": running - {""}, "serving": serving}


def victim_of(roles: dict[str, set[str]], kills: dict[str, int]) -> str:
    """A node that is what was killed least often, and as little else as can be; empty: there is none now."""
    for target in sorted(TARGETS, key=lambda one: kills[one]):
        if roles[target]:
            return min(roles[target], key=lambda one: (sum(one in them for them in roles.values()), one))
    return ""


async def kill(nodes: LocalCluster, client: Cluster, readers: list[Readers], figures: Figures) -> None:
    """Kill -9 of what was killed least often; then start it again."""
    roles = await roles_of(client, readers)
    victim = victim_of(roles, figures.kills)
    if not victim:
        return
    nodes.kill_node(victim)
    figures.nodes_killed += 1
    for role, them in roles.items():
        figures.kills[role] += victim in them
    await asyncio.sleep(1.0)
    nodes.start_node(victim)
    await nodes.wait_ready(READY_S)


async def streams(
    kills: int, *, readers: int = 4, asks: int = 3, pause_s: float = 0.5, limit_s: float = 3_600.0
) -> Figures:
    """Kill that many of each kind while streams are read, or as many as the time is enough for."""
    end = time.monotonic() + limit_s
    figures = Figures()
    with LlmServerProcess("--chunk-chars", "5") as server:
        server.script(chunk_ms=40)
        common = {"baseUrl": server.url, "model": "m", "maxTries": 20}
        providers = {"plain": common, "background": {**common, "api": "responses"}}
        options = {"llm": {"default": "plain", "providers": providers}, **KILLED_BY_US}
        with new_cluster(options=options, patient=False) as nodes:
            await nodes.wait_ready(READY_S)
            async with client_of(nodes) as client:
                stop = asyncio.Event()
                crowd = [Readers(nodes, client, figures, asks) for _ in range(readers)]
                work = [asyncio.create_task(one.run(stop)) for one in crowd]
                while min(figures.kills.values()) < kills and not any(one.done() for one in work):
                    await asyncio.sleep(pause_s)
                    if time.monotonic() > end:
                        break
                    await kill(nodes, client, crowd, figures)
                    print(figures.kills, f"texts {figures.texts} wrong {figures.wrong}", file=sys.stderr)
                stop.set()
                await asyncio.gather(*work)
    return figures


def main() -> int:
    """Print the figures; 1 when a text was not the recorded one."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.streams", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each kind; 200 takes an hour")
    parser.add_argument("--minutes", type=float, default=120.0, help="at most")
    options = parser.parse_args()
    figures = asyncio.run(streams(options.kills, limit_s=60 * options.minutes))
    print(json.dumps(asdict(figures), indent=2))
    print(f"streams: {figures.texts} texts, {figures.nodes_killed} kills, wrong {figures.wrong}")
    return 1 if figures.faults else 0


if __name__ == "__main__":
    sys.exit(main())
