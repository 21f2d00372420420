"""One run: some seconds of work under faults, then peace, then everything must be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coterie.core.ports import Committed
from coterie.raft.member import Member
from tests.sim.raft.checks import Asked, Violation
from tests.sim.raft.world import MILLISECOND, World

SECOND = 1_000_000
FAULTS_S = 8
PEACE_S = 6  # 40 election timeouts


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in one run; `violation` is empty when every promise was kept."""

    seed: int
    count: int
    violation: str
    digest: str
    faults: int
    asked: int
    committed: int
    reads: int
    terms: int
    snapshots: int
    steps: int


class Nemesis:
    """Breaks things, each for a while. Every run uses its own choice of faults."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.count = 0
        every: list[Callable[[str, str], None]] = [
            self.kill,
            self.kill,
            self.kill_all,
            self.pull_plug,
            self.pull_all_plugs,
            self.pause,
            self.stall,
            self.break_link,
            self.cut_one_way,
            self.isolate,
            self.part,
            self.part,
            self.die_writing,
            self.die_in_turn,
            self.split,
            self.snapshot,
            self.die_in_compaction,
            self.die_at_start,
            self.slow_disk,
            self.fill_disk,
            self.fill_disk,
            self.slow_network,
            self.transfer,
            self.jump_wall_clock,
        ]
        share = self.rng.choice([0.1, 0.4, 0.8])  # few kinds of faults get deeper than many
        self.faults = [fault for fault in every if self.rng.random() < share] or every

    def strike(self) -> None:
        """One fault, rather on the leader than on others."""
        rng, world = self.rng, self.world
        leader = world.leader()
        a = leader if leader and rng.random() < 0.5 else rng.choice(world.ids)
        b = rng.choice([node_id for node_id in world.ids if node_id != a])
        self.count += 1
        rng.choice(self.faults)(a, b)

    def _after(self, low_ms: int, high_ms: int, what: Callable[[], None]) -> None:
        self.world.later(self.rng.randint(low_ms, high_ms) * MILLISECOND, what)

    def _down(self, node_id: str, *, power: bool) -> None:
        self.world.kill(node_id, power=power)
        self._after(5, 700, lambda: self.world.start(node_id))

    def kill(self, a: str, b: str) -> None:
        self._down(a, power=False)

    def kill_all(self, a: str, b: str) -> None:
        for node_id in self.world.ids:
            self._down(node_id, power=False)

    def pull_plug(self, a: str, b: str) -> None:
        self._down(a, power=True)

    def pull_all_plugs(self, a: str, b: str) -> None:
        for node_id in self.world.ids:
            self._down(node_id, power=True)

    def pause(self, a: str, b: str) -> None:
        self.world.pause(a)
        self._after(20, 900, lambda: self.world.resume(a))

    def stall(self, a: str, b: str) -> None:
        self.world.network.stall(a, b)
        self._after(10, 500, lambda: self.world.network.release(a, b))

    def break_link(self, a: str, b: str) -> None:
        self.world.break_link(a, b)

    def cut_one_way(self, a: str, b: str) -> None:
        """Nobody, or one node, hears `a` for a while; then the connection is found dead."""
        deaf = [n for n in self.world.ids if n != a] if self.rng.random() < 0.5 else [b]
        outward = self.rng.random() < 0.5
        for other in deaf:
            self.world.network.stall(*((a, other) if outward else (other, a)))
        self._after(100, 900, lambda: self._break_all(a, deaf))

    def _break_all(self, a: str, others: list[str]) -> None:
        for other in others:
            self.world.break_link(a, other)

    def isolate(self, a: str, b: str) -> None:
        for other in self.world.ids:
            if other != a:
                self.world.block(a, other)
        self._after(100, 900, self.world.unblock_all)

    def part(self, a: str, b: str) -> None:
        """Two nodes lose each other; the others hear both."""
        self.world.block(a, b)
        self._after(100, 900, self.world.unblock_all)

    def die_writing(self, a: str, b: str) -> None:
        """Some nodes, or all, die with their next write to the log."""
        for node_id in self.world.ids if self.rng.random() < 0.5 else [a]:
            self.world.nodes[node_id].fuse_at = "write log"
            self._after(50, 400, lambda node_id=node_id: self.world.start(node_id))  # type: ignore[misc]

    def die_in_turn(self, a: str, b: str) -> None:
        """All but `a` die with their next write and are soon back; `a` is lost meanwhile."""
        for node_id in self.world.ids:
            if node_id != a:
                self.world.nodes[node_id].fuse_at = "write log"
                self._after(20, 60, lambda node_id=node_id: self.world.start(node_id))  # type: ignore[misc]
        self._after(1, 10, lambda: self.world.kill(a))
        self._after(500, 900, lambda: self.world.start(a))

    def split(self, a: str, b: str) -> None:
        left = self.rng.sample(self.world.ids, len(self.world.ids) // 2)
        for x in left:
            for y in self.world.ids:
                if y not in left:
                    self.world.block(x, y)
        self._after(100, 900, self.world.unblock_all)

    def snapshot(self, a: str, b: str) -> None:
        if self.world.nodes[a].is_up:
            self.world.nodes[a].member.want_snapshot()

    def die_in_compaction(self, a: str, b: str) -> None:
        node = self.world.nodes[a]
        node.fuse_at = self.rng.choice(
            ["switch snapshot", "switch snapshot", "write snapshot", "store chunk"]
        )
        self.snapshot(a, b)
        self._after(300, 900, lambda: self.world.start(a))

    def die_at_start(self, a: str, b: str) -> None:
        self.world.kill(a, power=self.rng.random() < 0.5)
        self.world.nodes[a].disk.fuse = self.rng.randint(0, 12)
        self._after(5, 100, lambda: self.world.start(a))
        self._after(150, 500, lambda: self.world.start(a))

    def slow_disk(self, a: str, b: str) -> None:
        node = self.world.nodes[a]
        node.disk_us = self.rng.choice([5_000, 40_000, 200_000])
        self._after(50, 600, lambda: setattr(node, "disk_us", self.world.disk_us))

    def fill_disk(self, a: str, b: str) -> None:
        """Others take the room, now and then what was allocated for the log too."""
        for node_id in self.world.ids if self.rng.random() < 0.3 else [a]:
            disk = self.world.nodes[node_id].disk
            disk.taken_bytes = disk.size_bytes
            if self.rng.random() < 0.3:
                disk.drop_reserves()
            self._after(30, 1_500, lambda disk=disk: setattr(disk, "taken_bytes", 0))  # type: ignore[misc]

    def slow_network(self, a: str, b: str) -> None:
        self.world.network.slow_us = self.rng.choice([5_000, 30_000, 80_000])
        self._after(50, 600, lambda: setattr(self.world.network, "slow_us", 0))

    def transfer(self, a: str, b: str) -> None:
        node = self.world.nodes[a]
        if node.is_up and not node.paused:
            node.member.transfer(self.rng.choice(["", b]), 0.5, lambda answer: None)
            self.world._kick(node)

    def jump_wall_clock(self, a: str, b: str) -> None:
        self.world.nodes[a].clock.wall_offset_ms += self.rng.randint(-3_600_000, 3_600_000)

    def make_peace(self) -> None:
        world = self.world
        world.unblock_all()
        world.network.slow_us = 0
        for a in world.ids:
            node = world.nodes[a]
            node.disk_us, node.fuse_at, node.disk.fuse = world.disk_us, "", None
            node.disk.taken_bytes = 0
            world.resume(a)
            for b in world.ids:
                if a != b:
                    world.network.release(a, b)
        for a in world.ids:
            world.start(a)


class Clients:
    """Propose and read on any node, now and then in bursts."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self._number = 0
        self.rate = self.rng.choice([3, 15, 30, 60])

    def body(self) -> bytes:
        self._number += 1
        size = self.rng.choice([0, 0, 20, 120, 900, 2_600])
        return self._number.to_bytes(8, "big") + bytes(size)

    def act(self) -> None:
        rng, world = self.rng, self.world
        node_id = rng.choice(world.ids)
        for _ in range(rng.randint(5, 30) if rng.random() < 0.03 else 1):
            world.propose(node_id, self.body(), rng.choice([0.1, 0.5, 1.5]), vital=rng.random() < 0.3)
        if rng.random() < 0.4:
            world.read(rng.choice(world.ids), 0.5)


