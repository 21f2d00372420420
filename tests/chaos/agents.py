"""Many agents at work while nodes die: python -m tests.chaos.agents --runs 500.

Each run has 8 thoughts and 8 tool calls. Every two seconds a node is killed and started again at once, or
stopped for longer than it may lead or hold leases, and comes back as a zombie; now and then another one is
still down, so for moments there is no majority. What is counted is counted outside of the cluster: the bills
of the provider, and the book that the tools write in."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from coterie.client import Cluster, Job, TaskError, Unavailable
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.chaos.field import KILLED_BY_US
from tests.cluster.conftest import READY_S, client_of, new_cluster

T = TypeVar("T")
THOUGHTS, CALLS = 8, 8
KEYED = ("keyed", "background-keyed")  # where nothing at all may be billed twice
MODES = ("background", *KEYED, "plain")
END_S = 3_000.0  # no limit of speed: where starting a node takes seconds, it is dead for half of its time
AGAIN = 0.2  # how often a node is taken although another one is down
ZOMBIE_S = 6.0  # longer than a lease


@dataclass
class Figures:
    """What came out. `surplus`: bills above one per thought, by mode of the provider."""

    runs: int
    seed: int
    seconds: float = 0.0
    kills: int = 0
    without_majority: int = 0  # of kills and zombies: while another node was down
    zombies: int = 0
    answered: int = 0
    results_differ: int = 0  # a run that two readers got different results of
    thoughts: int = 0
    repeated: int = 0  # thoughts billed again after their answer was recorded
    surplus: dict[str, int] = field(default_factory=dict)
    in_doubt: int = 0  # in the cluster's ledger
    entries: int = 0
    entered_twice: int = 0  # tool calls that reached the book under more than one key
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether what is promised was kept."""
        exactly = self.answered == self.runs and not self.results_differ and not self.entered_twice
        paid = (
            not self.repeated
            and not any(self.surplus.get(mode) for mode in KEYED)
            and sum(self.surplus.values()) <= self.in_doubt
        )
        return exactly and paid and not self.faults


