"""Nouns of the cluster: frozen, comparable, free of behaviour. Times are ms since the epoch; 0 is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NewType, TypeVar

TaskId = NewType("TaskId", str)
NodeId = NewType("NodeId", str)
NO_NODE = NodeId("")
NO_PARENT = TaskId("")
STOPPING = "the node is stopping"  # why a node is DOWN that said so itself: only its next start ends it


class TaskState(IntEnum):
    """Where a task stands. The numbers are those of the public API and of the log."""

    PENDING = 1
    SCHEDULED = 2
    RUNNING = 3
    WAITING = 4
    PAUSED = 5
    SUCCEEDED = 6
    FAILED = 7
    CANCELLED = 8
    TIMED_OUT = 9
    DEAD_LETTERED = 10


class WaitReason(IntEnum):
    """Why a task that does not run does not run."""

    NONE = 0
    QUEUED = 1
    TIMER = 2
    SIGNAL = 3
    APPROVAL = 4
    CHILD = 5
    RATE_LIMIT = 6
    BUDGET = 7
    DEPENDENCY = 8
    CIRCUIT_OPEN = 9
    NO_NODE = 10
    PRIORITY = 11  # work of a higher class, or older, of the same tenant goes first
    FAIRNESS = 12  # tenants that got less of their share go first
    CONCURRENCY = 13  # a limit on how many may run at once is reached
    DELAYED = 14  # its start time lies ahead
    BACKOFF = 15  # the next attempt's time lies ahead
    PAUSE = 16  # somebody paused it
    IN_DOUBT = 18  # nobody knows whether an effect of it happened; an operator decides


PAUSE = "room:"  # how the name begins of a TIMER that is no step of the skill's own


class Priority(IntEnum):
    LOW = 1
    NORMAL = 2
    HIGH = 3
    CRITICAL = 4


class NodeStatus(IntEnum):
    UP = 1
    DOWN = 2


class ExpiryKind(IntEnum):
    """Which clock ran out."""

    DEADLINE = 1  # of the whole task
    ATTEMPT = 2  # of one attempt, when its node did not say so itself
    WAIT = 3  # of a suspended task's wait: it goes on without what it waited for


class CrashKind(IntEnum):
    """How an attempt ended without its skill saying a word."""

    SKILL = 1  # the skill's process died
    NODE = 2  # the node died, or was given up


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a payload, checkpoint or result: inline, or a reference to a blob beside the log."""

    inline: bytes = b""
    sha256: str = ""  # lower-case hex of a blob; empty: the bytes are inline
    size_bytes: int = 0  # of the blob


NO_DATA = Data()


@dataclass(frozen=True, slots=True)
class Label:
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Companion:
    """Other tasks that a task wants to be near to, or away from. What is left empty matches every task."""

    task_id: str = ""
    type: str = ""
    label_key: str = ""
    label_value: str = ""  # empty: any value of that key
    away: bool = False  # keep away instead of near
    required: bool = False  # a condition instead of a wish
    zone: bool = False  # near is the whole zone, not only the node


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a node must offer, all of it, and what the task would like."""

    require_gpu: bool = False
    labels: tuple[Label, ...] = ()
    zones: tuple[str, ...] = ()
    target_node: str = ""
    prefer_zone: str = ""  # soft
    skill_version: str = ""  # this revision of the skill; empty: any
    memory_bytes: int = 0  # set aside on the node while the task is there
    gpus: int = 0  # set aside likewise
    require_coordinator: bool = False  # only on the node that leads
    session: str = ""  # soft: where the last task of this session ran
    max_latency_ms: int = 0  # between the node that took the task and the one that runs it
    origin: str = ""  # the node that took the task
    companions: tuple[Companion, ...] = ()
    prefer_node: str = ""  # soft: where a dry run would have placed it


NO_CONSTRAINTS = Constraints()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Attempts that failed by themselves; attempts lost with their node are not counted."""

    attempts_max: int = 3
    backoff_initial_ms: int = 200
    backoff_max_ms: int = 300_000
    non_retryable: tuple[str, ...] = ()  # error codes that end the task at once
    dead_letter: bool = False  # a task out of attempts ends as DEAD_LETTERED, not as FAILED


