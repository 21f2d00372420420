"""The worker's loop: compare what the state assigns to this node with what runs, start and stop skills."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from coterie.core.agenda import Action, Cancel, GiveBack, Move, Pause, Start, Stop, agenda
from coterie.core.commands import (
    Command,
    ConfirmCancel,
    MarkNode,
    RegisterNode,
    Rejected,
    ReleaseTask,
)
from coterie.core.nouns import STOPPING, NodeId, NodeStatus, Task, TaskId
from coterie.core.ports import NotCommitted
from coterie.core.routing import SkillLoad
from coterie.core.state import ClusterState
from coterie.node.blob_exchange import BlobExchange
from coterie.node.clock import Clock, LogTime
from coterie.node.config import RebalanceSettings
from coterie.node.hub import Bell, wait_for_bell
from coterie.node.job import Job, JobFactory
from coterie.node.loads import Lease
from coterie.node.metrics import NodeMetrics
from coterie.node.observability import get_logger
from coterie.node.optimist import WithNext, alone
from coterie.node.proposer import Proposer
from coterie.node.saver import Saver
from coterie.node.skill_calls import Handlers
from coterie.node.skillhost import SkillHost

log = get_logger(__name__)

IDLE_S = 0.25
PROPOSE_TIMEOUT_S = 10.0
BARRIER_S = 2.0
REGISTER_PAUSE_S = 0.2
CANCEL_GRACE_MS = 2_000


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What the worker is given."""

    registration: RegisterNode
    state: Callable[[], ClusterState]
    proposer: Proposer
    blobs: BlobExchange
    host: SkillHost
    lease: Lease
    bell: Bell
    clock: Clock
    metrics: NodeMetrics
    barrier: Callable[[float], Awaitable[int]]  # see Engine.read_barrier
    calls: Handlers = field(default_factory=dict)
    rebalance: RebalanceSettings = field(default_factory=RebalanceSettings)
    with_next: WithNext = alone
    default_timeout_ms: Callable[[], int] = lambda: 0