class Trial:
    """One run of the whole."""

    def __init__(
        self, nodes: LocalCluster, client: Cluster, server: LlmServerProcess, figures: Figures
    ) -> None:
        self._nodes, self._client, self._server, self.figures = nodes, client, server, figures
        self._dice = random.Random(figures.seed)
        self._jobs: dict[str, list[Job]] = {mode: [] for mode in MODES}
        self._asleep: set[str] = set()

    async def run(self, book: Path, kill_every_s: float) -> Figures:
        began = time.monotonic()
        self._server.script(*script(book), chunk_ms=5, first_ms=20)
        for mode in MODES:
            await self._client.agents.apply(agent_files(mode))
        breaking = asyncio.create_task(self._break(kill_every_s))
        try:
            await self._submit()
            await asyncio.gather(*(self._finish(job) for jobs in self._jobs.values() for job in jobs))
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)
        self.figures.seconds = time.monotonic() - began
        await self._count(book)
        return self.figures

    async def _submit(self) -> None:
        for number in range(self.figures.runs):
            mode = MODES[number % len(MODES)]
            self._jobs[mode].append(await patiently(partial(self._one, number, mode)))

    async def _one(self, number: int, mode: str) -> Job:
        payload = {"prompt": f"run {number}"}
        return await self._client.submit_task(
            type="agent", agent=mode, payload=payload, max_attempts=100, request_id=f"run-{number}"
        )

    async def _finish(self, job: Job) -> None:
        try:
            result = await patiently(partial(job.wait, timeout=END_S))
        except TaskError as failed:
            self.figures.faults.append(f"{job.id}: {failed}")
            return
        again = await patiently(partial(self._client.job(job.id).wait, timeout=END_S))
        self.figures.results_differ += again != result
        if (result["turns"], result["calls"], result["answer"]) == (THOUGHTS, CALLS, "all entered"):
            self.figures.answered += 1
        else:
            self.figures.faults.append(f"{job.id}: {json.dumps(result)[:300]}")

    async def _break(self, every_s: float) -> None:
        """A node every few seconds; where starting one takes longer, when the others are back, and sometimes
        sooner."""
        async with asyncio.TaskGroup() as sleepers:
            while True:
                await asyncio.sleep(every_s)
                up = [node for node in self._nodes.node_ids if await self._is_up(node)]
                down = len(self._nodes.node_ids) - len(up)
                if down > 1 or (down == 1 and self._dice.random() > AGAIN):
                    continue
                node = self._dice.choice(up)
                if down:
                    self.figures.without_majority += 1
                if self._dice.random() < 0.25:
                    sleepers.create_task(self._sleep(node))
                else:
                    self._nodes.kill_node(node)
                    self._nodes.start_node(node)
                    self.figures.kills += 1

    async def _is_up(self, node: str) -> bool:
        """It listens, and does not sleep."""
        host, _, port = self._nodes.addresses[node].rpartition(":")
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return False
        writer.close()
        return node not in self._asleep

    async def _sleep(self, node: str) -> None:
        """A zombie to be."""
        self._asleep.add(node)
        self._nodes.pause_node(node)
        try:
            await asyncio.sleep(ZOMBIE_S)
        finally:
            self._nodes.resume_node(node)
            self._asleep.discard(node)
        self.figures.zombies += 1

    async def _count(self, book: Path) -> None:
        await self._nodes.wait_ready(READY_S)
        billed = Counter(tuple(bill["request_id"].split("/")[:2]) for bill in self._server.bills)
        for mode, jobs in self._jobs.items():
            ids = {job.id for job in jobs}
            bills = {key: count for key, count in billed.items() if key[0] in ids}
            self.figures.thoughts += len(bills)
            self.figures.surplus[mode] = sum(bills.values()) - len(bills)
        self.figures.in_doubt = sum(row.in_doubt for row in await self._client.usage.rows("tenant"))
        if self.figures.thoughts != self.figures.runs * THOUGHTS:
            self.figures.faults.append(f"{self.figures.thoughts} thoughts were billed")
        self.figures.repeated = await self._repeated()
        keys = {line.split()[0] for line in (book / "calls").read_text().splitlines()}
        self.figures.entries = len(keys)
        self.figures.entered_twice = len(keys) - self.figures.runs * CALLS

    async def _repeated(self) -> int:
        """Bills of a thought in attempts later than the one that recorded its answer."""
        billed: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for bill in self._server.bills:
            task, step, attempt = bill["request_id"].split("/")
            billed[task].append((step, int(attempt.split("-")[0])))
        repeated = 0
        for job in (job for jobs in self._jobs.values() for job in jobs):
            recorded = {step.name: step.attempt for step in (await job.get(include_steps=True)).steps}
            repeated += sum(attempt > recorded.get(step, attempt) for step, attempt in billed[job.id])
        return repeated


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is a majority to answer."""
    until = time.monotonic() + END_S
    while True:
        try:
            return await ask()
        except Unavailable:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.5)


def agent_files(mode: str) -> dict[str, str]:
    """An agent that thinks with that provider and may write in the book."""
    agent = {"id": mode, "model": {"provider": mode, "name": "m"}, "skills": [{"skill_id": "book"}]}
    return {"config.yaml": yaml.safe_dump({"agent": agent})}


def script(book: Path) -> list[dict[str, Any]]:
    """Seven turns with calls, the last of them with two; then the answer."""

    def call(entry: int) -> dict[str, Any]:
        return {"name": "book", "arguments": {"book": str(book), "entry": entry}}

    turns = [[call(turn)] for turn in range(THOUGHTS - 2)] + [[call(THOUGHTS - 2), call(THOUGHTS - 1)]]
    rules = [{"when": {"turn": turn}, "answer": {"tool_calls": calls}} for turn, calls in enumerate(turns)]
    return [*rules, {"answer": {"text": "all entered"}}]


async def trial(runs: int, seed: int, kill_every_s: float = 2.0) -> Figures:
    """Make a cluster and a provider, let the agents work, and count."""
    with LlmServerProcess() as server, tempfile.TemporaryDirectory(prefix="coterie-agents-") as folder:
        common = {"baseUrl": server.url, "model": "m", "price": {"in": 1.0, "out": 2.0}}
        providers = {
            "plain": common,
            "background": {**common, "api": "responses"},
            "keyed": {**common, "idempotencyKeys": True},
            "background-keyed": {**common, "api": "responses", "idempotencyKeys": True},
        }
        options = {
            "llm": {"default": "plain", "providers": providers},
            **KILLED_BY_US,
        }
        with new_cluster(options=options, patient=False, capacity=16) as nodes:
            await nodes.wait_ready(READY_S)
            async with client_of(nodes) as client:
                return await Trial(nodes, client, server, Figures(runs, seed)).run(Path(folder), kill_every_s)


def main() -> int:
    """Print the figures; 1 when something was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.agents", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill-every", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    figures = asyncio.run(trial(options.runs, options.seed, options.kill_every))
    told = asdict(figures)
    print(json.dumps(told, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told), encoding="utf-8")
    breaks = f"{figures.kills} kills, {figures.zombies} zombies"
    print(f"agents: {figures.answered} of {figures.runs} runs answered in {figures.seconds:.0f} s, {breaks}")
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
