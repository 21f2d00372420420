"""Load reports: every node tells the leader how it does, and the leader's answer extends the node's lease."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any

import grpc

from coterie.core.nouns import NodeId
from coterie.core.ports import Engine
from coterie.core.routing import NodeLoad
from coterie.node import convert
from coterie.node.clock import Clock
from coterie.node.links import PeerChannels, outliving
from coterie.node.observability import get_logger
from coterie.v1 import peer_pb2

log = get_logger(__name__)

ACK_TIMEOUT_S = 2.0
INCARNATIONS_KEPT = 3
LOOK_S = 0.1  # between two looks at who leads, while an answer is waited for


@dataclass(slots=True)
class _Seen:
    report: peer_pb2.LoadReport | None
    at: float  # monotonic
    in_a_row: int
    load: NodeLoad | None = None  # of the report, made when it is first wanted: plans come far more often


class LoadBook:
    """What the leader knows of the nodes' loads. Starts anew with every leadership, with a grace for all."""

    def __init__(self, clock: Clock, down_after_ms: int) -> None:
        self._clock, self._down_after_ms = clock, down_after_ms
        self._seen: dict[NodeId, _Seen] = {}
        self._heard: dict[
            NodeId, dict[int, float]
        ] = {}  # incarnation -> monotonic, also of other leaderships
        self.grants: Callable[[NodeId], bool] = lambda node_id: True
        """Whether that node may have a lease from this leader; the coordinator says."""

    def copy_from(self, ack: peer_pb2.ReportAck) -> None:
        """What the leader knows, for a follower's own placements. Followers judge nobody by it."""
        now = self._clock.monotonic()
        for load in ack.loads:  # the leader's own report is among them: its age is that of the answer
            self._hear(load.report, now - load.age_ms / 1000)
        self._seen = {
            NodeId(load.report.node_id): _Seen(load.report, now - load.age_ms / 1000, 0) for load in ack.loads
        }

    def begin(self, known: list[NodeId]) -> None:
        """A leadership begins: every known node counts as heard from now."""
        now = self._clock.monotonic()
        self._seen = {node_id: _Seen(None, now, 0) for node_id in known}

    def note(self, report: peer_pb2.LoadReport) -> None:
        now = self._clock.monotonic()
        self._hear(report, now)
        before = self._seen.get(NodeId(report.node_id))
        fresh = before is not None and (now - before.at) * 1000 <= self._down_after_ms
        in_a_row = before.in_a_row + 1 if before is not None and fresh else 1
        self._seen[NodeId(report.node_id)] = _Seen(report, now, in_a_row)

    def _hear(self, report: peer_pb2.LoadReport, at: float) -> None:
        heard = self._heard.setdefault(NodeId(report.node_id), {})
        heard[report.incarnation] = max(at, heard.get(report.incarnation, at))
        while len(heard) > INCARNATIONS_KEPT:
            del heard[min(heard)]

    def heard_at(self, node_id: NodeId, incarnation: int) -> float:
        """When that process of the node was last heard of, by this leader or by the one before, as far as
        this node knows; monotonic, 0: never."""
        return self._heard.get(node_id, {}).get(incarnation, 0.0)

    def expect(self, node_id: NodeId, incarnation: int) -> None:
        """A node that registered but has not reported yet starts its grace now, also when it was known
        before: the silence of its earlier process says nothing about this one."""
        seen = self._seen.get(node_id)
        if seen is None or (seen.report is not None and seen.report.incarnation < incarnation):
            self._seen[node_id] = _Seen(None, self._clock.monotonic(), 0)

    def retain(self, known: Container[NodeId]) -> None:
        """Nodes that are not known any more are forgotten."""
        self._seen = {node_id: seen for node_id, seen in self._seen.items() if node_id in known}
        self._heard = {node_id: heard for node_id, heard in self._heard.items() if node_id in known}

    def age_ms(self, node_id: NodeId) -> int:
        """Since the last report to this leader; -1: none yet."""
        seen = self._seen.get(node_id)
        if seen is None or seen.report is None:
            return -1
        return int((self._clock.monotonic() - seen.at) * 1000)

    def report(self, node_id: NodeId) -> peer_pb2.LoadReport | None:
        seen = self._seen.get(node_id)
        return seen.report if seen else None

    def reports(self) -> list[tuple[peer_pb2.LoadReport, int]]:
        return [
            (seen.report, self.age_ms(node_id))
            for node_id, seen in self._seen.items()
            if seen.report is not None
        ]

    def loads(self) -> dict[NodeId, NodeLoad]:
        now = self._clock.monotonic()
        return {
            node_id: replace(self._load(node_id, seen), age_ms=int((now - seen.at) * 1000))
            for node_id, seen in self._seen.items()
        }

    def _load(self, node_id: NodeId, seen: _Seen) -> NodeLoad:
        if seen.load is None:
            seen.load = convert.load_from_pb(seen.report or peer_pb2.LoadReport(node_id=node_id), 0)
        return seen.load

    def fresh(self) -> dict[NodeId, int]:
        return {node_id: seen.in_a_row for node_id, seen in self._seen.items()}


