"""The Raft engine as the node sees it: coterie.core.ports.Engine on an event loop, one thread for the disk.

All decisions are the member's (member.py); here are only timers, the disk thread, links and futures. The node
owns the connections: it calls `link_up`, `receive` and `link_down`, and drops a link when `receive` raises
BadFrame. Frames of one link must arrive in order; its transport must let `options.frame_bytes_max` pass.

`before_compaction(index)` is awaited when a snapshot of `index` is complete, before it takes the place of the
older one and before the log is cut: so nothing the hook is about can be lost by a crash in between."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from coterie.core import ports
from coterie.core.ports import Committed, Machine, NoQuorum, NotCommitted
from coterie.raft.disk import Disk, RealDisk
from coterie.raft.disk_thread import DiskThread
from coterie.raft.errors import DiskFailed, DiskFull, FatalRaftError, Why
from coterie.raft.jobs import Job
from coterie.raft.member import Member
from coterie.raft.options import RaftOptions
from coterie.raft.past import Past
from coterie.raft.seam import Clock
from coterie.raft.status import EngineStatus
from coterie.raft.storing import WRITE_LOG

logger = logging.getLogger("coterie.raft")
T = TypeVar("T")
Write = Callable[[bytes], None]
HOOK_RETRY_S = 1.0
NO_ROOM_RETRY_S = 0.25


class SystemClock:
    """The operating system's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


def _ignore() -> None:
    """For engines nobody listens to."""


def _unheard(seconds: float) -> None:
    """For engines whose disk nobody watches."""


async def _no_hook(index: int) -> None:
    """For machines all of whose state is in their image."""


