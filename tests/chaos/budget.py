"""Many callers race for one budget while nodes die and networks are cut:

    python -m tests.chaos.budget --callers 500 --nodes 5 --kills 8 --cuts 8

What is counted is the provider's own bill: a server outside the cluster that counts what arrives. It must
never be above the budget; nor may billed + set aside be, whenever any node is asked."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from coterie.client import Budget, Cluster, ClusterError, Job
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.chaos.field import READY_S, Field
from tests.chaos.tools import needs
from tests.chaos.tools.needs import missing
from tests.chaos.tools.network import HERE, Network

TOKENS_PER_CALL = 400  # its worst case is a little less
END_S = 240.0


@dataclass
class Figures:
    """What came out."""

    callers: int
    nodes: int
    kills: int = 0
    cuts: int = 0
    budget_requests: int = 0
    budget_tokens: int = 0
    looks: int = 0
    most_requests: int = 0  # billed + set aside, at any look
    most_tokens: int = 0
    bills_at_exhaustion: int = 0  # of the provider, when nothing was left
    bills: int = 0
    answers: int = 0
    in_doubt: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def overshoot(self) -> int:
        """Requests above the budget: by the provider's bill, or by what any node said."""
        most = max(self.most_requests, self.bills_at_exhaustion)
        return max(0, most - self.budget_requests) + max(0, self.most_tokens - self.budget_tokens)