class Worker:
    """Level-triggered: every round looks at the whole state of this node, so nothing is ever missed."""

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._me: NodeId = parts.registration.node_id
        self._incarnation = parts.registration.incarnation
        self._bell = parts.bell.listener()
        self._time = LogTime(parts.clock, lambda: parts.state().meta.clock_ms)
        self._jobs: dict[TaskId, Job] = {}
        self._leaving = False
        self._saver = Saver(parts.host, parts.clock, parts.rebalance.checkpoint_interval_ms)
        self._caught_up_in = 0  # the period of the lease for which the replica is known to be fresh enough
        self._catching_up: asyncio.Task[None] | None = None
        self._confirming: dict[ConfirmCancel | ReleaseTask, asyncio.Task[None]] = {}
        self._factory = JobFactory(
            parts.state,
            parts.proposer,
            parts.blobs,
            parts.host,
            parts.clock,
            parts.metrics,
            parts.calls,
            parts.with_next,
        )
        self._factory.default_timeout_ms = parts.default_timeout_ms

    async def run(self) -> None:
        try:
            while True:
                await wait_for_bell(self._bell, IDLE_S)
                try:
                    await self._round()
                except NotCommitted as error:
                    log.debug("not registered yet", extra={"error": str(error)})
                except Exception:
                    log.exception("the worker failed; it starts again")
                    await asyncio.sleep(IDLE_S)
        finally:
            await self._end_all()

    @property
    def running(self) -> int:
        return len(self._jobs)

    def skill_loads(self) -> dict[str, SkillLoad]:
        """How long each skill takes here, and what of it is running."""
        return self._factory.times.loads()

    async def leave(self) -> None:
        """The node is stopping: end every skill, give back every task, and take no more. One entry says it
        all: a task given back before the node is known to be gone would be assigned to it again."""
        self._leaving = True
        jobs = list(self._jobs.values())
        for job in jobs:
            job.withdraw()
        await asyncio.gather(*(job.done for job in jobs), return_exceptions=True)
        held = self._parts.state().indexes.held_by(self._me)
        commands: list[Command] = [ReleaseTask(task_id, held[task_id], STOPPING) for task_id in sorted(held)]
        commands.append(MarkNode(self._me, self._incarnation, NodeStatus.DOWN, STOPPING))
        await self._parts.proposer.propose(commands, PROPOSE_TIMEOUT_S)

    async def _round(self) -> None:
        state = self._parts.state()
        if not self._registered(state):
            await self._register()
            return
        self._catch_up()
        running = {task_id: job.attempt for task_id, job in self._jobs.items()}
        for action in agenda(state, self._me, self._incarnation, running):
            self._act(action, state)
        self._drain(state)

    def _registered(self, state: ClusterState) -> bool:
        node = state.nodes.get(self._me)
        return node is not None and node.incarnation == self._incarnation

    async def _register(self) -> None:
        outcome = await self._parts.proposer.one(self._parts.registration, PROPOSE_TIMEOUT_S)
        if isinstance(outcome, Rejected):
            log.error("registration refused", extra={"code": outcome.code, "reason": outcome.reason})
            await asyncio.sleep(REGISTER_PAUSE_S)

    def _act(self, action: Action, state: ClusterState) -> None:
        match action:
            case Start(task):
                self._start(task, state)
            case Stop(task_id, _):
                self._jobs[task_id].stop()
            case Cancel(task_id, attempt):
                self._cancel(task_id, attempt)
            case Pause(task_id, attempt):
                self._pause(task_id, attempt)
            case Move(task_id, attempt):
                self._give_back(task_id, attempt, "another node has more room")
            case GiveBack(task_id, attempt):
                self._give_back(task_id, attempt, "its node is draining")

    def _start(self, task: Task, state: ClusterState) -> None:
        if task.task_id in self._jobs or self._leaving or not self.caught_up:
            return  # an earlier attempt is still ending, or we may not run anything now
        if any((given.task_id, given.attempt) == (task.task_id, task.attempt) for given in self._confirming):
            return  # it is being given back: the drain or the pause was called off too late
        job = self._factory.make(task, state.steps.get(task.task_id, ()))
        self._jobs[task.task_id] = job
        job.start(lambda: self._ended(job))

    @property
    def caught_up(self) -> bool:
        """Its lease lasts, and the replica has been fresh since it began."""
        lease = self._parts.lease
        return lease.valid and lease.period == self._caught_up_in

    def _catch_up(self) -> None:
        """While it had no lease, what this node held may have been given away and done elsewhere, and its
        replica may not show it yet. As long as a lease lasts, nobody gives up a node that has it."""
        lease = self._parts.lease
        if lease.valid and lease.period != self._caught_up_in and self._catching_up is None:
            task = asyncio.get_running_loop().create_task(self._pass_barrier(lease.period), name="catch up")
            self._catching_up = task

    async def _pass_barrier(self, period: int) -> None:
        try:
            await self._parts.barrier(BARRIER_S)
            self._caught_up_in = period
        except NotCommitted as error:
            log.debug("not caught up yet", extra={"error": str(error)})
        finally:
            self._catching_up = None
            self._bell.set()

    def _ended(self, job: Job) -> None:
        self._jobs.pop(job.task_id, None)
        self._bell.set()

    def _cancel(self, task_id: TaskId, attempt: int) -> None:
        job = self._jobs.get(task_id)
        if job is not None:
            job.cancel(CANCEL_GRACE_MS)
            return
        self._confirm(ConfirmCancel(task_id, attempt))

    def _pause(self, task_id: TaskId, attempt: int) -> None:
        """A running job leaves at its next completed step (see _drain); one that has not begun, at once."""
        self._give_back(task_id, attempt, "paused")

    def _give_back(self, task_id: TaskId, attempt: int, reason: str) -> None:
        if task_id not in self._jobs:
            self._confirm(ReleaseTask(task_id, attempt, reason))

    def _drain(self, state: ClusterState) -> None:
        """On a draining node a job leaves at its next completed step, or when the deadline has passed; a job
        that is to be paused, or to go elsewhere, leaves at its next step on any node."""
        node = state.nodes.get(self._me)
        drains = node is not None and node.draining
        overdue = node is not None and drains and self._time.now_ms() >= node.drain_deadline_at_ms
        leaving = []
        for task_id, job in self._jobs.items():
            task = state.tasks.get(task_id)
            asked = task is not None and (task.pause_requested or task.move_attempt == job.attempt)
            if overdue or asked or (drains and self._parts.rebalance.migrate_in_progress):
                job.leave(at_once=overdue)
                leaving.append((task_id, job.attempt))
            else:
                job.stay()
        self._saver.look([(task_id, job.attempt) for task_id, job in self._jobs.items()], leaving)

    def _confirm(self, command: ConfirmCancel | ReleaseTask) -> None:
        """Once at a time: this round may come again many times before the log answers."""
        if command not in self._confirming:
            task = asyncio.get_running_loop().create_task(self._propose(command), name="confirm")
            self._confirming[command] = task
            task.add_done_callback(lambda _: self._confirming.pop(command, None))

    async def _propose(self, command: Command) -> None:
        try:
            await self._parts.proposer.one(command, PROPOSE_TIMEOUT_S)
        except NotCommitted:
            self._bell.set()  # the next round sees that it is still to be done

    async def _end_all(self) -> None:
        for job in list(self._jobs.values()):
            job.stop()
        for confirming in self._confirming.values():
            confirming.cancel()
        waiting = [job.done for job in self._jobs.values()] + list(self._confirming.values())
        if self._catching_up is not None:
            self._catching_up.cancel()
            waiting.append(self._catching_up)
        await asyncio.gather(*waiting, return_exceptions=True)
