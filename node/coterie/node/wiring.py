"""The services of a node and what each of them works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coterie.core.commands import RegisterNode
from coterie.core.nouns import Label, SkillRef
from coterie.core.voters import VoterPolicy
from coterie.node import decision_calls
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.agents.calls import AgentCalls
from coterie.node.agents.service import AgentsParts, AgentsService
from coterie.node.backup.making import BackupParts, Backups, Frozen
from coterie.node.breakers_service import BreakersService
from coterie.node.child_calls import ChildCalls
from coterie.node.clock import LogTime
from coterie.node.cluster_service import ClusterParts, ClusterService
from coterie.node.config.secret_files import BOOTSTRAP_FILE
from coterie.node.config_service import ConfigService
from coterie.node.control import Control
from coterie.node.coordination.bus import BusService
from coterie.node.coordination.calls import handlers as coordination_calls
from coterie.node.coordination.desk import Desk
from coterie.node.coordination.keys import KeyValueService
from coterie.node.coordination.locks import LocksService
from coterie.node.coordination.schedules import SchedulesService
from coterie.node.coordinator import ClusterNaming
from coterie.node.dead_letters import DeadLettersService
from coterie.node.debugger.forking import Forks
from coterie.node.debugger.gather import Historian
from coterie.node.debugger.machine import TimeMachine
from coterie.node.debugger.service import DebuggerParts, DebuggerService
from coterie.node.decision_service import ApprovalsService, Decisions, EffectsService
from coterie.node.dialer import DialerParts, RaftDialer
from coterie.node.gateway import BlobsService, GatewayParts, TasksService
from coterie.node.goals.calls import GoalCalls
from coterie.node.goals.service import GoalParts
from coterie.node.introduction import Introducer
from coterie.node.limit_calls import LimitCalls
from coterie.node.limits_service import LimitsService
from coterie.node.members import KeeperParts, MembershipKeeper
from coterie.node.optimist import Optimist
from coterie.node.peer import PeerParts, PeerService
from coterie.node.reads import BARRIER_S
from coterie.node.registry_service import RegistryService
from coterie.node.routes import Router, RouterParts
from coterie.node.rpc import Gate
from coterie.node.security.audit_service import AuditService
from coterie.node.security.authenticator import Authenticator
from coterie.node.security.guard import Guard
from coterie.node.security.service import SecurityService
from coterie.node.security.tickets import Tickets
from coterie.node.server import CLIENT_CALLS_MAX, Coordination, Services, channel_credentials
from coterie.node.skill_calls import Handlers, confirmed
from coterie.node.token_watch import TokenParts, TokenWatcher
from coterie.node.usage_service import UsageService
from coterie.node.version import VERSION
from coterie.node.watch import Watcher
from coterie.node.workflows.growing import GrowCalls
from coterie.node.workflows.service import WorkflowParts, WorkflowsService

if TYPE_CHECKING:
    from coterie.node.parts import NodeParts


def registration(app: NodeParts) -> RegisterNode:
    """What the node tells the cluster about itself at its start."""
    settings = app.settings
    return RegisterNode(
        node_id=app.me,
        address=settings.advertise,
        incarnation=app.incarnation,
        capacity=settings.capacity,
        zone=settings.zone,
        labels=tuple(Label(key, settings.labels[key]) for key in sorted(settings.labels)),
        skills=tuple(SkillRef(name, info.version) for name, info in sorted(app.host.skills.items())),
        version=VERSION,
        memory_bytes=settings.offer.memory_bytes,
        gpus=settings.offer.gpus,
        standby=settings.offer.standby,
        confines=app.host.confines,
    )


def services(app: NodeParts) -> Services:
    """Everything the gRPC listener serves."""
    admission = _admission(app)
    gate, decisions = Gate(CLIENT_CALLS_MAX), Decisions(app.state, app.reader, app.proposer)
    control = Control(
        app.state,
        app.reader,
        app.proposer,
        app.exchange,
        admission,
        app.clock,
        lambda: app.engine.takes_new_work,
    )
    return Services(
        TasksService(_gateway(app, admission), control, gate),
        DeadLettersService(app.state, control, gate),
        LimitsService(app.state, app.reader, app.proposer, app.meters, gate),
        UsageService(app.state, app.reader, app.proposer, app.clock, gate),
        AgentsService(agents_parts(app), gate),
        BreakersService(app.state, app.reader, app.proposer, app.clock, gate),
        ApprovalsService(decisions, gate),
        EffectsService(decisions, gate),
        RegistryService(app.state, app.reader, app.proposer, app.exchange, gate),
        coordination_services(app, admission, gate),
        BlobsService(app.blobs, app.exchange, app.reader, Tickets(app.state), gate),
        WorkflowsService(workflow_parts(app, control), gate),
        DebuggerService(debugger_parts(app, control), gate),
        ClusterService(cluster_parts(app)),
        ConfigService(app.state, app.reader, app.proposer, app.live, gate),
        SecurityService(app.state, app.reader, app.proposer, gate),
        AuditService(app.state, app.reader, app.ledger, gate),
        PeerService(peer_parts(app)),
    )


def _gateway(app: NodeParts, admission: Admission) -> GatewayParts:
    watcher = Watcher(
        app.hub,
        app.reader,
        app.ledger,
        lambda: app.engine.has_quorum,
        lambda: app.state().meta.epoch,
    )
    return GatewayParts(
        state=app.state,
        proposer=app.proposer,
        admission=admission,
        optimist=app.optimist,
        router=Router(
            RouterParts(
                app.me, app.state, app.engine, app.book, app.channels, app.clock, lambda: app.live().routing
            )
        ),
        reader=app.reader,
        watcher=watcher,
        tokens=TokenWatcher(
            TokenParts(app.me, app.state, watcher, app.outside.tokens, app.channels, app.reader, app.exchange)
        ),
        hub=app.hub,
        exchange=app.exchange,
        clock=app.clock,
        metrics=app.metrics,
        local_skills=lambda: app.host.skills,
        ledger_backlog=lambda: app.ledger.backlog,
        takes_new_work=lambda: app.engine.takes_new_work,
    )


def workflow_parts(app: NodeParts, control: Control) -> WorkflowParts:
    """What the Workflows service works on."""
    goals = GoalParts(app.state, app.live, control, app.optimist)
    return WorkflowParts(app.state, control, app.optimist, lambda: frozenset(app.host.skills), goals)


def goal_calls(app: NodeParts) -> GoalCalls:
    """What goals ask for."""
    return GoalCalls(app.live, lambda: app.host.skills, app.reader)


def debugger_parts(app: NodeParts, control: Control) -> DebuggerParts:
    """What the Debugger service works on."""
    historian = Historian(app.state, app.reader, app.ledger, app.exchange.read)
    forks = Forks(control, lambda: app.host.skills)
    return DebuggerParts(historian, forks, TimeMachine(app.engine.past))


def optimist(app: NodeParts) -> Optimist:
    """What proposes assignments together with what makes the tasks."""
    leader, rules = lambda: app.engine.leader, lambda: app.live().routing
    return Optimist(app.me, app.state, app.book, app.clock, leader, rules)


def _admission(app: NodeParts) -> Admission:
    def limits() -> AdmissionLimits:
        settings = app.live()
        return AdmissionLimits(
            payload_inline_max=settings.limits.payload_inline_max,
            blob_bytes_max=settings.limits.blob_max,
            attempt_timeout_ms=settings.default_attempt_timeout_ms,
            retry=settings.retry,
        )

    return Admission(limits(), limits)


def naming(app: NodeParts) -> ClusterNaming:
    """What a new cluster begins with, and what the present one has agreed on."""
    settings = app.live()
    return ClusterNaming(settings.cluster_name, settings.policy, settings.max_running, settings.replicated)


def skill_calls(app: NodeParts) -> Handlers:
    """What running skills may ask for."""
    growing = {
        **ChildCalls(_admission(app), local=lambda: app.host.skills).handlers(),
        **GrowCalls(lambda: app.host.skills).handlers(),
    }
    return {
        **confirmed(growing, lambda: app.engine.read_barrier(BARRIER_S)),
        **decision_calls.HANDLERS,
        **coordination_calls(coordination_desk(app)),
        **app.outside.handlers,
        **LimitCalls(app.meters).handlers(),
        **agent_calls(app).handlers(),
        **app.goals.handlers(),
    }


def agents_parts(app: NodeParts) -> AgentsParts:
    """What the Agents service works on."""
    return AgentsParts(
        app.state,
        app.reader,
        app.proposer,
        app.exchange,
        frozenset(app.settings.llm.providers),
        lambda: app.host.skills,
        app.clock,
        app.live,
        app.goals.known,
    )


def agent_calls(app: NodeParts) -> AgentCalls:
    """What the agent loop asks for."""
    llm = app.settings.llm

    def model(provider: str, name: str) -> str:
        return f"{provider}/{name}".rstrip("/") if provider in llm.providers else llm.default_provider

    return AgentCalls(lambda: app.host.skills, model, {})


def guard(app: NodeParts) -> Guard | None:
    """What looks at every call first; None where nobody is asked who they are."""
    if not app.settings.security.auth:
        return None
    bootstrap = app.settings.data_dir / BOOTSTRAP_FILE
    authenticator = Authenticator(app.state, app.clock.now_ms, app.roster.admits, bootstrap)
    return Guard(authenticator, app.proposer.one, app.engine.read_barrier)


def clients_address(app: NodeParts) -> str:
    """Where callers without certificates are listened to; empty: nowhere."""
    port = app.settings.security.clients_port
    return _bound(app.settings.host, port) if port else ""


def coordination_services(app: NodeParts, admission: Admission, gate: Gate) -> Coordination:
    """Schedules, locks, keys and topics."""
    desk = coordination_desk(app)
    return Coordination(
        SchedulesService(desk, gate, admission, lambda: frozenset(app.host.skills)),
        LocksService(desk, gate),
        KeyValueService(desk, gate),
        BusService(desk, gate),
    )


def coordination_desk(app: NodeParts) -> Desk:
    """What locks, keys, topics and schedules are worked on with."""
    time = LogTime(app.clock, lambda: app.state().meta.clock_ms)
    return Desk(app.state, app.reader, app.proposer, app.tide, app.clock, time)


def cluster_parts(app: NodeParts) -> ClusterParts:
    """What the Cluster service works on."""
    return ClusterParts(
        me=app.me,
        state=app.state,
        engine=app.engine,
        proposer=app.proposer,
        book=app.book,
        channels=app.channels,
        policy=voter_policy(app),
        clock=app.clock,
        suspect_ms=app.settings.health.down_after_ms // 2,
        backups=backups(app),
    )


def backups(app: NodeParts) -> Backups:
    """What backups of the cluster are made with."""

    def frozen() -> Frozen:
        return Frozen(app.engine.applied_index, app.engine.term, app.state().copy())

    return Backups(
        BackupParts(
            app.settings.node_id,
            frozen,
            app.engine.read_barrier,
            app.proposer,
            app.ledger,
            app.exchange,
            app.blobs.has,
            app.clock,
        )
    )


def peer_parts(app: NodeParts) -> PeerParts:
    """What the Peer service works on."""
    return PeerParts(
        cluster=app.channels.cluster,
        roster=app.roster,
        links=app.links,
        check_link=app.engine.check_link,
        introduction=lambda: app.channels.metadata,
        engine=app.engine,
        book=app.book,
        blobs=app.blobs,
        ledger=app.ledger,
        clock=app.clock,
        tokens=app.outside.tokens,
        raft_port=lambda: app.direct.port,
        quorum_fresh_s=app.settings.election_timeout_ms / 1000,
    )


def dialer(app: NodeParts) -> RaftDialer:
    """What keeps the links to the peers up."""
    return RaftDialer(
        DialerParts(
            app.channels,
            app.links,
            app.roster,
            app.bell,
            lambda: app.engine.has_quorum,
            app.engine.link_refused,
            app.refused,
            app.direct,
        )
    )


def membership_keeper(app: NodeParts) -> MembershipKeeper:
    """What carries out, on the leader, who shall belong to the cluster."""
    return MembershipKeeper(
        KeeperParts(app.me, app.engine, app.state, app.proposer, app.book, app.clock, voter_policy(app))
    )


def introducer(app: NodeParts) -> Introducer:
    """What asks the others to take this node in, where it is to join."""
    settings = app.settings
    return Introducer(
        app.me,
        settings.advertise,
        settings.membership.discovery if settings.join else None,
        lambda: any(member.node_id == app.me for member in app.engine.members),
        channel_credentials(app.tls) if app.tls else None,
    )


def voter_policy(app: NodeParts) -> VoterPolicy:
    """Who shall vote, by the settings of this node."""
    membership = app.settings.membership
    return VoterPolicy(membership.max_voters, membership.replace_voter_after_ms / 1000)


def listen_address(app: NodeParts) -> str:
    """Where the gRPC listener is bound."""
    return _bound(app.settings.host, app.settings.grpc_port)


def _bound(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
