"""Nodes, network and time, driven by one heap of events: the same seed gives the same run."""

from __future__ import annotations

import contextlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.core.ports import Committed, NotCommitted
from coterie.raft.errors import DiskFull, FatalRaftError
from coterie.raft.jobs import Job
from coterie.raft.member import Member
from coterie.raft.options import RaftOptions
from tests.sim.raft.checks import Asked, Book, SimMachine, Violation
from tests.sim.raft.clock import NodeClock
from tests.sim.raft.disk import Died, SimDisk
from tests.sim.raft.network import Network

ELECTION_MS = 150
MILLISECOND = 1_000
STEPS_PER_100_MS_MAX = 800


@dataclass(slots=True)
class SimNode:
    """What belongs to one node; `process` is None while it is down."""

    node_id: str
    disk: SimDisk
    clock: NodeClock
    member: Any = None
    machine: SimMachine | None = None
    paused: bool = False
    backlog: list[Callable[[], None]] = field(default_factory=list)  # what happened while it was paused
    jobs: deque[Job] = field(default_factory=deque)
    job_running: bool = False
    step_due_us: int | None = None
    starts: int = 0
    disk_us: int = 0
    fuse_at: str = ""  # die inside the next job of this name
    cutting: int = 0
    step_window: int = 0
    steps_in_window: int = 0
    asked: list[Asked] = field(default_factory=list)

    @property
    def is_up(self) -> bool:
        return self.member is not None


