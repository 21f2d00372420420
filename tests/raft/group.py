"""Members driven by hand: every message, every fsync and every millisecond is the test's decision."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.core.ports import Committed, MembershipChange, Role
from coterie.raft import messages as m
from coterie.raft.errors import DiskFull, LinkRefused, RemovedFromCluster, Why
from coterie.raft.jobs import Job
from coterie.raft.member import Member
from coterie.raft.options import RaftOptions
from coterie.raft.wire import Wire
from tests.raft.inprocess import ListMachine
from tests.sim.raft.disk import SimDisk

ELECTION_MS = 100
CLUSTER = "coterie"
FIRST = 4  # index of the first proposal: before it are the base, the first configuration and a no-op


class ManualClock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_ms = 1_000.0
        self.wall = 1_700_000_000_000

    def monotonic(self) -> float:
        return self.now_ms / 1_000

    def wall_ms(self) -> int:
        return self.wall + int(self.now_ms)


@dataclass
class Answer:
    """What a proposal, read or transfer was told; None so far."""

    values: list[Any] = field(default_factory=list)

    @property
    def value(self) -> Any:
        assert len(self.values) <= 1, f"answered more than once: {self.values}"
        return self.values[0] if self.values else None

    @property
    def committed(self) -> Committed:
        assert isinstance(self.value, Committed), self.value
        return self.value


class Group:
    """A cluster in which nothing happens by itself."""

    machine_type: type[Any] = ListMachine

    def __init__(self, count: int = 3, **settings: Any) -> None:
        self.clock = ManualClock()
        self.ids = [f"n{number}" for number in range(1, count + 1)]
        self.settings = settings
        self.disks = {node: SimDisk(random.Random(number)) for number, node in enumerate(self.ids)}
        self.members: dict[str, Member] = {}
        self.machines: dict[str, ListMachine] = {}
        self.on_way: dict[tuple[str, str], deque[m.Message]] = {
            (a, b): deque() for a in self.ids for b in self.ids if a != b
        }
        self.stopped: set[tuple[str, str]] = set()  # directions in which nothing is delivered for now
        self.jobs: dict[str, deque[Job]] = {node: deque() for node in self.ids}
        self.hold_disk: set[str] = set()  # nodes whose jobs wait for `run_jobs`
        self.sync_s: dict[str, float] = {}  # how long a node's disk takes, as the node measures it
        self.wire = Wire(CLUSTER, 1 << 30)
        self.voters = tuple(self.ids)  # at the beginning; who comes later joins
        self.wipes: dict[str, int] = {}
        self.refusals: dict[tuple[str, str], Why] = {}  # what a node said to a link: (it, the peer)
        self.gone: dict[str, RemovedFromCluster] = {}
        for node in self.ids:
            self.start(node)

    def options(self, node: str) -> RaftOptions:
        return RaftOptions(
            node_id=node,
            peers=self.voters if node in self.voters else (),
            join=node not in self.voters,
            data_dir=Path(node),
            cluster_id=CLUSTER,
            **({"election_timeout_ms": ELECTION_MS, "heartbeat_ms": 20} | self.settings),
        )

    # --- life ---

    def start(self, node: str) -> Member:
        machine = self.machine_type()
        seed = random.Random(f"{node}{self.clock.now_ms}{'w' * self.wipes.get(node, 0)}")
        member = Member(self.options(node), machine, self.disks[node], self.clock, seed)
        member.send_now = lambda: self.collect(node)
        self.members[node], self.machines[node] = member, machine
        self.jobs[node].clear()
        self.run(node)
        for other in self.ids:
            if other != node and other in self.members:
                self.connect(node, other)
        return member

    def join(self, node: str) -> Member:
        """A new node, without a configuration."""
        for other in self.ids:
            self.on_way[node, other], self.on_way[other, node] = deque(), deque()
        self.ids.append(node)
        self.disks[node] = SimDisk(random.Random(len(self.ids)))
        self.jobs[node] = deque()
        return self.start(node)

    def wipe(self, node: str) -> None:
        """A node that is down loses all its files."""
        self.wipes[node] = self.wipes.get(node, 0) + 1
        self.disks[node] = SimDisk(random.Random(f"{node}{self.wipes[node]}"))

    def crash(self, node: str, *, power: bool = False) -> None:
        del self.members[node]
        self.jobs[node].clear()
        if power:
            self.disks[node].lose_power()
        else:
            self.disks[node].kill()
        for other in self.ids:
            if other != node:
                self.disconnect(node, other)

    def connect(self, a: str, b: str) -> None:
        """A new link, unless one side refuses it."""
        for here, there in ((a, b), (b, a)):
            self.on_way[here, there].clear()
            self.refusals.pop((here, there), None)
            try:
                self.members[here].link_up(there, self.members[there].disk_id)
            except LinkRefused as refused:
                self.refusals[here, there] = refused.why
                self.disconnect(a, b)
                return
        for here in (a, b):
            self.run(here)
        for here, there in ((a, b), (b, a)):  # greetings are no test's matter
            while self.waiting(here, there, m.Greeting):
                self.deliver(here, there)

    def connect_all(self) -> None:
        """New links between all that are up, as after a cut of the whole network."""
        for a in self.ids:
            for b in self.ids:
                if a < b and a in self.members and b in self.members:
                    self.connect(a, b)
        self.settle()

    def disconnect(self, a: str, b: str) -> None:
        for here, there in ((a, b), (b, a)):
            self.on_way[here, there].clear()
            if here in self.members:
                self.members[here].link_down(there)
                self.run(here)

    # --- steps, disk, messages ---

    def run(self, node: str) -> None:
        """Steps and jobs until the node has nothing to do at this moment."""
        member = self.members[node]
        for _ in range(1_000):
            if not member.is_blocked:
                try:
                    member.step()
                except RemovedFromCluster as error:
                    self.gone[node] = error
                    self.crash(node)
                    return
                self.jobs[node].extend(member.take_jobs())
            self.collect(node)
            worked = node not in self.hold_disk and self.run_jobs(node)
            if not worked and (member.is_blocked or member.next_step_at() > self.clock.monotonic()):
                return
        raise AssertionError(f"{node} does not come to rest")

    def run_jobs(self, node: str) -> bool:
        """Let the disk do what it was given. True when there was something."""
        member, worked = self.members[node], False
        while self.jobs[node]:
            try:
                self.jobs[node][0].work()
            except DiskFull:
                member.job_waits(self.jobs[node][0])
                break
            job = self.jobs[node].popleft()
            member.job_done(job, self.sync_s.get(node, 0.0))
            worked = True
        self.collect(node)
        return worked

    def collect(self, node: str) -> None:
        for peer, frame in self.members[node].take_frames():
            self.on_way[node, peer].extend(self.wire.decode(frame))

    def deliver(self, a: str, b: str, message: m.Message | None = None) -> None:
        """One message arrives: the next one on its way, or a made-up one."""
        if message is None:
            message = self.on_way[a, b].popleft()
        if b in self.members:
            self.members[b].receive(a, self.wire.encode([message]))
            self.run(b)

    def settle(self) -> None:
        """Deliver until nothing is on its way, except in stopped directions."""
        for _ in range(10_000):
            ways = [way for way, queue in self.on_way.items() if queue and way not in self.stopped]
            if not ways:
                return
            for a, b in ways:
                while self.on_way[a, b]:
                    self.deliver(a, b)
        raise AssertionError("the messages never end")

    def pass_ms(self, ms: float, step_ms: float = 5) -> None:
        """Time goes by; timers fire and messages flow."""
        end = self.clock.now_ms + ms
        while self.clock.now_ms < end:
            self.clock.now_ms = min(end, self.clock.now_ms + step_ms)
            for node in list(self.members):
                if node in self.members:
                    self.run(node)
            self.settle()

    # --- shapes of trouble ---

    def isolate(self, node: str) -> None:
        for other in self.ids:
            if other != node:
                self.stopped |= {(node, other), (other, node)}

    def stop_between(self, *pairs: tuple[str, str]) -> None:
        self.stopped |= set(pairs)

    def heal(self) -> None:
        self.stopped.clear()

    def drop_all(self) -> None:
        for queue in self.on_way.values():
            queue.clear()

    # --- elections and clients ---

    def elect(self, node: str) -> Member:
        """Make this node the leader, by its own timer."""
        self.pass_silently(2 * ELECTION_MS)
        member = self.members[node]
        for _ in range(3):
            member._SyncObj__raftElectionDeadline = 0.0
            self.run(node)
            self.settle()
            if member.is_leader:
                return member
        raise AssertionError(f"{node} was not elected")

    def pass_silently(self, ms: float) -> None:
        """Time goes by and no timer fires: as if all processes had slept."""
        self.clock.now_ms += ms
        for member in self.members.values():
            member._SyncObj__raftElectionDeadline = self.clock.monotonic() + 3_600

    def leaders(self) -> list[str]:
        return [node for node, member in self.members.items() if member.is_leader]

    def propose(self, node: str, body: bytes, timeout_s: float = 60, *, vital: bool = False) -> Answer:
        answer = Answer()
        self.members[node].propose(body, timeout_s, answer.values.append, vital=vital)
        self.run(node)
        return answer

    def change(self, node: str, change: MembershipChange, timeout_s: float = 60) -> Answer:
        answer = Answer()
        self.members[node].change(change, timeout_s, answer.values.append)
        self.run(node)
        return answer

    def changed(self, node: str, change: MembershipChange) -> dict[str, Role]:
        """Make a change, and wait for it: who does what afterwards."""
        answer = self.change(node, change)
        until(lambda: answer.value is not None, lambda: self.pass_ms(5), times=200)
        assert isinstance(answer.value, tuple), answer.value
        return {member.node_id: member.role for member in answer.value}

    def roles(self, node: str) -> dict[str, Role]:
        return {member.node_id: member.role for member in self.members[node].members}

    def read(self, node: str, timeout_s: float = 60) -> Answer:
        answer = Answer()
        self.members[node].read(timeout_s, answer.values.append)
        self.run(node)
        return answer

    def committed(self, node: str, body: bytes) -> Committed:
        answer = self.propose(node, body)
        self.settle()
        return answer.committed

    def waiting(self, a: str, b: str, kind: type) -> list[Any]:
        """The messages of a kind that are on their way."""
        return [message for message in self.on_way[a, b] if isinstance(message, kind)]

    def log(self, node: str) -> list[tuple[int, int]]:
        """(index, term) of what follows the base."""
        return [(index, term) for _, index, term in self.members[node]._log[1:]]


def until(condition: Callable[[], bool], act: Callable[[], None], times: int = 1_000) -> None:
    """Act until a condition holds."""
    for _ in range(times):
        if condition():
            return
        act()
    raise AssertionError("the condition never held")
