"""One node, wired together. Nothing is decided here: it builds the parts and runs their loops."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from coterie.core.audit import AuditRecord
from coterie.core.nouns import Event, NodeId
from coterie.node.agents.watch import AgentWatch
from coterie.node.blob_exchange import BlobExchange
from coterie.node.blob_keeper import BlobKeeper
from coterie.node.blobs import BlobOptions, BlobStore
from coterie.node.breakers import Breakers
from coterie.node.bundles import Bundles
from coterie.node.clock import Clock
from coterie.node.collecting import Collector
from coterie.node.config import NodeSettings
from coterie.node.coordination.tide import Tide
from coterie.node.coordinator import Coordinator, CoordinatorParts
from coterie.node.direct import DirectRaft, Me
from coterie.node.failover import FailoverWatch
from coterie.node.httpd import HttpServer
from coterie.node.hub import Bell, Hub
from coterie.node.incarnation import next_incarnation
from coterie.node.latency import LatencyProbe
from coterie.node.ledger import Ledger
from coterie.node.ledger.feed import GapFiller, feed
from coterie.node.links import Links, PeerChannels
from coterie.node.live import LiveSettings
from coterie.node.loads import Lease, LoadBook, SelfGauge
from coterie.node.loops import loops
from coterie.node.members import staying_voters
from coterie.node.meters import Meters
from coterie.node.metrics import NodeMetrics
from coterie.node.observability import get_logger
from coterie.node.outside import Outside
from coterie.node.parts import NodeParts
from coterie.node.proposer import Proposer
from coterie.node.reads import BARRIER_S, Reader
from coterie.node.resync import RAFT_DIR, is_resynced, resync_hint
from coterie.node.roster import Roster
from coterie.node.security.audit_log import rows as audit_rows
from coterie.node.server import Listener, channel_credentials
from coterie.node.skillhost import SkillHost
from coterie.node.skillhost.scratch import skills_scratch
from coterie.node.stopping import NotStopped, end_all, end_loops
from coterie.node.tls import TlsMaterial
from coterie.node.version import VERSION
from coterie.node.vitals import bind_gauges, ready_beside
from coterie.node.wiring import (
    clients_address,
    goal_calls,
    guard,
    listen_address,
    naming,
    optimist,
    registration,
    services,
    skill_calls,
)
from coterie.node.worker import Worker, WorkerParts
from coterie.node.workflows.ahead import Ahead
from coterie.raft.disk import RealDisk
from coterie.raft.engine import RaftEngine
from coterie.raft.errors import DiskFailed, FatalRaftError, RemovedFromCluster
from coterie.raft.options import RaftOptions
from coterie.raft.replica import Replica

log = get_logger(__name__)

STOP_GRACE_S = 1.0
LEAVE_S = 2.0
ELECTIONS_WAITED = 4.0  # election timeouts: an election seldom takes more than two
LOG_KEPT_ENTRIES = 2_000  # behind a snapshot, for followers that lag a little


class NodeFailed(Exception):
    """A node that had started could not go on; the message says why."""


def _wait_for_the_end(error: Exception) -> None:
    """Nothing hurries a node that runs inside another program."""


class NodeRefused(Exception):
    """The cluster does not let this node in, or has removed it; the message says why and what to do."""


class NodeApp(NodeParts):
    """Builds a node from its settings, runs it until a signal or a fatal error."""

    def __init__(
        self, settings: NodeSettings, tls: TlsMaterial | None, host: SkillHost, disk: RealDisk
    ) -> None:
        """`disk` is the directory of the log; whoever holds it has the data directory to himself."""
        self._disk = disk
        self.settings, self.tls, self.host = settings, tls, host
        self.me = NodeId(settings.node_id)
        self.clock = Clock()
        self.metrics = NodeMetrics()
        self.bell, self.hub = Bell(), Hub()
        self.tide, self.ahead = Tide(self.state), Ahead(self.state)
        self.gauge, self.live = SelfGauge(self.clock), LiveSettings(settings, self.state)
        self.incarnation = next_incarnation(settings.data_dir, self.clock.now_ms())
        self.last_resort: Callable[[Exception], None] = _wait_for_the_end
        self.fatal: FatalRaftError | NodeRefused | None = None
        self._stop = asyncio.Event()
        self._noted: list[AuditRecord] = []  # by the entry that is being applied
        self.leaving = False

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises NodeFailed when the engine could not go on, and NodeRefused."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as undo:
            await self._start(undo)
            undo.pop_all()  # from here on _shut_down ends the parts, in its own order
        running = [asyncio.create_task(loop, name="node") for loop in loops(self)]
        log.info("node started", extra={"address": self.settings.advertise, "version": VERSION})
        try:
            await self._until_stopped(running)
        except (NodeRefused, RemovedFromCluster):
            raise
        except Exception as error:  # the same would keep a node from starting: that is another exit code
            log.exception("a part of the node has failed")
            raise NodeFailed(f"{type(error).__name__}: {error}") from error
        finally:
            await self._shut_down(running)
        if isinstance(self.fatal, RemovedFromCluster | NodeRefused):
            raise NodeRefused(str(self.fatal)) from self.fatal
        if self.fatal is not None:
            raise NodeFailed(str(self.fatal)) from self.fatal

    async def _start(self, undo: AsyncExitStack) -> None:
        """Start the parts; `undo` ends those that had started when a later one cannot."""
        undo.push_async_callback(self.host.stop)
        await self.host.start()
        await self._build_storage()
        undo.push_async_callback(self.ledger.close)
        undo.push_async_callback(self.channels.close)
        self._build_engine()
        self._build_loops()
        undo.push_async_callback(self.direct.stop)
        self.listener = Listener(
            services(self), listen_address(self), self.tls, guard(self), clients_address(self)
        )
        undo.push_async_callback(self.listener.stop, 0.0)
        self.outside.prepare()
        undo.push_async_callback(self.outside.close)
        await self.engine.start()
        undo.push_async_callback(self.engine.stop)
        await self.direct.start(self.settings.host, self.settings.raft_port, self.engine.disk_id)
        bind_gauges(self)
        self._start_http()
        undo.callback(self._stop_http)
        await self.listener.start()

    # --- building

    def _build_loops(self) -> None:
        settings, health = self.settings, self.settings.health
        self.book = LoadBook(self.clock, health.down_after_ms)
        self.latency = LatencyProbe(
            self.channels, self.clock, health.interval_ms / 1000, health.timeout_ms / 1000
        )
        self.lease = Lease(self.clock, health.lease_ms, self.host.extend_lease)
        self.proposer = Proposer(self.engine, self.metrics)
        self._build_callers()
        self.filler = GapFiller(self.ledger, self.channels)
        self.reader = self._reader()
        self._build_blobs()
        self.worker = Worker(
            WorkerParts(
                registration(self),
                self.state,
                self.proposer,
                self.exchange,
                self.host,
                self.lease,
                self.bell,
                self.clock,
                self.metrics,
                self.engine.read_barrier,
                skill_calls(self),
                settings.rebalance,
                self.optimist.with_next,
                lambda: self.live().default_attempt_timeout_ms,
            )
        )
        self.coordinator = Coordinator(
            CoordinatorParts(
                self.me,
                self.engine,
                self.state,
                self.proposer,
                self.book,
                self.bell,
                self.clock,
                lambda: self.live().plan_policy,
                lambda: naming(self),
                FailoverWatch(self.clock, self.book.heard_at, self.metrics, health.failover_ms),
            )
        )

    def _build_callers(self) -> None:
        self.optimist = optimist(self)
        self.meters = Meters(self.state, self.proposer, self.clock)
        self.breakers = Breakers(self.state, self.proposer, self.clock)
        self.outside = Outside(self.settings, self.breakers, self.clock)
        self.agent_watch = AgentWatch(self.state, lambda: self.engine.is_leader, self.clock)

    def _build_blobs(self) -> None:
        inline = self.settings.limits.payload_inline_max
        self.exchange = BlobExchange(self.blobs, self.channels, inline, self._staying_voters)
        self.blob_keeper = BlobKeeper(self.exchange, self.blobs, self._staying_voters)
        self.collector = Collector(
            self.blobs,
            self.ledger,
            self.exchange.read,
            self.replica.freeze,
            lambda: self.engine.read_barrier(BARRIER_S),
            lambda: self.state().meta.clock_ms,
            lambda: self.filler.catching_up,
            self.settings.keep,
        )
        scratch = skills_scratch(self.settings.node_id, self.settings.data_dir)
        self.bundles = Bundles(self.state, self.exchange, scratch, self.settings.skill_trust)
        self.host.source = self.bundles
        self.goals = goal_calls(self)

    def _reader(self) -> Reader:
        return Reader(
            self.engine,
            self.state,
            self.ledger,
            self.clock,
            lambda: self.filler.catching_up,
            ELECTIONS_WAITED * self.settings.election_timeout_ms / 1000,
            lambda: self.worker.caught_up,
        )

    async def _build_storage(self) -> None:
        settings = self.settings
        self.ledger = await Ledger.open(
            settings.data_dir / "ledger.db", on_sync_failure=lambda why: self._fatal(DiskFailed(why))
        )
        limits = settings.limits
        self.blobs = await BlobStore.open(
            settings.data_dir / "blobs", BlobOptions(limits.blob_max, limits.blob_quota)
        )
        credentials = channel_credentials(self.tls) if self.tls else None
        self.channels = PeerChannels(
            self.me, settings.peers, credentials, lambda: self.engine.disk_id, settings.cluster_name
        )

    def _build_engine(self) -> None:
        settings = self.settings
        self.replica = Replica(self._applied, self._restored)
        self.replica.on_noted = self._noted.extend
        joins = settings.join or is_resynced(settings.data_dir)
        options = RaftOptions(
            node_id=self.me,
            peers=() if joins else settings.founders,
            join=joins,
            addresses={} if joins else {peer: settings.members[peer] for peer in settings.founders},
            data_dir=settings.data_dir / RAFT_DIR,
            cluster_id=settings.cluster_name,
            election_timeout_ms=settings.election_timeout_ms,
            heartbeat_ms=settings.heartbeat_ms,
            snapshot_every_entries=settings.snapshot_every,
            snapshot_keep_entries=min(settings.snapshot_every, LOG_KEPT_ENTRIES),
            disk_low_bytes=settings.disk.low_water_bytes,
            disk_reserve_bytes=settings.disk.reserve_bytes,
            slow_disk_ms=settings.disk.slow_sync_ms,
        )
        self.engine = RaftEngine(
            options,
            self.replica,
            on_change=self.bell.ring,
            on_fatal=self._fatal,
            before_compaction=self.ledger.flush,
            disk=self._disk,
        )
        self.engine.on_sync = self.metrics.fsynced

        me = Me(self.me, settings.cluster_name, options.frame_bytes_max)
        self.links = Links(self.engine)
        self.roster = Roster(
            self.me,
            settings.advertise,
            settings.peers,
            lambda: self.engine.members,
            lambda: self.engine.disk_id,
        )
        self.direct = DirectRaft(me, self.links, self.roster, self.tls)

    def _staying_voters(self) -> frozenset[str]:
        return staying_voters(self.engine.members, self.state())

    def _applied(self, index: int, events: Sequence[Event]) -> None:
        noted, self._noted[:] = audit_rows(self._noted), []
        feed(self.ledger, index, events, noted)
        self.hub.publish(events)
        self.tide.look()
        self.ahead.look(events)
        self.metrics.applied(events)

    def _restored(self, index: int) -> None:
        self.ledger.note_snapshot(index)
        self.tide.rise()
        self.ahead.look_at_all()
        self.bell.ring()

    def _fatal(self, error: FatalRaftError) -> None:
        log.critical("the node stops: nothing that it writes can be relied on", extra={"error": str(error)})
        self.fatal = error
        self._stop.set()  # first: whatever becomes of the last resort, the node ends
        self.last_resort(error)

    def refused(self, reason: str) -> None:
        """The others do not let this node in, and will not."""
        if self.fatal is None:
            remedy = f"let it fetch everything anew: {resync_hint(self.me)}"
            self.fatal = NodeRefused(f"the cluster refuses node {self.me}: {reason}. Or {remedy}")
            log.critical("the node stops: the cluster refuses it", extra={"reason": reason})
            self._stop.set()
            self.last_resort(self.fatal)

    # --- running

    def _start_http(self) -> None:
        settings = self.settings
        self.http = None
        if settings.http_port is not None:
            self.http = HttpServer(settings.http_host, settings.http_port, self.metrics, ready_beside(self))
            self.http.start()

    async def _until_stopped(self, loops: list[asyncio.Task[None]]) -> None:
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait([stop, *loops], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for loop in loops:
            if loop.done():
                loop.result()  # a loop only ever ends by an error

    # --- stopping

    async def _shut_down(self, loops: list[asyncio.Task[None]]) -> None:
        self.leaving = True
        if self.fatal is None:
            await self._leave()
        grace_s = STOP_GRACE_S if self.fatal is None else 0.0
        try:
            await end_all(
                [
                    ("loops", lambda: end_loops(loops)),
                    ("meters", self.meters.close),
                    ("proposer", self.proposer.close),
                    ("calls outside", self.outside.close),
                    ("listener", lambda: self.listener.stop(grace_s)),
                    ("channels", self.channels.close),
                    ("links", self.direct.stop),
                    ("engine", self.engine.stop),
                    ("ledger", self.ledger.close),
                    ("blobs", self.blobs.close),
                    ("skills", self.host.stop),
                    ("bundles", self.bundles.close),
                    ("http", self._end_http),
                ]
            )
        except NotStopped as error:
            self.last_resort(error)
            raise NodeFailed(str(error)) from error
        log.info("node stopped")

    async def _end_http(self) -> None:
        self._stop_http()

    def _stop_http(self) -> None:
        if self.http is not None:
            self.http.stop()

    async def _leave(self) -> None:
        """Give back what runs here and hand over the leadership, as far as that goes quickly."""
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.worker.leave()
                if self.engine.is_leader and self.channels.peers:
                    await self.engine.transfer_leadership("", LEAVE_S)
        except Exception as error:
            log.info("left without a handover", extra={"error": str(error)})