class RaftEngine(EngineStatus):
    """One member of a Raft group. Use from one event loop only.

    `on_change` is rung after entries were applied and when the leader, the term or the members changed.
    `on_fatal` is called once, when safety cannot be kept, or when the group has removed this node; from then
    on nothing is sent, and every proposal fails."""

    def __init__(
        self,
        options: RaftOptions,
        machine: Machine,
        *,
        on_fatal: Callable[[FatalRaftError], None],
        on_change: Callable[[], None] = _ignore,
        before_compaction: Callable[[int], Awaitable[None]] = _no_hook,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.options, self.on_change = options, on_change
        self.on_sync: Callable[[float], None] = _unheard  # hears how long each sync of the journal took
        self._machine, self._on_fatal = machine, on_fatal
        self._before_compaction = before_compaction
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random(random.SystemRandom().getrandbits(128))
        self._disk: Disk = disk or RealDisk(options.data_dir)
        self._links: dict[str, Write] = {}
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._compaction: asyncio.Task[None] | None = None

    # --- life ---

    async def start(self) -> None:
        """Read the data directory, restore the machine, and begin to listen and to campaign.

        Raises WrongDataDir, DamagedFile or DiskFailed (all FatalRaftError)."""
        self._loop = asyncio.get_running_loop()
        self._disk.lock()
        try:
            self._member = Member(self.options, self._machine, self._disk, self._clock, self._rng)
        except DiskFull as error:
            self._disk.close()
            raise DiskFailed(f"{error}. The node can start when that is mended") from error
        except BaseException:
            self._disk.close()
            raise
        self._member.send_now = lambda: self._send(self._require_member())
        self._thread: DiskThread[float] = DiskThread(self._loop, "raft-disk")
        self._running = True
        self._kick()

    async def stop(self) -> None:
        """Stop sending, fail what waits, finish what the disk has begun, close the files."""
        member = self._member
        if member is None:
            return
        self._halt("the node is stopping")
        if self._compaction is not None:
            await asyncio.gather(self._compaction, return_exceptions=True)
        await self._loop.run_in_executor(None, self._thread.shutdown)
        self._member = None
        member.close()
        self._disk.close()

    def _halt(self, reason: str) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._compaction is not None:
            self._compaction.cancel()
        self._links.clear()
        if self._member is not None:
            self._member.fail_all(reason)

    def _fail(self, error: Exception) -> None:
        """Safety first: nothing leaves this node any more."""
        if not self._running:
            return
        fatal = error if isinstance(error, FatalRaftError) else FatalRaftError(f"unexpected: {error!r}")
        logger.critical("raft engine stopped", extra={"error": str(fatal)}, exc_info=error)
        self._halt(f"the raft engine has stopped: {fatal}")
        self._on_fatal(fatal)

    # --- links ---

    def link_up(self, peer: str, write: Write, disk_id: str = "") -> None:
        """A connection to `peer` stands, who says that `disk_id` is its disk; `write` queues a frame and must
        not block. It replaces an older connection. Raises LinkRefused (a BadFrame): then drop it, and tell
        the peer `why`, for its `link_refused`."""
        if self._running and self._member is not None:
            self._member.link_up(peer, disk_id)
            self._links[peer] = write
            self._kick()

    def link_down(self, peer: str, write: Write) -> None:
        """The connection is gone. Ignored when another one has replaced it."""
        if self._member is not None and self._links.get(peer) == write:
            del self._links[peer]
            self._member.link_down(peer)
            self._kick()

    def check_link(self, peer: str, disk_id: str) -> None:
        """Raises LinkRefused when a link of `peer` with that disk would be refused."""
        if self._running and self._member is not None:
            self._member.check_link(peer, disk_id)

    def link_refused(self, peer: str, why: Why) -> None:
        """`peer` refuses to talk to this node. When a member says that this node was removed, the engine
        stops with RemovedFromCluster."""
        if self._running and self._member is not None:
            try:
                self._member.link_refused(peer, why)
            except FatalRaftError as error:
                self._fail(error)

    def receive(self, peer: str, frame: bytes) -> None:
        """A frame has arrived. Raises BadFrame: then drop the link, nothing of it was used."""
        if self._running and self._member is not None:
            self._member.receive(peer, frame)
            self._kick()

    @property
    def disk_id(self) -> str:
        """Of this node's data directory, for the peers to know it by; empty while the engine is stopped."""
        return self._member.disk_id if self._member is not None else ""

    # --- the Engine protocol ---

    async def propose(self, entry: bytes, timeout_s: float, *, vital: bool = False) -> Committed:
        """See Engine. Also raises EntryTooLarge, and TooManyProposals or NoSpace (both NotCommitted)."""
        member = self._require_member()
        return await self._await(partial(member.propose, entry, timeout_s, vital=vital))

    async def read_barrier(self, timeout_s: float) -> int:
        member = self._require_member()
        return await self._await(partial(member.read, timeout_s))

    async def transfer_leadership(self, target: str, timeout_s: float) -> str:
        """See Engine; works on any node. Raises TransferFailed."""
        member = self._require_member()
        return await self._await(partial(member.transfer, target, timeout_s))

    @property
    def members(self) -> tuple[ports.Member, ...]:
        return self._member.members if self._member is not None else ()

    async def change_members(
        self, change: ports.MembershipChange, timeout_s: float
    ) -> tuple[ports.Member, ...]:
        """See Engine; works on any node."""
        member = self._require_member()
        return await self._await(partial(member.change, change, timeout_s))

    def request_snapshot(self) -> None:
        """Make a snapshot and cut the log now, whatever their sizes."""
        self._require_member().want_snapshot()
        self._kick()

    def past(self, index: int) -> Past:
        """What leads to the state right after the entry `index`, 0 for the present one. Raises NotKept."""
        return self._require_member().past(index)

    def _require_member(self) -> Member:
        if self._member is None or not self._running:
            raise NoQuorum("the raft engine is not running on this node")
        return self._member

    async def _await(self, start: Callable[[Callable[[T | Exception], None]], Callable[[], None]]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()

        def done(answer: T | Exception) -> None:
            if future.done():
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        give_up = start(done)
        self._kick()
        if self._member is not None and self._member.is_blocked:
            self._arm(self._member.next_step_at())  # its deadline does not wait for the disk
        try:
            return await future
        except asyncio.CancelledError:
            give_up()
            raise

    # --- driving the member ---

    def _kick(self) -> None:
        """Take a step in this turn of the loop, together with whatever else comes in until then."""
        member = self._member
        if self._running and not self._scheduled and member is not None and not member.is_blocked:
            self._scheduled = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        member = self._member
        if member is None or not self._running:
            return
        if member.is_blocked:  # since the step was asked for: the disk is full, or stands still
            self._arm(member.next_step_at())
            return
        try:
            member.step()
            self._hand_out(member)
        except Exception as error:
            self._fail(error)

    def _hand_out(self, member: Member) -> None:
        for job in member.take_jobs():
            self._submit(job)
        self._send(member)
        if member.changed:
            member.changed = False
            self._loop.call_soon(self._ring)  # whoever waits for an entry goes before who looks at the state
        if member.ready_to_cut and (self._compaction is None or self._compaction.done()):
            self._compaction = self._loop.create_task(
                self._compact(member.ready_to_cut), name="raft-compaction"
            )
        self._arm(member.next_step_at())

    def _submit(self, job: Job) -> None:
        if self._running:
            self._thread.submit(partial(self._timed, job.work), partial(self._job_ended, job))

    def _timed(self, work: Callable[[], object]) -> float:
        began = self._clock.monotonic()
        work()
        return self._clock.monotonic() - began

    def _send(self, member: Member) -> None:
        for peer, frame in member.take_frames():
            write = self._links.get(peer)
            if write is None:
                continue
            try:
                write(frame)
            except Exception:
                logger.warning("writing to a link failed", extra={"peer": peer}, exc_info=True)
                self.link_down(peer, write)

    def _ring(self) -> None:
        if not self._running:
            return
        try:
            self.on_change()
        except Exception:
            logger.exception("the listener for changes failed")

    def _job_ended(self, job: Job, ended: float | Exception) -> None:
        member = self._member
        if member is None:
            return
        if isinstance(ended, DiskFull):
            member.job_waits(job, str(ended))
            self._loop.call_later(NO_ROOM_RETRY_S, self._submit, job)
            return
        if isinstance(ended, Exception):
            known = isinstance(ended, FatalRaftError)
            self._fail(ended if known else DiskFailed(f"{job.name} failed: {ended}"))
            return
        member.job_done(job, ended)
        if job.name == WRITE_LOG:
            self.on_sync(ended)
        if self._running:
            self._send(member)
            self._arm(member.next_step_at())

    def _arm(self, due: float) -> None:
        """A step that comes too early is harmless, so an armed timer is only ever moved forward in time by
        firing: pushing an election deadline back costs nothing."""
        if due == math.inf:
            return
        delay = max(due - self._clock.monotonic(), 0.0)
        if delay == 0.0 and self._member is not None and not self._member.is_blocked:
            self._kick()
            return
        at = self._loop.time() + delay
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        member = self._member
        if member is None or not self._running:
            return
        if member.is_blocked:
            member.expire()
        self._arm(member.next_step_at())

    async def _compact(self, index: int) -> None:
        while True:
            try:
                await self._before_compaction(index)
                break
            except Exception:
                logger.exception("the hook before compaction failed; trying again")
                await asyncio.sleep(HOOK_RETRY_S)
        if self._member is not None and self._running:
            self._member.cut_log(index)
            self._kick()


__all__ = ["NoQuorum", "NotCommitted", "RaftEngine", "SystemClock"]
