"""Bar 22: members come and go, disks are wiped, while the leader is killed again and again under load."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from coterie.client import Cluster, CoterieError, Job
from tests.chaos.report import Report
from tests.cluster.conftest import READY_S, client_of
from tests.cluster.growing import CliFailed, GrowingCluster
from tests.cluster.test_failover import (
    assert_each_has_one_result_everywhere,
    assert_no_step_ran_again_after_completion,
    steps_payload,
)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_200)]

SEED = int(os.environ.get("COTERIE_CHAOS_SEED", "1"))
ROUNDS = int(os.environ.get("COTERIE_CHAOS_ROUNDS", "4"))  # of five changes
CHANGE_S = 120.0
BACK_S = 20.0
CHANGES_MIN, KILLS_MIN, ACKED_MIN = 20, 12, 500
EXIT_REFUSED = 4
UNSURE = (3, 5)  # exit codes of the command line: unavailable, timeout


class Operator:
    """Changes the members by the command line; asks again when an answer was lost with a leader."""

    def __init__(self, cluster: GrowingCluster, watcher: Cluster, dice: random.Random) -> None:
        self.cluster, self.watcher, self.dice = cluster, watcher, dice
        self.done: Counter[str] = Counter()
        self.hands = asyncio.Lock()  # who kills or starts processes
        self._next = len(cluster.node_ids) + 1

    async def ask(self, *arguments: str) -> None:
        """A removal that is no member's any more was done by an earlier try, whose answer was lost."""
        end, unsure = time.monotonic() + CHANGE_S, False
        while True:
            try:
                await self.cluster.cli(*arguments)
                return
            except CliFailed as error:
                if unsure and error.reason == "NODE_NOT_FOUND" and "remove" in arguments:
                    return
                again = error.code in UNSURE or error.reason in ("CHANGE_REFUSED", "STALE_DRAIN", "LAST_NODE")
                if not again or time.monotonic() > end:
                    raise
                unsure = unsure or error.code in UNSURE
            await asyncio.sleep(0.5)

    async def add(self) -> str:
        node_id, self._next = f"node-{self._next}", self._next + 1
        address = self.cluster.prepare(node_id)
        await self.ask("node", "add", node_id, "--address", address)
        async with self.hands:
            self.cluster.start_node(node_id)
        await self.cluster.until_role(self.watcher, node_id, "VOTER", timeout_s=CHANGE_S)
        self.done["added"] += 1
        return node_id

    async def remove(self, node_id: str) -> None:
        """Its process ends by itself, and when it was killed meanwhile it ends when it is started again."""
        await self.ask("node", "remove", node_id, "--deadline", "3s")
        async with self.hands:
            if self.cluster.alive(node_id):
                await self.cluster.ended(node_id)
            self.cluster.start_node(node_id)
            code, said = await self.cluster.ended(node_id)
            assert (code, "removed" in said) == (EXIT_REFUSED, True), said
            self.cluster.forget(node_id)
        self.done["removed"] += 1

    async def wipe(self, node_id: str) -> None:
        async with self.hands:
            if self.cluster.alive(node_id):
                self.cluster.kill_node(node_id)
            self.cluster.wipe(node_id)
        await self.ask("node", "resync", "--config", str(self.cluster.config_path), "--id", node_id)
        self.cluster.start_node(node_id)
        await self.cluster.until_role(self.watcher, node_id, "VOTER", timeout_s=CHANGE_S)
        self.done["wiped"] += 1

    def any_node(self) -> str:
        return self.dice.choice(self.cluster.node_ids)

    async def round(self) -> None:
        """Five changes, after which there are as many members as before."""
        await self.add()
        await self.wipe(self.any_node())
        victim = self.any_node()
        await self.add()  # a replacement
        await self.remove(victim)
        await self.remove(self.any_node())


async def kill_leaders(operator: Operator, dice: random.Random, kills: list[str]) -> None:
    """kill -9 of whoever leads, a moment after the one killed before is back: on a busy machine nodes start
    slowly, and a cluster with most of its leaders dead can change nothing."""
    cluster = operator.cluster
    while True:
        await asyncio.sleep(dice.uniform(0.3, 1.5))
        with suppress(CoterieError):
            leader = (await operator.watcher.get_status(timeout=5)).leader
            async with operator.hands:
                if leader in cluster.node_ids and cluster.alive(leader):
                    cluster.kill_node(leader)
                    kills.append(leader)
                    await asyncio.sleep(dice.uniform(0.1, 1.0))
                    cluster.start_node(leader)
            await back(operator, leader)


