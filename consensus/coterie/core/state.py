"""The replicated state: what is live, and no more. Only `machine.apply` changes it."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

from coterie.core.access import Token, User
from coterie.core.agentbook import AgentEntry
from coterie.core.agentstats import AgentLoad, AgentRun, AgentTally
from coterie.core.audit import AuditRecord
from coterie.core.bounds64 import CLOCK_MS_MAX
from coterie.core.breakers import Breaker
from coterie.core.config_commands import ConfigRevision
from coterie.core.coordination.look_ups import LookUps
from coterie.core.coordination.nouns import (
    Answer,
    ConsumerGroup,
    KvEntry,
    Lock,
    Schedule,
    Tombstone,
    Topic,
    TopicMessage,
)
from coterie.core.coordination.tables import look_ups_of
from coterie.core.decisions.nouns import Approvals, Doubt, OpenSteps
from coterie.core.families import Family
from coterie.core.image import TaskImage
from coterie.core.indexes import TaskIndexes
from coterie.core.llm.state import LlmState
from coterie.core.meters import Meter
from coterie.core.nouns import (
    Anchor,
    Data,
    DeadLetter,
    Event,
    Node,
    NodeId,
    Policy,
    Request,
    Task,
    TaskId,
    evolve,
)
from coterie.core.outcomes import Outcomes
from coterie.core.quotas import Bucket, Limit, Share, Tenant
from coterie.core.runs.run import Run
from coterie.core.runs.texts import WorkflowText
from coterie.core.skillbook import SkillEntry
from coterie.core.steplog import StepLog

FORMAT = 1  # of the state's meaning; raised together by all nodes when apply changes its mind


K = TypeVar("K")
V = TypeVar("V")
REBUILD_TASKS = 200  # in one portion


@dataclass(frozen=True)  # no slots: see evolve
class Meta:
    """The scalars of the state."""

    cluster_id: str = ""
    cluster_name: str = ""
    policy: Policy = field(default_factory=Policy)
    clock_ms: int = 0  # time of the newest entry; never goes back
    order: int = 0  # of the newest task
    finished_total: int = 0
    steps_total: int = 0
    finished_bytes: int = 0
    format: int = FORMAT
    lead_term: int = 0  # of the newest coordinator
    fair_time: int = 0  # the use, by weight, of the tenant last served: who used less goes first
    dead_letters_dropped: int = 0  # that left the list because it was full
    dead_letter_bytes: int = 0
    fencing_token: int = 0  # the newest, of any lock
    kv_version: int = 0  # of the newest change of any key
    kv_forgotten: int = 0  # up to this version, deleted keys are not known one by one any more
    message_position: int = 0  # of the newest message of any topic
    schedules_version: int = 0  # of the newest change of any schedule
    doubts_total: int = 0  # steps that were in doubt, so far
    breakers_opened: int = 0  # how often any breaker opened
    audit_count: int = 0  # records of the audit log so far
    audit_head: bytes = b""  # the newest hash of their chain
    config_revision: int = 0  # of the configuration that holds; 0: there is none yet
    seal: bytes = field(default=b"", repr=False)  # the secret under which tickets for blobs are made
    epoch: str = ""  # of the restore that this state came from; empty: it was never restored
    released_ms: int = 0  # of what is due, tasks that start before this time, ...
    released_order: int = 0  # ... or at it and before this one, are in the queue; both 0: all of them


@dataclass(slots=True)
class ClusterState:
    """Everything the cluster has agreed on and still needs.

    Finished tasks stay for a while (`policy.finished_tasks_kept_max`); the ledgers have them all.
    Dicts keep insertion order, which is log order, so that eviction is the same everywhere; those that lose
    their oldest often are OrderedDicts, whose first is found at once."""

    meta: Meta = field(default_factory=Meta)
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    steps: dict[TaskId, StepLog] = field(default_factory=dict)
    finished: OrderedDict[TaskId, Task] = field(default_factory=OrderedDict)
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    anchors: OrderedDict[str, Anchor] = field(default_factory=OrderedDict)  # by session, oldest first
    requests: OrderedDict[str, Request] = field(default_factory=OrderedDict)
    dead_letters: OrderedDict[TaskId, DeadLetter] = field(default_factory=OrderedDict)
    limits: dict[str, Limit] = field(default_factory=dict)
    buckets: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)  # the one used last is last
    tenants: dict[str, Tenant] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    families: dict[TaskId, Family] = field(default_factory=dict)
    llm: LlmState = field(default_factory=LlmState)
    schedules: dict[str, Schedule] = field(default_factory=dict)  # these by tenant and name
    locks: dict[str, Lock] = field(default_factory=dict)
    kv: dict[str, KvEntry] = field(default_factory=dict)  # the one changed last is last
    tombstones: OrderedDict[str, Tombstone] = field(default_factory=OrderedDict)
    topics: dict[str, Topic] = field(default_factory=dict)
    messages: OrderedDict[int, TopicMessage] = field(default_factory=OrderedDict)  # by position
    groups: dict[str, ConsumerGroup] = field(default_factory=dict)
    answers: OrderedDict[str, Answer] = field(default_factory=OrderedDict)
    breakers: dict[str, Breaker] = field(default_factory=dict)  # that have been open
    runs: dict[TaskId, Run] = field(default_factory=dict)  # of workflows, by their tasks
    workflows: dict[str, WorkflowText] = field(default_factory=dict)  # by tenant and name
    meters: OrderedDict[str, Meter] = field(default_factory=OrderedDict)  # the one used last is last
    config: dict[int, ConfigRevision] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    agents: dict[str, AgentEntry] = field(default_factory=dict)
    agent_runs: dict[str, AgentRun] = field(default_factory=dict)  # live, and pinned to a revision
    agent_tallies: dict[str, AgentTally] = field(default_factory=dict)  # by agent and revision
    agent_loads: dict[str, AgentLoad] = field(default_factory=dict)
    skillbook: dict[str, SkillEntry] = field(default_factory=dict)  # by the name of the skill
    open_steps: dict[TaskId, OpenSteps] = field(default_factory=dict)
    doubts: OrderedDict[str, Doubt] = field(default_factory=OrderedDict)  # the newest is last
    approvals: dict[TaskId, Approvals] = field(default_factory=dict)
    indexes: TaskIndexes = field(init=False, compare=False)
    outbox: list[Event] = field(default_factory=list, compare=False)  # drained by the shell per entry
    noted: list[AuditRecord] = field(default_factory=list, compare=False)  # likewise
    ended_parents: list[tuple[TaskId, str]] = field(default_factory=list, compare=False)  # see settle
    ended_holders: list[TaskId] = field(default_factory=list, compare=False)  # of locks
    run_news: deque[tuple[TaskId, str, Task | None]] = field(default_factory=deque, compare=False)
    run_index: int = field(default=0, compare=False)  # of the last entry in which something was done for runs
    run_work: int = field(default=0, compare=False)  # done in it, by all its commands: see runs.walk
    coordination: LookUps = field(init=False, compare=False)
    images: list[TaskImage] = field(default_factory=list, compare=False)  # open ones: they hear of changes
    outcomes: Outcomes = field(default_factory=Outcomes, compare=False)  # what this replica saw fail lately

    def __post_init__(self) -> None:
        self.indexes = TaskIndexes(self.limits, self.buckets)
        self.indexes.queue.set_ageing(self.meta.policy.ageing_ms)
        self.coordination = look_ups_of(self)

    def note_run(self, run_id: TaskId, what: str, child: Task | None = None) -> None:
        """Something has happened to a run: it is visited before the entry is done. See runs.follow_up."""
        self.run_news.append((run_id, what, child))

    def task(self, task_id: TaskId) -> Task | None:
        """A live or recently finished task."""
        return self.tasks.get(task_id) or self.finished.get(task_id)

    def is_taken(self, task_id: TaskId) -> bool:
        """No new task may have that id: one is live, ended lately, or lies among the dead letters."""
        return task_id in self.tasks or task_id in self.finished or task_id in self.dead_letters

    def advance(self, to_ms: int) -> None:
        """The clock never goes back."""
        to_ms = min(to_ms, CLOCK_MS_MAX)
        if to_ms > self.meta.clock_ms:
            self.indexes.advance(to_ms, self.tasks)
            at_ms, order = self.indexes.released
            self.meta = evolve(self.meta, clock_ms=to_ms, released_ms=at_ms, released_order=order)

    def rebuild(self) -> None:
        """Derive the look-ups again, after a restore."""
        for _ in self.rebuilding():
            pass

    def rebuilding(self) -> Iterator[None]:
        """`rebuild` in portions, for a state that is not in use yet."""
        indexes = self.indexes = TaskIndexes(self.limits, self.buckets)
        indexes.queue.set_ageing(self.meta.policy.ageing_ms)
        indexes.begin_at(self.meta.clock_ms, self.meta.released_ms, self.meta.released_order)
        for number, task in enumerate(self.tasks.values()):
            indexes.add(indexes.shared(task))
            if number % REBUILD_TASKS == 0:
                yield
        for number, task in enumerate(self.finished.values()):
            self.indexes.by_state[task.state] += 1
            if number % REBUILD_TASKS == 0:
                yield
        for number, key in enumerate(self.requests):
            if key.startswith("\0"):
                indexes.controls[key] = None
            if number % REBUILD_TASKS == 0:
                yield
        indexes.live_bytes += sum(family.bytes_held for family in self.families.values())
        self.llm.rebuild()
        for letter in self.dead_letters.values():
            self.indexes.add_dead_letter(letter.task)
        yield
        self.coordination = look_ups_of(self)

    def image_of_tasks(self) -> TaskImage:
        """The live tasks as they are now, to be read while the state goes on. To be closed."""
        return TaskImage(self.tasks, self.indexes.by_order, self.meta.order, self.images)

    def copy(self) -> ClusterState:
        """An image that stays as it is: records are frozen, only the dicts are copied."""
        image = self.copy_of_the_rest()
        image.tasks = dict(self.tasks)
        return image

    def copy_of_the_rest(self) -> ClusterState:
        """A copy without the live tasks: of these there may be very many."""
        return ClusterState(
            meta=self.meta,
            steps={task_id: log.view() for task_id, log in self.steps.items()},
            finished=_image(self.finished),
            nodes=dict(self.nodes),
            anchors=self.anchors.copy(),
            requests=_image(self.requests),
            dead_letters=self.dead_letters.copy(),
            limits=dict(self.limits),
            buckets=self.buckets.copy(),
            tenants=dict(self.tenants),
            shares=dict(self.shares),
            families={task_id: family.view() for task_id, family in self.families.items()},
            llm=self.llm.copy(),
            schedules=dict(self.schedules),
            locks=dict(self.locks),
            kv=dict(self.kv),
            tombstones=_image(self.tombstones),
            topics=dict(self.topics),
            messages=_image(self.messages),
            groups=dict(self.groups),
            answers=_image(self.answers),
            breakers=dict(self.breakers),
            workflows=dict(self.workflows),
            runs={task_id: run.view() for task_id, run in self.runs.items()},
            meters=self.meters.copy(),
            config=dict(self.config),
            tokens=dict(self.tokens),
            users=dict(self.users),
            skillbook=dict(self.skillbook),
            agents=dict(self.agents),
            agent_runs=dict(self.agent_runs),
            agent_tallies=dict(self.agent_tallies),
            agent_loads=dict(self.agent_loads),
            open_steps=dict(self.open_steps),
            doubts=_image(self.doubts),
            approvals=dict(self.approvals),
        )


def _image(records: OrderedDict[K, V]) -> OrderedDict[K, V]:
    """A copy for reading. OrderedDict.copy takes 0.3 us a record, a pause that is felt at 100,000 of them;
    the dict beneath has the same order as long as nothing is moved within it."""
    return cast("OrderedDict[K, V]", dict(dict.items(records)))


@dataclass(frozen=True, slots=True)
class Moment:
    """When an entry stands: its index in the log and the leader's time."""

    index: int
    at_ms: int


def held(data: Data) -> int:
    """Inline bytes a record keeps in memory."""
    return len(data.inline)