class World:
    """The members are real. `member_type` may be one with a planted bug."""

    def __init__(self, seed: int, count: int, member_type: type[Member] = Member) -> None:
        self.rng = random.Random(seed)
        self.now_us = 0
        self.book = Book(lease_us=ELECTION_MS * MILLISECOND)
        self.member_type = member_type
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self.disk_us = self.rng.choice([300, 2_000, 15_000])
        self.ids = [f"n{number}" for number in range(1, count + 1)]
        self.network = Network(self.ids, self.rng, lambda: self.now_us, self.later)
        self.network.deliver = self._deliver
        self.steps = 0
        self.transferring = False
        self.options = {node_id: self._options(node_id) for node_id in self.ids}
        self.nodes = {node_id: self._new_node(node_id) for node_id in self.ids}
        for node_id in self.ids:
            self.start(node_id)

    def _options(self, node_id: str) -> RaftOptions:
        return RaftOptions(
            node_id=node_id,
            peers=tuple(self.ids),
            data_dir=Path(node_id),
            election_timeout_ms=ELECTION_MS,
            heartbeat_ms=40,
            append_bytes_max=2_000,
            append_entries_max=20,
            window_messages_max=4,
            window_bytes_max=6_000,
            uncommitted_max=60,
            outstanding_max=200,
            apply_max=16,
            snapshot_every_entries=40,
            snapshot_every_bytes=20_000,
            snapshot_keep_entries=8,
            snapshot_slice_bytes=200,
            snapshot_chunk_bytes=128,
            snapshot_window=3,
            disk_low_bytes=5_000,
            disk_reserve_bytes=12_000,
        )

    def _new_node(self, node_id: str) -> SimNode:
        offset, wall = self.rng.randrange(10**9), self.rng.randint(-5_000, 5_000)
        disk = SimDisk(random.Random(self.rng.random()))
        return SimNode(node_id, disk, NodeClock(lambda: self.now_us, offset, wall), disk_us=self.disk_us)

    # --- time ---

    def later(self, delay_us: int, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now_us + max(delay_us, 0), self._number, what))

    def run_until(self, at_us: int, stop: Callable[[], bool] | None = None) -> bool:
        while self._events and self._events[0][0] <= at_us:
            at, _, what = heapq.heappop(self._events)
            self.now_us = at
            what()
            if stop is not None and stop():
                return True
        self.now_us = max(self.now_us, at_us)
        return False

    # --- life and death ---

    def start(self, node_id: str) -> None:
        node = self.nodes[node_id]
        if node.is_up:
            return
        node.starts += 1
        node.machine = self.new_machine(node_id)
        rng = random.Random(self.rng.random())
        try:
            member = self.member_type(self.options[node_id], node.machine, node.disk, node.clock, rng)
        except Died:
            self.kill(node_id)
            return
        except FatalRaftError as error:
            raise Violation(f"{node_id} cannot start: {error}") from error
        node.member = member
        node.paused, node.job_running, node.step_due_us = False, False, None
        self._kick(node)
        for other in self.ids:
            if other != node_id:
                self._reconnect_later(node_id, other)

    def new_machine(self, node_id: str) -> SimMachine:
        """What a starting node replicates; simulations of more than the engine put theirs here."""
        return SimMachine(node_id, self.book)

    def kill(self, node_id: str, *, power: bool = False) -> None:
        """kill -9, or the plug is pulled. A job under way may have got anywhere."""
        node = self.nodes[node_id]
        if node.is_up and node.jobs and self.rng.random() < 0.8:
            node.disk.fuse = self.rng.randint(0, 1 if node.jobs[0].name == "write log" else 8)
            with contextlib.suppress(Died, DiskFull):
                node.jobs[0].work()
        node.member = None
        node.jobs.clear()
        node.backlog.clear()
        node.fuse_at = ""
        node.cutting = 0
        if power:
            node.disk.lose_power()
        else:
            node.disk.kill()
        for asked in node.asked:
            asked.lost = asked.lost or not asked.answers
        node.asked.clear()
        for other in self.ids:
            if other != node_id:
                self.break_link(node_id, other)

    def pause(self, node_id: str) -> None:
        self.nodes[node_id].paused = True

    def resume(self, node_id: str) -> None:
        node = self.nodes[node_id]
        if not node.paused:
            return
        node.paused = False
        backlog, node.backlog = node.backlog, []
        for what in backlog:
            what()
        self._kick(node)

    def _to(self, node: SimNode, what: Callable[[], None]) -> None:
        """Something reaches a node: now, or when it wakes."""
        process = node.member
        if process is None:
            return
        if node.paused:
            node.backlog.append(lambda: what() if node.member is process else None)
        else:
            what()

    # --- links ---

    def break_link(self, a: str, b: str) -> None:
        if not self.network.link(a, b).up:
            return
        self.network.disconnect(a, b)
        for here, there in ((a, b), (b, a)):
            node = self.nodes[here]
            self._to(node, lambda node=node, there=there: self._link_down(node, there))  # type: ignore[misc]
        self._reconnect_later(a, b)

    def _link_down(self, node: SimNode, there: str) -> None:
        node.member.link_down(there)
        self._kick(node)

    def _link_up(self, node: SimNode, there: str) -> None:
        node.member.link_up(there, self.nodes[there].member.disk_id)
        self._kick(node)

    def _reconnect_later(self, a: str, b: str) -> None:
        self.later(self.rng.randint(1, 60) * MILLISECOND, lambda: self._reconnect(a, b))

    def _reconnect(self, a: str, b: str) -> None:
        here, there = self.nodes[a], self.nodes[b]
        if self.network.link(a, b).up or not (here.is_up and there.is_up):
            return
        if here.paused or there.paused or frozenset((a, b)) in self.network.blocked:
            self._reconnect_later(a, b)
            return
        self.network.connect(a, b)
        self._link_up(here, b)
        self._link_up(there, a)

    def block(self, a: str, b: str) -> None:
        self.network.blocked.add(frozenset((a, b)))
        self.break_link(a, b)

    def unblock_all(self) -> None:
        self.network.blocked.clear()

    def _deliver(self, sender: str, receiver: str, frame: bytes) -> None:
        node = self.nodes[receiver]

        def arrive() -> None:
            node.member.receive(sender, frame)
            self._kick(node)

        self._to(node, arrive)

    # --- driving a member, as the engine does ---

    def _kick(self, node: SimNode, delay_us: int | None = None) -> None:
        if node.member is None or node.member.is_blocked:
            return
        due = self.now_us + (self.rng.randint(5, 60) if delay_us is None else max(delay_us, 1))
        if node.step_due_us is not None and node.step_due_us <= due and node.step_due_us >= self.now_us:
            return
        node.step_due_us = due
        process = node.member
        self.later(due - self.now_us, lambda: self._step(node, process, due))

    def _step(self, node: SimNode, process: Any, due: int) -> None:
        member = node.member
        if member is not process or node.step_due_us != due:
            return
        if node.paused:
            node.backlog.append(lambda: self._step(node, process, due))
            return
        node.step_due_us = None
        if member.is_blocked:
            return
        self.steps += 1
        self._count_step(node)
        try:
            member.step()
        except Died:
            self.kill(node.node_id)
            return
        except FatalRaftError as error:
            raise Violation(f"{node.node_id} stopped itself: {error}") from error
        self._hand_out(node)

    def _count_step(self, node: SimNode) -> None:
        """A member that asks for step after step without end would burn a core."""
        window = self.now_us // (100 * MILLISECOND)
        if node.step_window != window:
            node.step_window, node.steps_in_window = window, 0
        node.steps_in_window += 1
        if node.steps_in_window > STEPS_PER_100_MS_MAX:
            raise Violation(f"{node.node_id} spins: {node.steps_in_window} steps in 100 ms")

    def _hand_out(self, node: SimNode) -> None:
        member = node.member
        if member.is_leader:
            self.book.leads(node.node_id, member.term, self.now_us, by_transfer=member._by_transfer)
            age_us = (node.clock.monotonic() - member.quorum_contact_at()) * 1_000_000
            self.book.claims(node.node_id, member.term, self.now_us - age_us)
        node.jobs.extend(member.take_jobs())
        self._run_job(node)
        self._send(node)
        index = member.ready_to_cut
        if index and node.cutting != index:
            node.cutting = index
            process = member
            self.later(
                self.rng.randint(1, 20) * MILLISECOND,
                lambda: self._to(node, lambda: self._cut(node, index)) if node.member is process else None,
            )
        if not member.is_blocked:
            wake = member.next_step_at()
            self._kick(node, max(1, int((wake - node.clock.monotonic()) * 1_000_000)) if wake > 0 else None)

    def _cut(self, node: SimNode, index: int) -> None:
        node.member.cut_log(index)
        self._kick(node)

    def _send(self, node: SimNode) -> None:
        for peer, frame in node.member.take_frames():
            self.network.send(node.node_id, peer, frame)

    def _run_job(self, node: SimNode) -> None:
        if node.job_running or not node.jobs:
            return
        node.job_running = True
        process = node.member
        us = self.rng.randint(50, node.disk_us)
        self.later(
            us, lambda: self._to(node, lambda: self._job(node, us)) if node.member is process else None
        )

    def _job(self, node: SimNode, took_us: int) -> None:
        job = node.jobs[0]
        if node.fuse_at and job.name == node.fuse_at:
            self.kill(node.node_id, power=self.rng.random() < 0.5)
            return
        try:
            job.work()
        except Died:
            node.jobs.clear()
            self.kill(node.node_id, power=self.rng.random() < 0.5)
            return
        except DiskFull:
            node.member.job_waits(job)
            process = node.member
            self.later(20 * MILLISECOND, lambda: self._again(node) if node.member is process else None)
            return
        except FatalRaftError as error:
            raise Violation(f"{node.node_id}: {job.name} failed: {error}") from error
        node.jobs.popleft()
        node.job_running = False
        node.member.job_done(job, took_us / 1_000_000)
        self._send(node)
        self._kick(node)
        self._run_job(node)

    def _again(self, node: SimNode) -> None:
        node.job_running = False
        self._run_job(node)

    # --- clients ---

    def propose(self, node_id: str, body: bytes, timeout_s: float, *, vital: bool = False) -> Asked | None:
        node = self.nodes[node_id]
        if not node.is_up or node.paused:
            return None
        asked = Asked(body, node_id)

        def done(answer: Committed | Exception) -> None:
            self.book.answered(asked, answer)

        try:
            node.member.propose(body, timeout_s, done, vital=vital)
        except NotCommitted:
            return None
        self.book.asked.append(asked)
        node.asked.append(asked)
        self._kick(node)
        return asked

    def read(self, node_id: str, timeout_s: float) -> None:
        node = self.nodes[node_id]
        if not node.is_up or node.paused:
            return
        not_below = self.book.acked_index

        def done(answer: int | Exception) -> None:
            if isinstance(answer, int):
                self.book.read(node_id, not_below, answer)
            else:
                self.book.refused_reads += 1

        node.member.read(timeout_s, done)
        self._kick(node)

    def leader(self) -> str:
        """Of the highest term, among those that are up; empty: none."""
        best = max(
            ((n.member.term, n.node_id) for n in self.nodes.values() if n.is_up and n.member.is_leader),
            default=(0, ""),
        )
        return best[1]