async def back(operator: Operator, node_id: str) -> None:
    """Until the node itself knows a leader, was removed meanwhile, or does not come back soon."""
    end = time.monotonic() + BACK_S
    while node_id in operator.cluster.node_ids and time.monotonic() < end:
        with suppress(CoterieError):
            async with client_of(operator.cluster, node_id) as client:
                await client.get_status(timeout=2)
                return
        await asyncio.sleep(0.2)


async def submit_for_ever(client: Cluster, acked: list[Job], pause_s: float, **task: object) -> None:
    while True:
        with suppress(CoterieError):  # not acked; what was acked is what counts
            acked.append(await client.submit_task(**task))  # type: ignore[arg-type]
        await asyncio.sleep(pause_s)


async def lost_of(client: Cluster, jobs: list[Job]) -> int:
    """How many acked tasks do not end with their result."""
    gate = asyncio.Semaphore(64)

    async def kept(job: Job) -> bool:
        async with gate:
            with suppress(CoterieError):
                await client.job(job.id).wait(timeout=180)
                return True
        return False

    return (await asyncio.gather(*(kept(job) for job in jobs))).count(False)


async def test_no_acked_task_is_lost_while_members_and_leaders_change(tmp_path: Path) -> None:
    """Repeat with COTERIE_CHAOS_SEED: it fixes the changes and the kills, not their timing."""
    dice, witness = random.Random(SEED), tmp_path / "witness"
    report = Report(22, "members change under load while leaders are killed")
    echoes: list[Job] = []
    stepped: list[Job] = []
    kills: list[str] = []
    payload = steps_payload(witness, steps=6, step_ms=100)
    with GrowingCluster(patient=False) as cluster:
        await cluster.wait_ready(READY_S)
        async with client_of(cluster) as client:
            operator = Operator(cluster, client, dice)
            background = [
                asyncio.create_task(kill_leaders(operator, random.Random(SEED + 1), kills)),
                asyncio.create_task(submit_for_ever(client, echoes, 0.05, type="echo", payload=1)),
                asyncio.create_task(submit_for_ever(client, echoes, 0.05, type="echo", payload=2)),
                asyncio.create_task(submit_for_ever(client, stepped, 0.4, type="steps", payload=payload)),
            ]
            began = time.monotonic()
            try:
                for number in range(3 * ROUNDS):  # on a quick machine, until enough leaders were killed
                    if number >= ROUNDS and len(kills) >= KILLS_MIN * ROUNDS / 4:
                        break
                    await operator.round()
            finally:
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
            took_s = time.monotonic() - began
            for node_id in cluster.node_ids:
                if not cluster.alive(node_id):
                    cluster.start_node(node_id)
            await cluster.wait_ready(READY_S)
            lost = await lost_of(client, [*echoes, *stepped])
            for job in stepped:
                info = await client.job(job.id).get(include_steps=True)
                assert_no_step_ran_again_after_completion(witness, info)
            members = {node.id: node.role for node in await client.list_nodes()}
        await assert_each_has_one_result_everywhere(cluster, [*echoes, *stepped])
    changes, acked = operator.done.total(), len(echoes) + len(stepped)
    what = ", ".join(f"{count} {kind}" for kind, count in sorted(operator.done.items()))
    report.text = f"{changes} changes ({what}), {len(kills)} leaders killed, {acked:,} acked, lost {lost}"
    report.text += f", {took_s:.0f} s, seed {SEED}"
    report.demand(lost == 0, f"{lost} acked tasks are lost")
    report.demand(members == dict.fromkeys(cluster.node_ids, "VOTER"), f"the members are {members}")
    report.require("changes", changes, CHANGES_MIN * ROUNDS / 4)
    report.require("kills", len(kills), KILLS_MIN * ROUNDS / 4)
    report.require("acked", acked, ACKED_MIN * ROUNDS / 4)
    print(report.line())
    assert report.verdict == "passed", report.line()
