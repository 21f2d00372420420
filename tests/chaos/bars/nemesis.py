"""Bar 3: everything at once. A fault every one to four seconds on five nodes on five hosts, under load."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.histories import Onlookers, judge_history, recorded, told
from tests.chaos.load import Load, Record
from tests.chaos.lookout import Lookout
from tests.chaos.report import Report
from tests.chaos.tools import needs
from tests.chaos.tools.network import HERE, Network
from tests.chaos.verdict import judge, judge_journals

FINISH_S = 30.0  # every acknowledged task must be finished that long after the last fault
LEADER_SHARE = 0.45  # of the faults hit the leader
HELPLESS_MAX = 2  # killed or paused at once: a majority has to live, or nothing is learnt


class Nemesis:
    """Makes one random fault after the other; each is undone after a moment, and they overlap."""

    def __init__(self, field: Field, network: Network, lookout: Lookout, dice: random.Random) -> None:
        self._field, self._network, self._lookout, self._dice = field, network, lookout, dice
        self.faults: Counter[str] = Counter()
        self._helpless: set[str] = set()
        self._made: list[asyncio.Task[None]] = []
        self._kinds: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
            "kill -9": self._kill,
            "stop": self._pause,
            "cut": self._cut,
            "deaf": self._deaf,
            "mute": self._mute,
            "ring": self._ring,
            "loss": self._loss,
            "lost replies": self._lost_replies,
            "isolated": self._isolated,
        }

    async def run(self, seconds: float) -> None:
        """Faults for so long; then everything is mended and everybody is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(self._dice.uniform(1.0, 4.0))
            self._strike()
        await asyncio.gather(*self._made)  # a fault that could not be made ends the run
        self._network.heal_all()
        self._field.revive()

    def _strike(self) -> None:
        kind = self._dice.choice(list(self._kinds))
        leader = self._lookout.leader()
        at_leader = bool(leader) and self._dice.random() < LEADER_SHARE
        victim = leader if at_leader else self._dice.choice(self._field.node_ids)
        if kind in ("kill -9", "stop"):
            if victim in self._helpless or len(self._helpless) >= HELPLESS_MAX:
                kind = "cut"
            else:
                self._helpless.add(victim)
        self.faults[kind + (" of the leader" if at_leader else "")] += 1
        self._made.append(asyncio.create_task(self._kinds[kind](victim), name=kind))

    async def _moment(self) -> None:
        await asyncio.sleep(self._dice.uniform(0.5, 4.0))

    async def _kill(self, victim: str) -> None:
        self._field.kill_node(victim)
        await self._moment()
        self._field.start_node(victim)
        self._helpless.discard(victim)

    async def _pause(self, victim: str) -> None:
        self._field.pause_node(victim)
        await self._moment()
        self._field.resume_node(victim)
        self._helpless.discard(victim)

    async def _for_a_moment(self, make: Callable[[], list[tuple[str, int, int]]]) -> None:
        cuts = await asyncio.to_thread(make)
        await self._moment()
        await asyncio.to_thread(self._network.heal, cuts)

    async def _cut(self, victim: str) -> None:
        """One or two nodes on one side."""
        some = {self._field.host(victim), self._dice.choice(self._network.hosts)}
        rest = set(self._network.hosts) - some
        await self._for_a_moment(lambda: self._network.cut_both(some, rest))

    async def _isolated(self, victim: str) -> None:
        """Nobody hears the node, not even clients, nor does it hear anybody."""
        host = self._field.host(victim)
        rest = [*set(self._network.hosts) - {host}, HERE]
        await self._for_a_moment(lambda: self._network.cut_both([host], rest))

    async def _deaf(self, victim: str) -> None:
        """The node can speak to the others and hears none of them."""
        host = self._field.host(victim)
        await self._for_a_moment(lambda: self._network.cut([host], self._network.hosts))

    async def _mute(self, victim: str) -> None:
        """The node hears the others, and none of them hears it."""
        host = self._field.host(victim)
        await self._for_a_moment(lambda: self._network.cut(self._network.hosts, [host]))

    async def _ring(self, victim: str) -> None:
        """Every node sees a majority, and no two see the same: each hears only its two neighbours."""
        order = self._dice.sample(list(self._network.hosts), len(self._network.hosts))

        def make() -> list[tuple[str, int, int]]:
            made = []
            for at, host in enumerate(order):
                near = {order[at - 1], host, order[(at + 1) % len(order)]}
                made += self._network.cut([host], set(order) - near)
            return made

        await self._for_a_moment(make)

    async def _loss(self, victim: str) -> None:
        """A third of the packets to and from a node are lost."""
        host = self._field.host(victim)
        everybody = self._network.hosts
        await self._for_a_moment(
            lambda: self._network.lose([host], everybody) + self._network.lose(everybody, [host])
        )

    async def _lost_replies(self, victim: str) -> None:
        """Clients reach the node and do not hear its answers."""
        host = self._field.host(victim)
        await self._for_a_moment(lambda: self._network.cut([HERE], [host]))


async def run(setting: Setting, report: Report) -> None:
    """Heal at the end, and judge."""
    seconds, acked, faults, changes = (300, 5_000, 60, 15) if setting.full else (60, 600, 12, 3)
    network = Network(hosts=5)
    witness = setting.base_dir / "witness"
    with Field(setting.base_dir, network=network) as field:
        await field.wait_ready(READY_S)
        async with Lookout(field) as lookout, recorded(field, setting.base_dir) as client:
            nemesis = Nemesis(field, network, lookout, setting.dice("faults"))
            load = Load(client, witness)
            onlookers = Onlookers(client, load.record, setting.dice("looks"), setting.base_dir)
            async with load as record, onlookers:
                began = time.monotonic()
                await nemesis.run(seconds)
                healed = time.monotonic()
                first = await record.next_ack(healed, FINISH_S)
            await judge(field, record, witness, report, since=healed)
            await onlookers.last_looks()
        judge_history(setting.base_dir, report, reads_min=acked)
        report.demand(first is not None, "nothing was acknowledged after everything was healed")
        _conclude(report, record, nemesis, began, healed)
        field.stop()
        judge_journals(field, report)
    report.require("acked", len(record.acks), acked)
    report.require("faults", nemesis.faults.total(), faults)
    report.require("leader changes", report.figures["leader_changes"], changes)


def _conclude(report: Report, record: Record, nemesis: Nemesis, began: float, healed: float) -> None:
    figures = report.figures
    figures |= {
        "faults": nemesis.faults.total(),
        "kinds": dict(nemesis.faults.most_common()),
        "longest_gap_s": round(record.longest_gap(began, healed), 1),
    }
    late = figures["terminal_after_s"]
    report.demand(
        late <= FINISH_S, f"acknowledged tasks took {late} s to finish after the end, not {FINISH_S:g}"
    )
    report.text = (
        f"{figures['faults']} faults in {healed - began:.0f} s, {figures['leader_changes']} leader changes, "
        f"acked {figures['acked']:,} ({figures['stepped']} of steps), lost {figures['lost']}, "
        f"doubled {figures['doubled']}, repeated steps {figures['repeated_steps']}, "
        f"all finished after {late} s, longest gap {figures['longest_gap_s']} s, {told(report)}, "
        "states equal on all nodes"
    )


BAR = Bar(3, "random faults on five hosts", run, needs.NETWORK, own_network=True)