class Lease:
    """Until when this node may run skills: counted from sending a report that a live leader answered."""

    def __init__(self, clock: Clock, lease_ms: int, on_extend: Callable[[int], None]) -> None:
        self._clock, self._lease_s, self._on_extend = clock, lease_ms / 1000, on_extend
        self._until = float("-inf")
        self.period = 0
        """Grows with every grant after the lease had run out: meanwhile this node may have been given up."""

    def extend_from(self, sent_at: float) -> None:
        """`sent_at` (monotonic seconds) was answered."""
        until = sent_at + self._lease_s
        if until <= self._until:  # a new leader that nobody has answered yet says minus infinity
            return
        left_ms = int((until - self._clock.monotonic()) * 1000)
        if left_ms > 0:
            if not self.valid:
                self.period += 1
            self._until = until
            self._on_extend(left_ms)

    @property
    def valid(self) -> bool:
        return self._clock.monotonic() < self._until


class Reporter:
    """Sends this node's load to whoever leads, and keeps the lease."""

    def __init__(
        self,
        engine: Engine,
        channels: PeerChannels,
        book: LoadBook,
        lease: Lease,
        make_report: Callable[[], peer_pb2.LoadReport],
        clock: Clock,
        interval_s: float,
    ) -> None:
        self._engine, self._channels, self._book, self._lease = engine, channels, book, lease
        self._make_report, self._clock, self._interval_s = make_report, clock, interval_s

    async def run(self) -> None:
        while True:
            leader = self._engine.leader
            if self._engine.is_leader:
                await self._lead()
            elif leader and leader in self._channels.peers:
                await self._follow(leader)
            else:
                await asyncio.sleep(min(0.05, self._interval_s))

    async def _lead(self) -> None:
        report = self._make_report()
        self._book.note(report)
        if self._book.grants(NodeId(report.node_id)):
            self._lease.extend_from(self._engine.quorum_contact_at())
        await asyncio.sleep(self._interval_s)

    async def _follow(self, leader: str) -> None:
        """Report on one stream for as long as that node leads."""
        call = self._channels.stub(leader, "raft").Report(metadata=self._channels.metadata)
        try:
            while self._engine.leader == leader and not self._engine.is_leader:
                sent = self._clock.monotonic()
                report = self._make_report()
                report.sent_at_us = int(sent * 1_000_000)
                with outliving(leader):
                    ack = await self._ask(call, report, leader)
                if not isinstance(ack, peer_pb2.ReportAck):  # end of the stream
                    return
                if ack.lease and not self._engine.is_leader:
                    self._book.copy_from(ack)
                if ack.lease and ack.sent_at_us == report.sent_at_us:
                    self._lease.extend_from(sent)
                elif not ack.lease:
                    await asyncio.sleep(min(0.05, self._interval_s))
                await asyncio.sleep(max(0.0, self._interval_s - (self._clock.monotonic() - sent)))
        except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as error:
            log.debug("load report not answered", extra={"leader": leader, "error": str(error)[:200]})
            await asyncio.sleep(min(0.1, self._interval_s))
        finally:
            call.cancel()

    async def _ask(self, call: Any, report: peer_pb2.LoadReport, leader: str) -> Any:
        """The answer to a report. Gives up as soon as another node leads: the lease is running, and one that
        hangs must not keep this node from asking its successor."""

        async def ask() -> Any:
            await call.write(report)
            return await call.read()

        asking = asyncio.ensure_future(ask())
        end = self._clock.monotonic() + ACK_TIMEOUT_S
        try:
            while not asking.done() and self._engine.leader == leader and self._clock.monotonic() < end:
                await asyncio.wait([asking], timeout=min(LOOK_S, self._interval_s))
            if not asking.done():
                raise TimeoutError(f"{leader} did not answer")
            return asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


class SelfGauge:
    """CPU share and memory of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at, self._cpu_s, self._share = clock.monotonic(), _cpu_seconds(), 0.0

    def cpu(self) -> float:
        """Share of one core used by the node process since the last call, at most 1, smoothed."""
        now, used = self._clock.monotonic(), _cpu_seconds()
        if now - self._at >= 0.1:
            share = min(1.0, (used - self._cpu_s) / (now - self._at))
            self._share = 0.5 * self._share + 0.5 * share
            self._at, self._cpu_s = now, used
        return self._share

    @staticmethod
    def rss_bytes() -> int:
        try:
            with open("/proc/self/statm", encoding="ascii") as statm:
                return int(statm.read().split()[1]) * resource.getpagesize()
        except OSError:  # no /proc: the peak is the best there is
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