@dataclass(frozen=True, slots=True)
class TaskError:
    code: str
    message: str
    retryable: bool = True
    traceback: str = ""


ANYTHING = "*"  # in Step.beside: nobody knows what else was asked for


@dataclass(frozen=True, slots=True)
class Step:
    """A completed step of a task: never run again."""

    key: str
    attempt: int  # the attempt that completed it
    result: Data
    at_ms: int
    beside: tuple[str, ...] = ()  # steps that attempt had asked for since its record before, without a result


@dataclass(frozen=True, slots=True)
class Signal:
    """Something a task was told from outside, or that a wait of it ran out. Its number is its place among the
    signals of its name, from 1: the n-th wait for a name gets the n-th signal, also when it is replayed."""

    name: str
    payload: Data
    at_ms: int
    signal_id: str = ""  # of the caller's choice; a repeated one is the same signal
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """What a suspended task waits for."""

    reason: WaitReason  # SIGNAL, APPROVAL, TIMER or CHILD
    name: str = ""  # of the signal; for CHILD: of the group, or empty for all
    seen: int = 0  # signals of that name it has had; for CHILD: children it does not wait for
    until_ms: int = 0  # when it goes on without; 0: never
    stop_after: int = 0  # for a CHILD group: that many failed children end the wait; 0: no number does


@dataclass(frozen=True, slots=True)
class Crash:
    """An attempt that died since the task last got a step further."""

    node_id: NodeId
    incarnation: int
    kind: CrashKind
    at_ms: int


Record = TypeVar("Record")


def evolve(record: Record, **changes: object) -> Record:
    """`dataclasses.replace` for frozen records without slots, ten times as fast: it copies the instance's
    dict instead of calling a constructor of forty arguments. Field names are the caller's to get right."""
    new = object.__new__(type(record))
    _set(new, "__dict__", record.__dict__ | changes)
    return new


_set = object.__setattr__


def make(record: type[Record], **values: object) -> Record:
    """A record without slots that holds only what differs from its defaults, which it reads from its class:
    a queued task takes a third of the memory. Every field without a default must be among `values`."""
    new = object.__new__(record)
    plain = record.__dict__  # a class makes a view of its dict each time it is asked
    for name, value in values.items():
        if name not in plain or value != plain[name]:
            _set(new, name, value)  # an instance has no dict of its own before it is asked for it
    return new


@dataclass(frozen=True)  # no slots: see evolve and make
class Task:
    task_id: TaskId
    order: int  # grows with every submitted task; FIFO and listing follow it
    tenant: str
    type: str  # the skill that runs it
    payload: Data
    priority: int
    retry: RetryPolicy
    created_at_ms: int
    request_id: str = ""
    attempt_timeout_ms: int = 0
    deadline_at_ms: int = 0
    checkpointing: bool = True
    labels: tuple[Label, ...] = ()
    constraints: Constraints = NO_CONSTRAINTS
    start_at_ms: int = 0  # not before: a delayed start or a retry back-off
    state: TaskState = TaskState.PENDING
    node_id: NodeId = NO_NODE  # where it runs or last ran
    incarnation: int = 0  # of that node's process
    attempt: int = 0  # fencing token: grows at every assignment, never reused
    failures: int = 0
    losses: int = 0
    cancel_requested: bool = False
    cancel_reason: str = ""
    percent_x100: int = 0  # 0..10_000, integers only: replicas must not differ by a rounding
    progress_message: str = ""
    checkpoint: Data = NO_DATA
    checkpoint_number: int = 0
    result: Data = NO_DATA
    error: TaskError | None = None
    assigned_at_ms: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    version: int = 0  # grows with every change: the etag
    sequence: int = 0  # of its latest event
    step_count: int = 0
    bytes_held: int = 0  # inline bytes it and its steps keep in memory
    key: str = ""  # what concurrency and rate limits per key count by: a customer, a session, a repository
    agent: str = ""  # on whose behalf it runs, for limits per agent
    parent_id: TaskId = NO_PARENT  # its cancellation and its deadline bind this task too
    retry_of: TaskId = NO_PARENT  # the ended task that this one is a new run of
    not_before_ms: int = 0  # the start time asked for; the task ages from here
    pause_requested: bool = False
    pause_reason: str = ""
    wait: Wait | None = None  # while WAITING, and while PAUSED out of a wait
    signals: tuple[Signal, ...] = ()
    crashes: tuple[Crash, ...] = ()
    move_attempt: int = 0  # the attempt that is asked to go elsewhere
    moved_at_ms: int = 0  # when it was asked
    checkpointed: int = 0  # how many of its steps came before the checkpoint; 0: not known
    forked_from: str = ""  # `TASK@point`: whose journal, up to that point, it began with


