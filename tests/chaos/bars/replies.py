"""Bar 7: requests arrive, their replies are lost. The client asks again with the same key: one task each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from coterie.client import Cluster, InvalidRequest, Job
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.report import Report
from tests.chaos.tools import needs
from tests.chaos.tools.network import HERE, Network

ATTEMPT_S = 0.6  # then the client believes that a reply is lost
DEAF_S, HEARS_S = 0.8, 0.3
CALLERS = 12
LOST_SHARE_MIN = 0.2
END_S = 60.0


@dataclass(slots=True)
class Keys:
    """What was asked for: the task of each key, and how long the answer took."""

    jobs: dict[str, Job] = field(default_factory=dict)
    lost: int = 0  # first replies


async def run(setting: Setting, report: Report) -> None:
    """This host hears no node, again and again, while every node hears it."""
    count = 2_000 if setting.full else 200
    network = Network(hosts=3)
    keys = Keys()
    with Field(setting.base_dir, nodes=3, network=network) as nodes:
        await nodes.wait_ready(READY_S)
        async with nodes.client(attempt_s=ATTEMPT_S) as client:
            deaf = asyncio.create_task(_deafness(network))
            await _ask(client, keys, count)
            deaf.cancel()
            await asyncio.gather(deaf, return_exceptions=True)
            network.heal_all()
        async with nodes.client() as client:
            await asyncio.gather(*(client.job(job.id).wait(timeout=END_S) for job in keys.jobs.values()))
            await _judge(nodes, client, keys, report)
    report.require("keys", len(keys.jobs), count)
    report.require("first replies lost", keys.lost, LOST_SHARE_MIN * count)


async def _deafness(network: Network) -> None:
    while True:
        cuts = await asyncio.to_thread(network.cut, [HERE], network.hosts)
        await asyncio.sleep(DEAF_S)
        await asyncio.to_thread(network.heal, cuts)
        await asyncio.sleep(HEARS_S)


async def _ask(client: Cluster, keys: Keys, count: int) -> None:
    """CALLERS at a time, slowly enough that a good part of the replies is lost."""
    waiting = [f"key-{number}" for number in reversed(range(count))]

    async def caller() -> None:
        while waiting:
            key = waiting.pop()
            began = time.monotonic()
            keys.jobs[key] = await client.submit_task(type="echo", payload=key, request_id=key)
            keys.lost += time.monotonic() - began >= ATTEMPT_S
            await asyncio.sleep(0.1)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def _judge(nodes: Field, client: Cluster, keys: Keys, report: Report) -> None:
    wrong = 0
    for node_id in nodes.node_ids:
        async with nodes.client(node_id) as alone:
            tasks = [task async for task in alone.list_tasks(page_size=1_000)]
        found = Counter(task.request_id for task in tasks)
        wrong += sum((found - Counter(keys.jobs.keys())).values())
        wrong += sum((Counter(keys.jobs.keys()) - found).values())
    mixed = len(keys.jobs) - len({job.id for job in keys.jobs.values()})
    refused = 0
    samples = sorted(keys.jobs)[:20]
    for key in samples:
        same = await client.submit_task(type="echo", payload=key, request_id=key)
        wrong += same.id != keys.jobs[key].id
        try:
            await client.submit_task(type="echo", payload="something else", request_id=key)
        except InvalidRequest as error:
            refused += error.reason == "REQUEST_ID_REUSED"
    report.demand(wrong == 0, f"{wrong} tasks too many, too few or of the wrong key on some node")
    report.demand(mixed == 0, f"{mixed} keys share a task with another")
    other = f"{refused} of {len(samples)} keys with another payload were refused"
    report.demand(refused == len(samples), other)
    report.figures |= {"keys": len(keys.jobs), "lost_replies": keys.lost, "wrong": wrong, "refused": refused}
    report.text = (
        f"{len(keys.jobs):,} keys, first reply lost for {keys.lost:,}; tasks that are no key's or missing "
        f"{wrong}, shared {mixed}; {other}"
    )


BAR = Bar(7, "lost replies", run, needs.NETWORK, own_network=True)
