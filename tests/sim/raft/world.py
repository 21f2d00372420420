"""Nodes, network and time: the same seed gives the same run."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable

from coterie.raft.errors import DiskFull, FatalRaftError, RemovedFromCluster
from coterie.raft.jobs import Job
from coterie.raft.member import Member
from coterie.raft.snapshot import RECEIVING_NAME
from tests.sim.raft.calls import Calls
from tests.sim.raft.checks import Book, SimMachine, Violation
from tests.sim.raft.disk import Died, SimDisk
from tests.sim.raft.logs import Logs, Seen
from tests.sim.raft.network import Network
from tests.sim.raft.node import ELECTION_MS, ObjectWire, SimNode, options
from tests.sim.raft.timeline import MILLISECOND, SECOND, NodeClock

ALONE_MS_MAX = 2 * ELECTION_MS + 250  # that a leader may lead unheard: one timeout, and a slow disk job
REAL_WIRE_SHARE = 0.25  # of the runs encode and decode every frame


class World(Calls):
    """The members are real. `member_type` may be one with a planted bug."""

    def __init__(self, seed: int, count: int, member_type: type[Member] = Member) -> None:
        super().__init__(seed)
        self.seed = seed
        self.book = Book(lease_us=ELECTION_MS * MILLISECOND)
        self.logs = Logs()
        self.member_type = member_type
        self.trace: Callable[[str], None] | None = None
        self.disk_us = self.rng.choice([300, 2_000, 15_000])
        self.step_us = self.rng.choice([60, 500, 2_000])  # what comes in meanwhile is taken in together
        self.real_wire = self.rng.random() < REAL_WIRE_SHARE
        self.ids = [f"n{number}" for number in range(1, count + 1)]
        self.network = Network(self.ids, self)
        self.network.deliver = self._deliver
        self.steps = 0
        self._dead: list[Member] = []
        self.options = {node_id: options(node_id, self.ids) for node_id in self.ids}
        self.nodes = {node_id: self._new_node(node_id) for node_id in self.ids}
        self._machine_of: Callable[[str], SimMachine] = lambda node_id: SimMachine(node_id, self.book)
        for node_id in self.ids:
            self.start(node_id)

    def _new_node(self, node_id: str) -> SimNode:
        offset, wall = self.rng.randrange(10**9), self.rng.randint(-5_000, 5_000)
        disk = SimDisk(random.Random(self.rng.random()))
        return SimNode(node_id, disk, NodeClock(self, offset, wall), disk_us=self.disk_us)

    def say(self, *what: object) -> None:
        """One line of the trace, for people."""
        if self.trace is not None:
            self.trace(f"{self.now_us / 1_000_000:10.6f} " + " ".join(map(str, what)))

    # --- life and death ---

    def start(self, node_id: str) -> None:
        node = self.nodes[node_id]
        if node.is_up or node.gone:
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
        if not self.real_wire:
            member._wire = ObjectWire()  # type: ignore[assignment]
        node.member = member
        member.send_now = lambda: self._send(node)
        node.paused, node.job_running, node.step_due_us, node.alarms = False, False, None, []
        node.seen = Seen()
        self.say(node_id, f"starts, log {member._log.base.index}..{member._log.last_index} t{member.term}")
        self._kick(node)
        for other in self.ids:
            if other != node_id:
                self._reconnect_later(node_id, other)

    def join(self) -> str:
        """A node with a new id, which waits until it is added. Returns its id."""
        node_id = f"n{len(self.nodes) + 1}"
        self.ids.append(node_id)
        self.network.add(node_id)
        self.options[node_id] = options(node_id, ())
        self.nodes[node_id] = self._new_node(node_id)
        self.start(node_id)
        return node_id

    def wipe(self, node_id: str, *, as_new: bool) -> None:
        """Its disk is replaced by an empty one; it starts again as it was set up first, or as a new node."""
        self.kill(node_id)
        node = self.nodes[node_id]
        node.disk, node.gone = SimDisk(random.Random(self.rng.random())), False
        if as_new:
            self.options[node_id] = options(node_id, ())
        self.start(node_id)

    def leave(self, node: SimNode, error: RemovedFromCluster) -> None:
        """A removed node says so to everybody who waits, and stops for good."""
        self.say(node.node_id, "was removed:", error)
        node.member.fail_all(str(error))
        node.gone = True
        self.kill(node.node_id)

    def new_machine(self, node_id: str) -> SimMachine:
        """What a starting node replicates; simulations of more than the engine put theirs here."""
        return self._machine_of(node_id)

    def replicate(self, machine_of: Callable[[str], SimMachine]) -> None:
        """Before anything has happened: what the nodes replicate, instead of the checksum."""
        self._machine_of = machine_of
        for node in self.nodes.values():
            node.machine = node.member._machine = machine_of(node.node_id)

    def kill(self, node_id: str, *, power: bool = False) -> None:
        """kill -9, or the plug is pulled. A job under way may have got anywhere."""
        node = self.nodes[node_id]
        if node.is_up and node.jobs and self.rng.random() < 0.8:
            node.disk.fuse = self.rng.randint(0, 1 if node.jobs[0].name == "write log" else 8)
            with contextlib.suppress(Died, DiskFull):
                node.jobs[0].work()
        self.say(node_id, "loses power" if power else "is killed")
        if node.member is not None:
            self._dead.append(node.member)
        node.member, node.alarms = None, []
        node.jobs.clear()
        node.backlog.clear()
        node.fuse_at = ""
        node.cutting = 0
        if power:
            node.disk.lose_power()
        else:
            node.disk.kill()
        for call in node.asked:
            call.lost = not call.answers
        node.asked.clear()
        for other in self.ids:
            if other != node_id:
                self.break_link(node_id, other)

    def dismantle(self) -> None:
        """The run is over and its figures are taken. A world is full of cycles; searching for them when there
        are many took a tenth of all time."""
        for member in self._dead + [node.member for node in self.nodes.values() if node.is_up]:
            member.__dict__.clear()
        self.__dict__.clear()

    def run_clock(self, node_id: str, rate: float) -> None:
        """A promise not to vote for a while is shorter on a fast clock: leases must allow for that."""
        self.nodes[node_id].clock.run_at(rate)
        fastest = max(1.0, rate)
        self.book.lease_us = min(self.book.lease_us, int(ELECTION_MS * MILLISECOND / fastest))

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

    # --- driving a member, as the engine does ---

    def _kick(self, node: SimNode, delay_us: int | None = None) -> None:
        if node.member is not None and not node.member.is_blocked:
            self._step_later(node, delay_us)

    def _step_later(self, node: SimNode, delay_us: int | None) -> None:
        now_us, set_for = self.now_us, node.step_due_us
        due = now_us + (5 + int(self.rng.random() * self.step_us) if delay_us is None else delay_us)
        if set_for is not None and now_us <= set_for <= due:
            return
        node.step_due_us = due
        # Most steps are put off before they are due. An alarm that comes too early sets the next one.
        if not node.alarms or node.alarms[-1] > due:
            self._set_alarm(node, due)

    def _set_alarm(self, node: SimNode, at_us: int) -> None:
        alarms = node.alarms
        alarms.append(at_us)
        self.later(at_us - self.now_us, lambda: self._alarm(node, alarms))

    def _alarm(self, node: SimNode, alarms: list[int]) -> None:
        if node.alarms is not alarms:
            return  # of a former process
        alarms.pop()
        due = node.step_due_us
        if due is None:
            return
        if due > self.now_us:
            if not alarms or alarms[-1] > due:
                self._set_alarm(node, due)
        elif due == self.now_us:
            if node.paused:
                self._to(node, lambda: self._step(node) if node.step_due_us == due else None)
            else:
                self._step(node)

    def _step(self, node: SimNode) -> None:
        member = node.member
        node.step_due_us = None
        if member.is_blocked:
            self._arm(node)
            return
        self.steps += 1
        node.count_step(self.now_us)
        try:
            member.step()
        except Died:
            self.kill(node.node_id)
            return
        except RemovedFromCluster as error:
            self.leave(node, error)
            return
        except FatalRaftError as error:
            raise Violation(f"{node.node_id} stopped itself: {error}") from error
        self._hand_out(node)

    def _hand_out(self, node: SimNode) -> None:
        member = node.member
        self.logs.look(node.node_id, member, node.seen)
        if member.is_leader:
            self._look_at_leader(node)
        jobs = member.take_jobs()
        if jobs:
            node.jobs.extend(jobs)
            self._run_job(node)
        self._send(node)
        index = member.ready_to_cut
        if index and node.cutting != index:
            node.cutting = index
            process = member
            self.after(
                1,
                20,
                lambda: self._to(node, lambda: self._cut(node, index)) if node.member is process else None,
            )
        self._arm(node)

    def _arm(self, node: SimNode) -> None:
        wake = node.member.next_step_at()
        if not node.member.is_blocked:
            self._step_later(node, (node.clock.delay_us(wake) or 1) if wake > 0 else None)
        elif wake < math.inf:
            process = node.member
            self.later(
                max(1, node.clock.delay_us(wake)),
                lambda: self._to(node, lambda: self._fire(node)) if node.member is process else None,
            )

    def _fire(self, node: SimNode) -> None:
        """A blocked member answers those whose time is over, and goes on when its write takes long."""
        if node.member.is_blocked:
            node.member.expire()
        self._arm(node)

    def _look_at_leader(self, node: SimNode) -> None:
        member, term = node.member, node.member.term
        if node.seen.term != term:
            node.seen.term = term
            self.say(node.node_id, f"leads term {term}")
            self.book.leads(node.node_id, term, self.now_us, by_transfer=member._by_transfer)
            self.logs.elected(node.node_id, member)
            node.seen.since_s = node.clock.monotonic()
        if node.seen.configuration != member._configuration_index:
            node.seen.configuration = member._configuration_index
            self.logs.look_at_change(node.node_id, member)
        alone_s = node.clock.monotonic() - max(member.quorum_contact_at(), node.seen.since_s)
        # Blocked: the step did not get as far as to look who has answered.
        if alone_s * SECOND > ALONE_MS_MAX * MILLISECOND and not member.is_blocked:
            raise Violation(f"{node.node_id} leads, and no majority has answered for {alone_s:.3f} s")
        if self.book.elections and self.book.elections[-1][0] > term:
            self.book.claims(node.node_id, term, node.clock.world_us(member.quorum_contact_at()))

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
            node.jobs_done["deaths in " + job.name] += 1
            self.kill(node.node_id, power=self.rng.random() < 0.5)
            return
        try:
            job.work()
        except Died:
            node.jobs.clear()
            self.kill(node.node_id, power=self.rng.random() < 0.5)
            return
        except DiskFull:
            self._wait_for_room(node, job)
            return
        except FatalRaftError as error:
            raise Violation(f"{node.node_id}: {job.name} failed: {error}") from error
        if node.spoils and job.name == "store chunk":
            self._spoil(node)
        node.jobs.popleft()
        node.jobs_done[job.name] += 1
        node.job_running = False
        node.member.job_done(job, took_us * node.clock.rate / SECOND)
        self._send(node)
        self._arm(node)
        self._run_job(node)

    def _spoil(self, node: SimNode) -> None:
        """Before it is checked, which is when all of it is there."""
        size = node.disk.size(RECEIVING_NAME) if node.disk.exists(RECEIVING_NAME) else 0
        if size:
            node.spoils = False
            node.jobs_done["transfers spoilt"] += 1
            node.disk.flip_bit(RECEIVING_NAME, self.rng.randrange(size), self.rng.randrange(8))

    def _wait_for_room(self, node: SimNode, job: Job) -> None:
        process = node.member
        process.job_waits(job)
        node.jobs_done["waits for room"] += 1

        def again() -> None:
            if node.member is process:
                node.job_running = False
                self._run_job(node)

        self.later(20 * MILLISECOND, again)

    def leader(self) -> str:
        """Of the highest term, among those that are up; empty: none."""
        best = max(
            ((n.member.term, n.node_id) for n in self.nodes.values() if n.is_up and n.member.is_leader),
            default=(0, ""),
        )
        return best[1]