ALIKE = ("tenant", "type", "retry", "agent", "labels", "constraints")  # in most tasks


def share(task: Task, pool: dict[object, object]) -> Task:
    """The task, whose fields that many tasks have alike are the very same objects. Only for one that nobody
    else has seen yet."""
    for name in ALIKE:
        value = getattr(task, name)
        alike = pool.setdefault(value, value)
        if alike is not value:
            _set(task, name, alike)
    return task


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task the cluster has given up, kept whole for inspection and replay."""

    task: Task
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class SkillRef:
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Node:
    node_id: NodeId
    address: str
    incarnation: int  # grows at every process start: a restarted node is never taken for its earlier self
    capacity: int  # skill slots
    zone: str = ""
    labels: tuple[Label, ...] = ()
    skills: tuple[SkillRef, ...] = ()
    version: str = ""
    status: NodeStatus = NodeStatus.UP
    draining: bool = False
    drain_deadline_at_ms: int = 0
    reason: str = ""
    changed_at_ms: int = 0
    drain_number: int = 0  # how often draining was begun, changed or ended
    leaving: bool = False  # to be removed when it is empty
    memory_bytes: int = 0  # that tasks may set aside; 0: not counted
    gpus: int = 0
    standby: bool = False  # takes work only in the place of a node that is gone
    turn: int = 0  # of its last assignment in the rotation of round-robin
    flaps: int = 0  # how often it was lost lately: see flaps.py
    flapped_at_ms: int = 0  # the last time
    confines: bool = False  # runs skills that were published: it has a sandbox for them


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the last task of a session was placed."""

    session: str
    node_id: NodeId
    at_ms: int


@dataclass(frozen=True, slots=True)
class Request:
    """A mutation already answered: the same id with the same body gets the same answer."""

    key: str
    task_id: TaskId
    digest: bytes
    at_ms: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits that decide outcomes and therefore must be equal on every replica."""

    pending_tasks_max: int = 10_000
    live_bytes_max: int = 256 * 1024 * 1024
    finished_tasks_kept_max: int = 2_048
    finished_bytes_kept_max: int = 32 * 1024 * 1024
    requests_kept_max: int = 200_000
    requests_kept_ms: int = 24 * 3_600_000
    steps_per_task_max: int = 10_000
    task_bytes_max: int = 32 * 1024 * 1024
    losses_max: int = 100
    ageing_ms: int = 60_000  # waiting that long is worth one priority class; 0: classes are strict
    tenant_pending_percent: int = 100  # of pending_tasks_max, for tenants without their own; 0: all
    dead_letters_max: int = 1_000  # of one tenant; the oldest leaves for the ledger alone
    dead_letter_bytes_max: int = 64 * 1024 * 1024  # of all
    crash_nodes_max: int = 3  # nodes on which the skill's process died without progress; 0: any number
    node_losses_max: int = 10  # in a row without progress; 0: any number
    signals_per_task_max: int = 1_000
    limits_max: int = 1_000
    breaker_failures: int = 0  # within a minute, and at least half of all, open a breaker; 0: none opens
    breaker_recovery_ms: int = 0  # until an open one lets probes through
    breaker_probes: int = 0  # that must succeed before it closes
    flap_memory_ms: int = 0  # for which a node that was lost has to prove itself longer; 0: never longer
    attempt_ms_min: int = 0  # what an attempt counts for at least in shares; 0: as fairness.ATTEMPT_MS says


@dataclass(frozen=True, slots=True)
class Event:
    """Something durable that happened to a task; its number is `task.sequence`."""

    type: str
    task: Task  # as it is after the event
    index: int  # log index of the entry that caused it
    at_ms: int
    detail: str = ""
    steps: tuple[Step, ...] = field(default=())  # of a finished task, which the state forgets
