"""Nouns of the cluster: frozen, comparable, free of behaviour. Times are ms since the epoch; 0 is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NewType, TypeVar

TaskId = NewType("TaskId", str)
NodeId = NewType("NodeId", str)
NO_NODE = NodeId("")
ADDED = {"added": True}  # metadata of a field younger than the first logs: hashed only when it is set
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


def later(default: Any) -> Any:
    """A field with ADDED. The default must be protobuf's own: 0, "", False, ()."""
    return field(default=default, metadata=ADDED)


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
    skill_version: str = later("")  # this revision of the skill; empty: any
    memory_bytes: int = later(0)  # set aside on the node while the task is there
    gpus: int = later(0)  # set aside likewise
    require_coordinator: bool = later(False)  # only on the node that leads
    session: str = later("")  # soft: where the last task of this session ran
    max_latency_ms: int = later(0)  # between the node that took the task and the one that runs it
    origin: str = later("")  # the node that took the task
    companions: tuple[Companion, ...] = later(())


NO_CONSTRAINTS = Constraints()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Attempts that failed by themselves; attempts lost with their node are not counted."""

    attempts_max: int = 3
    backoff_initial_ms: int = 200
    backoff_max_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class TaskError:
    code: str
    message: str
    retryable: bool = True
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A completed step of a task: never run again."""

    key: str
    attempt: int  # the attempt that completed it
    result: Data
    at_ms: int


Record = TypeVar("Record")


def evolve(record: Record, **changes: object) -> Record:
    """`dataclasses.replace` for frozen records without slots, ten times as fast: it copies the instance's
    dict instead of calling a constructor of forty arguments. Field names are the caller's to get right."""
    new = object.__new__(type(record))
    new.__dict__.update(record.__dict__)
    new.__dict__.update(changes)
    return new


@dataclass(frozen=True)  # no slots: see evolve
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
    drain_number: int = field(default=0, metadata=ADDED)  # how often draining was begun, changed or ended
    leaving: bool = field(default=False, metadata=ADDED)  # to be removed when it is empty
    memory_bytes: int = later(0)  # that tasks may set aside; 0: not counted
    gpus: int = later(0)
    standby: bool = later(False)  # takes work only in the place of a node that is gone
    turn: int = later(0)  # of its last assignment in the rotation of round-robin


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


@dataclass(frozen=True, slots=True)
class Event:
    """Something durable that happened to a task; its number is `task.sequence`."""

    type: str
    task: Task  # as it is after the event
    index: int  # log index of the entry that caused it
    at_ms: int
    detail: str = ""
    steps: tuple[Step, ...] = field(default=())  # of a finished task, which the state forgets
