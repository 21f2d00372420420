"""What a node consists of. The parts are built by `coterie.node.app`; all else only uses them."""

from __future__ import annotations

from coterie.core.nouns import NodeId
from coterie.core.state import ClusterState
from coterie.node.agents.watch import AgentWatch
from coterie.node.blob_exchange import BlobExchange
from coterie.node.blob_keeper import BlobKeeper
from coterie.node.blobs import BlobStore
from coterie.node.breakers import Breakers
from coterie.node.bundles import Bundles
from coterie.node.clock import Clock
from coterie.node.collecting import Collector
from coterie.node.config import NodeSettings
from coterie.node.coordination.tide import Tide
from coterie.node.coordinator import Coordinator
from coterie.node.direct import DirectRaft
from coterie.node.goals.calls import GoalCalls
from coterie.node.httpd import HttpServer
from coterie.node.hub import Bell, Hub
from coterie.node.latency import LatencyProbe
from coterie.node.ledger import Ledger
from coterie.node.ledger.feed import GapFiller
from coterie.node.links import Links, PeerChannels
from coterie.node.live import LiveSettings
from coterie.node.loads import Lease, LoadBook, SelfGauge
from coterie.node.meters import Meters
from coterie.node.metrics import NodeMetrics
from coterie.node.optimist import Optimist
from coterie.node.outside import Outside
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.roster import Roster
from coterie.node.server import Listener
from coterie.node.skillhost import SkillHost
from coterie.node.tls import TlsMaterial
from coterie.node.worker import Worker
from coterie.raft.engine import RaftEngine
from coterie.raft.replica import Replica


class NodeParts:
    """The parts of one node, each there from when it was built until the process ends."""

    # given
    settings: NodeSettings
    tls: TlsMaterial | None
    host: SkillHost
    me: NodeId
    clock: Clock
    incarnation: int
    leaving: bool
    # the log, the state, and what is kept beside them
    engine: RaftEngine
    replica: Replica
    ledger: Ledger
    blobs: BlobStore
    filler: GapFiller
    reader: Reader
    proposer: Proposer
    # the other nodes
    channels: PeerChannels
    links: Links
    roster: Roster
    direct: DirectRaft
    exchange: BlobExchange
    blob_keeper: BlobKeeper
    collector: Collector
    # the work
    worker: Worker
    coordinator: Coordinator
    optimist: Optimist
    bundles: Bundles
    outside: Outside
    goals: GoalCalls
    meters: Meters
    breakers: Breakers
    lease: Lease
    # what is seen of it
    metrics: NodeMetrics
    live: LiveSettings
    gauge: SelfGauge
    book: LoadBook
    latency: LatencyProbe
    agent_watch: AgentWatch
    bell: Bell
    hub: Hub
    tide: Tide
    listener: Listener
    http: HttpServer | None

    def state(self) -> ClusterState:
        """What the cluster has agreed on, as far as this node has applied it."""
        return self.replica.state

    def takes_clients(self) -> bool:
        """Whether new calls belong here: not while it leaves or drains, nor without a majority."""
        node = self.state().nodes.get(self.me)
        draining = node is not None and node.draining
        return not draining and not self.leaving and self.engine.has_quorum

    def refused(self, reason: str) -> None:
        """The others do not let this node in, and will not."""
        raise NotImplementedError