def simulate(seed: int, count: int, member_type: type[Member] = Member) -> Report:
    """Everything about the run follows from its arguments."""
    world = World(seed, count, member_type)
    nemesis, clients = Nemesis(world), Clients(world)
    violation = ""
    try:
        _work(world, nemesis, clients)
        nemesis.make_peace()
        _expect_progress(world, clients)
        world.book.close()
    except Violation as broken:
        violation = f"at {world.now_us / SECOND:.3f} s: {broken}"
    book = world.book
    stores = (node.member._store.index for node in world.nodes.values() if node.is_up)
    return Report(
        seed,
        count,
        violation,
        book.digest.hexdigest(),
        nemesis.count,
        len(book.asked),
        book.committed,
        book.reads,
        max(book.leaders, default=0),
        sum(1 for index in stores if index),
        world.steps,
    )


def _work(world: World, nemesis: Nemesis, clients: Clients) -> None:
    rng = world.rng
    world.run_until(2 * SECOND, stop=lambda: bool(world.leader()))
    end = world.now_us + FAULTS_S * SECOND
    fault_every_ms = rng.choice([60, 150, 400, 700])
    next_fault = world.now_us + rng.randint(0, 2 * fault_every_ms) * MILLISECOND
    while world.now_us < end:
        world.run_until(world.now_us + rng.randint(0, 2 * SECOND // clients.rate))
        clients.act()
        if world.now_us >= next_fault:
            nemesis.strike()
            next_fault = world.now_us + rng.randint(0, 2 * fault_every_ms) * MILLISECOND


def _expect_progress(world: World, clients: Clients) -> None:
    """After the last fault: a leader, an answer to everybody, one state, and new work gets done."""
    deadline = world.now_us + PEACE_S * SECOND

    def calm() -> bool:
        members = [node.member for node in world.nodes.values()]
        return (
            all(members)
            and world.leader() != ""
            and all(member.leader == world.leader() for member in members)
            and len({member.applied_index for member in members}) == 1
            and all(member.takes_new_work for member in members)
            and all(asked.answers or asked.lost for asked in world.book.asked)
        )

    if not _run_checking(world, deadline, calm):
        raise Violation(f"no calm {PEACE_S} s after the last fault: {_describe(world)}")
    last: list[Asked] = []
    for node_id in world.ids:
        asked = world.propose(node_id, clients.body(), 2.0)
        if asked is None:
            raise Violation(f"{node_id} takes no proposal after the last fault")
        last.append(asked)
    if not _run_checking(world, world.now_us + 3 * SECOND, lambda: calm() and all(a.answers for a in last)):
        raise Violation(f"no calm after the last proposals: {_describe(world)}")
    if not all(isinstance(asked.answers[0], Committed) for asked in last):
        raise Violation(f"healthy cluster, but {[asked.answers[0] for asked in last]}")
    chains = {(node.machine.index, node.machine.chain) for node in world.nodes.values() if node.machine}
    if len(chains) != 1:
        raise Violation(f"states differ: {sorted(chains)}")


def _run_checking(world: World, deadline: int, condition: Callable[[], bool]) -> bool:
    while world.now_us < deadline:
        world.run_until(world.now_us + 10 * MILLISECOND)
        if condition():
            return True
    return False


def _describe(world: World) -> str:
    waiting = sum(1 for asked in world.book.asked if not asked.answers and not asked.lost)
    states = [
        f"{n.node_id}: {n.member.leader} t{n.member.term} c{n.member.commit_index} a{n.member.applied_index} "
        f"log {n.member._log.base.index}..{n.member._log.last_index} blocked {n.member.is_blocked}"
        if n.is_up
        else f"{n.node_id} down"
        for n in world.nodes.values()
    ]
    return f"{waiting} unanswered; " + "; ".join(states)


def seeded_size(seed: int, sizes: list[int]) -> int:
    """Which cluster size a seed runs with: all sizes in turn."""
    return sizes[seed % len(sizes)]
