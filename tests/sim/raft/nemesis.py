"""Breaks things, each for a while. A run draws at its start which kinds of fault it uses (swarm testing:
Groce et al. 2012): few kinds get deeper than many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.sim.raft.timeline import MILLISECOND
from tests.sim.raft.world import World

Fault = Callable[[str, str], None]
CLOCK_RATES = (0.5, 0.67, 0.9, 1.1, 1.33, 1.5)
CHECK_OWN = "check own snapshot"
JOBS = (  # all that the engine gives to the disk
    "write log",
    "write snapshot",
    "close snapshot",
    "switch snapshot",
    "copy log",
    "replace log",
    "drop copy",
    "tidy log",
    "store chunk",
    "check snapshot",
    "read snapshot",
    "drop chunks",
    "drop snapshot",
    CHECK_OWN,
    "look at disk",
)
# Those of a node that is sent a snapshot.
OF_TRANSFERS = ("drop copy", "store chunk", "check snapshot", "read snapshot", "drop chunks")
# More often than the others, in the runs that use them.
FREQUENT = ("kill", "part", "die_in_compaction", "fill_disk")


class Nemesis:
    """A fault is a method that takes two nodes: the one to break, and another."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.struck: Counter[str] = Counter()
        share = self.rng.choice([0.1, 0.3, 0.7])
        self.kinds = [kind for kind in KINDS if self.rng.random() < share] or list(KINDS)
        self._draw = [kind for kind in self.kinds for _ in range(3 if kind in FREQUENT else 1)]

    def strike(self) -> None:
        """One fault, rather on the leader than on others."""
        rng, world = self.rng, self.world
        leader = world.leader()
        a = leader if leader and rng.random() < 0.5 else rng.choice(world.ids)
        b = rng.choice([node_id for node_id in world.ids if node_id != a])
        kind = rng.choice(self._draw)
        self.struck[kind] += 1
        world.say("fault", kind, a, b)
        fault: Fault = getattr(self, kind)
        fault(a, b)

    def _after(self, low_ms: int, high_ms: int, what: Callable[[], None]) -> None:
        self.world.after(low_ms, high_ms, what)

    def _start(self, node_id: str, low_ms: int, high_ms: int) -> None:
        self._after(low_ms, high_ms, lambda: self.world.start(node_id))

    # --- processes and power ---

    def _down(self, node_id: str, *, power: bool) -> None:
        self.world.kill(node_id, power=power)
        self._start(node_id, 5, 700)

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

    # --- the network ---

    def stall(self, a: str, b: str) -> None:
        self.world.network.stall(a, b)
        self._after(10, 500, lambda: self.world.network.release(a, b))

    def break_link(self, a: str, b: str) -> None:
        self.world.break_link(a, b)

    def storm(self, a: str, b: str) -> None:
        """Connections break again and again, a few milliseconds after they stand."""
        around = self.rng.random() < 0.5
        pairs = [(x, y) for x in self.world.ids for y in self.world.ids if x < y and (around or a in (x, y))]
        for moment in range(0, self.rng.randint(100, 600), 10):
            x, y = self.rng.choice(pairs)
            self.world.later(moment * MILLISECOND, lambda x=x, y=y: self.world.break_link(x, y))  # type: ignore[misc]

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

    def split(self, a: str, b: str) -> None:
        left = self.rng.sample(self.world.ids, len(self.world.ids) // 2)
        for x in left:
            for y in self.world.ids:
                if y not in left:
                    self.world.block(x, y)
        self._after(100, 900, self.world.unblock_all)

    def ring(self, a: str, b: str) -> None:
        """Everybody hears two neighbours only; of five that is a majority, of each another one."""
        around = self.rng.sample(self.world.ids, len(self.world.ids))
        for at, x in enumerate(around):
            for y in around[at + 1 :]:
                if (around.index(y) - at) % len(around) not in (1, len(around) - 1):
                    self.world.block(x, y)
        self._after(100, 900, self.world.unblock_all)

    def slow_network(self, a: str, b: str) -> None:
        self.world.network.slow_us = self.rng.choice([5_000, 30_000, 80_000])
        self._after(50, 600, lambda: setattr(self.world.network, "slow_us", 0))

    # --- dying inside an operation ---

    def die_writing(self, a: str, b: str) -> None:
        """Some nodes, or all, die with their next write to the log."""
        for node_id in self.world.ids if self.rng.random() < 0.5 else [a]:
            self.world.nodes[node_id].fuse_at = "write log"
            self._start(node_id, 50, 400)

    def die_in_turn(self, a: str, b: str) -> None:
        """All but `a` die with their next write and are soon back; `a` is lost meanwhile."""
        for node_id in self.world.ids:
            if node_id != a:
                self.world.nodes[node_id].fuse_at = "write log"
                self._start(node_id, 20, 60)
        self._after(1, 10, lambda: self.world.kill(a))
        self._start(a, 500, 900)

    def die_in_compaction(self, a: str, b: str) -> None:
        """At whatever operation of whatever disk job but the log's: most are of a snapshot that is made, sent
        or installed."""
        job = self.rng.choice(JOBS[1:])
        self.world.nodes[a].fuse_at = job
        if job in OF_TRANSFERS:
            self.lag(a, b)
            self._start(a, 1_200, 2_000)
        else:
            self.snapshot(a, b)
            self._start(a, 300, 900)

    def die_at_start(self, a: str, b: str) -> None:
        self.world.kill(a, power=self.rng.random() < 0.5)
        self.world.nodes[a].disk.fuse = self.rng.randint(0, 12)
        self._start(a, 5, 100)
        self._start(a, 150, 500)

    # --- disks, clocks, and what people do ---

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

    def jump_wall_clock(self, a: str, b: str) -> None:
        self.world.nodes[a].clock.wall_offset_ms += self.rng.randint(-3_600_000, 3_600_000)

    def warp_clock(self, a: str, b: str) -> None:
        """From now on this node's time goes faster or slower than the world's."""
        self.world.run_clock(a, self.rng.choice(CLOCK_RATES))

    def snapshot(self, a: str, b: str) -> None:
        if self.world.nodes[a].is_up:
            self.world.nodes[a].member.want_snapshot()

    def lag(self, a: str, b: str) -> None:
        """`a` is away while the others cut their logs: it needs a snapshot when it is back."""
        for other in self.world.ids:
            if other != a:
                self.world.block(a, other)
                self._after(300, 500, lambda other=other: self.snapshot(other, a))  # type: ignore[misc]
        self._after(500, 900, self.world.unblock_all)

    def spoil_transfer(self, a: str, b: str) -> None:
        """`a` needs a snapshot, and what it stores of it is damaged. The sender looks at its own, and may die
        of that."""
        self.world.nodes[a].spoils = True
        self.lag(a, b)
        if self.rng.random() < 0.5:
            for other in self.world.ids:
                if other != a:
                    self.world.nodes[other].fuse_at = CHECK_OWN
                    self._start(other, 1_200, 2_000)

    def cut_loose_end(self, a: str, b: str) -> None:
        """`a` has been alone for a while, and hears what the others have in the place of the end of its log
        while it cuts its beginning."""
        for other in self.world.ids:
            if other != a:
                self.world.block(a, other)
        self._after(100, 500, lambda: self._cut_and_meet(a, b))

    def _cut_and_meet(self, a: str, b: str) -> None:
        self.snapshot(a, b)
        self._after(1, 100, self.world.unblock_all)

    def transfer(self, a: str, b: str) -> None:
        self.world.transfer(a, self.rng.choice(["", b]), 0.5)

    # --- the end of it ---

    def make_peace(self) -> None:
        world = self.world
        world.unblock_all()
        world.network.slow_us = 0
        for a in world.ids:
            node = world.nodes[a]
            node.disk_us, node.fuse_at, node.disk.fuse = world.disk_us, "", None
            node.spoils = False
            node.disk.taken_bytes = 0
            world.run_clock(a, 1.0)
            world.resume(a)
            for b in world.ids:
                if a != b:
                    world.network.release(a, b)
        for a in world.ids:
            world.start(a)


KINDS = tuple(name for name, value in vars(Nemesis).items() if not name.startswith("_") and callable(value))
KINDS = tuple(name for name in KINDS if name not in ("strike", "make_peace"))