class Race:
    """One run."""

    def __init__(
        self, nodes: LocalCluster, client: Cluster, server: LlmServerProcess, callers: int, width: int
    ) -> None:
        self._nodes, self._client, self._server = nodes, client, server
        self._width = width
        self.figures = Figures(callers, len(nodes.node_ids))
        self._jobs: list[Job] = []

    async def run(self, kills: int, cuts: int, pause_s: float) -> Figures:
        """Until everybody has an answer: first the budget lasts for half of them, then it is raised."""
        figures = self.figures
        half = max(1, figures.callers // 2)
        await self._set(half, half * TOKENS_PER_CALL)
        watching = asyncio.create_task(self._watch())
        await self._submit()
        await self._until_billed(half // 10)
        await self._harm(kills, cuts, pause_s)
        await self._until_exhausted()
        figures.bills_at_exhaustion = len(self._server.bills)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await self._client.usage.set_budget(Budget("race", requests=100 * figures.callers))
        await self._finish()
        figures.bills = len(self._server.bills)
        [row] = await self._client.usage.rows("tenant")
        figures.in_doubt = row.in_doubt
        return figures

    async def _set(self, requests: int, tokens: int) -> None:
        self.figures.budget_requests, self.figures.budget_tokens = requests, tokens
        await self._client.usage.set_budget(Budget("race", requests=requests, tokens=tokens))

    async def _submit(self) -> None:
        for first in range(0, self.figures.callers, self._width):
            count = min(self._width, self.figures.callers - first)
            asks = [{"prompt": f"caller {first + one}", "max_tokens": 16} for one in range(count)]
            payload = {"asks": asks, "parallel": True}
            self._jobs.append(await self._client.submit_task(type="think", payload=payload))

    async def _until_billed(self, count: int) -> None:
        """What is harmed shall be calls in the air, not nodes that still load what a first call needs."""
        end = time.monotonic() + END_S
        while time.monotonic() < end:
            if len(self._server.bills) >= count:
                return
            await asyncio.sleep(0.1)

    async def _harm(self, kills: int, cuts: int, pause_s: float) -> None:
        """The leader, again and again, by turns; each is back before the next goes."""
        figures = self.figures
        while figures.kills < kills or figures.cuts < cuts:
            await asyncio.sleep(pause_s)
            leader = (await self._client.get_status()).leader
            if not leader:
                continue
            if figures.kills < kills and figures.kills <= figures.cuts * kills / max(cuts, 1):
                await self._kill(leader, pause_s)
            else:
                await self._cut_off(leader, 2 * pause_s)
            await self._nodes.wait_ready(READY_S)
            print(asdict(figures), file=sys.stderr)

    async def _kill(self, leader: str, pause_s: float) -> None:
        self._nodes.kill_node(leader)
        self.figures.kills += 1
        await asyncio.sleep(pause_s)
        self._nodes.start_node(leader)

    async def _cut_off(self, leader: str, pause_s: float) -> None:
        """The leader, and of five nodes another one, hear none of the rest; the provider they still reach."""
        assert isinstance(self._nodes, Field) and self._nodes.network is not None
        network, minority = self._nodes.network, (len(self._nodes.node_ids) - 1) // 2
        others = [one for one in self._nodes.node_ids if one != leader]
        some = {self._nodes.host(one) for one in [leader, *others[: minority - 1]]}
        cuts = await asyncio.to_thread(network.cut_both, some, set(network.hosts) - some)
        self.figures.cuts += 1
        await asyncio.sleep(pause_s)
        await asyncio.to_thread(network.heal, cuts)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(ClusterError):
                await self._look()
            await asyncio.sleep(0.05)

    async def _look(self) -> tuple[int, int]:
        """Requests spent and set aside."""
        figures = self.figures
        [budget] = await self._client.usage.budgets()
        if not budget.accounts:
            return 0, 0
        [account] = budget.accounts
        figures.looks += 1
        figures.most_requests = max(figures.most_requests, account.requests + account.requests_reserved)
        figures.most_tokens = max(figures.most_tokens, account.tokens + account.tokens_reserved)
        return account.requests, account.requests_reserved

    async def _until_exhausted(self) -> None:
        """Nothing is in the air, and nothing left for another call."""
        end = time.monotonic() + END_S
        while time.monotonic() < end:
            spent, reserved = await self._look()
            if spent >= self.figures.budget_requests and not reserved:
                return
            await asyncio.sleep(0.2)
        self.figures.faults.append(f"the budget was not used up in {END_S:g} s")

    async def _finish(self) -> None:
        for job in self._jobs:
            result = await job.wait(timeout=END_S)
            self.figures.answers += len(result["answers"])
        if self.figures.answers != self.figures.callers:
            self.figures.faults.append(f"{self.figures.answers} answers for {self.figures.callers} callers")


async def race(
    callers: int,
    kills: int,
    cuts: int = 0,
    *,
    nodes: int = 3,
    width: int = 25,
    pause_s: float = 2.0,
    first_ms: int = 100,
) -> Figures:
    """Make a cluster and a provider, let them race, and count. Cuts need a network namespace of one's own."""
    network = Network(nodes) if cuts else None
    host = network.address(HERE) if network else "127.0.0.1"
    with LlmServerProcess(host=host) as server, tempfile.TemporaryDirectory(prefix="coterie-budget-") as base:
        provider = {"baseUrl": server.url, "model": "m", "price": {"in": 1.0, "out": 2.0}}
        server.script(chunk_ms=20, first_ms=first_ms)
        options = {"llm": {"providers": {"main": provider}}}
        with Field(Path(base), nodes=nodes, network=network, options=options) as cluster:
            await cluster.wait_ready(READY_S)
            async with cluster.client() as client:
                return await Race(cluster, client, server, callers, width).run(kills, cuts, pause_s)


def main() -> int:
    """Print the figures; 1 when the budget was overshot, or somebody got no answer."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.budget", description=__doc__)
    parser.add_argument("--callers", type=int, default=500)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--kills", type=int, default=8, help="of the leader")
    parser.add_argument("--cuts", type=int, default=0, help="that leave the leader in a minority; needs root")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cuts and not options.inside:
        return _in_a_network_of_its_own()
    figures = asyncio.run(
        race(options.callers, options.kills, options.cuts, nodes=options.nodes, first_ms=3_000)
    )
    told = {**asdict(figures), "overshoot": figures.overshoot}
    print(json.dumps(told, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told), encoding="utf-8")
    harm = f"{figures.kills} leader kills, {figures.cuts} cuts"
    print(f"budget: {figures.callers} callers, {figures.nodes} nodes, {harm}, overshoot {figures.overshoot}")
    return 1 if figures.overshoot or figures.faults else 0


def _in_a_network_of_its_own() -> int:
    if lacking := missing(needs.root, needs.tools("ip", "nft", "nsenter"), needs.namespaces):
        print(f"skipped: {lacking}")
        return 0
    spaces = ["unshare", "--mount", "--net", "--propagation", "private"]
    inside = [sys.executable, "-m", "tests.chaos.budget", *sys.argv[1:], "--inside"]
    return subprocess.run([*spaces, *inside], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
