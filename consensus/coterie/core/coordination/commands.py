"""What may be proposed about locks, keys, topics and schedules."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.coordination.nouns import FireKind, SchedulePlan, TaskTemplate
from coterie.core.nouns import NO_PARENT, Label, TaskId


@dataclass(frozen=True, slots=True)
class AcquireLock:
    """Take a lock, or a place in its queue. Asked again by the same owner it says how things stand."""

    tenant: str
    name: str
    owner: str
    ttl_ms: int
    wait_ms: int = 0  # to stay in the queue; 0: do not queue
    task_id: TaskId = NO_PARENT
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class RenewLock:
    tenant: str
    name: str
    token: int
    ttl_ms: int = 0  # 0: as before


@dataclass(frozen=True, slots=True)
class ReleaseLock:
    """Let go by the token, or leave lock and queue by the owner."""

    tenant: str
    name: str
    token: int = 0
    owner: str = ""


@dataclass(frozen=True, slots=True)
class PutKey:
    tenant: str
    key: str
    value: bytes
    expected_version: int = -1  # the key's version as the caller knows it; 0: it must not exist; -1: any
    ttl_ms: int = 0
    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class DeleteKey:
    tenant: str
    key: str
    expected_version: int = -1
    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class SetTopic:
    """How much of a topic is kept. 0 stands for the default of count and bytes."""

    tenant: str
    name: str
    kept_count: int = 0
    kept_bytes: int = 0
    kept_ms: int = 0


@dataclass(frozen=True, slots=True)
class DeleteTopic:
    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class PublishMessage:
    tenant: str
    topic: str
    body: bytes
    headers: tuple[Label, ...] = ()
    publisher: str = ""
    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class SetGroup:
    """Make a consumer group, or change it. `start`: the position it begins after, for one that is new."""

    tenant: str
    name: str
    pattern: str
    start: int = 0
    ack_wait_ms: int = 30_000
    deliveries_max: int = 0


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class FetchMessages:
    """Give messages of a group to a consumer. The same `fetch_id` gets the same ones."""

    tenant: str
    group: str
    fetch_id: str
    count: int


@dataclass(frozen=True, slots=True)
class AckMessages:
    """Messages are done; or, refused, they are given out again after a while."""

    tenant: str
    group: str
    positions: tuple[int, ...]
    refused: bool = False
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class SeekGroup:
    """Go on after that position, whatever was acknowledged."""

    tenant: str
    group: str
    position: int


@dataclass(frozen=True, slots=True)
class ApplySchedule:
    tenant: str
    schedule_id: str
    plan: SchedulePlan
    template: TaskTemplate
    expected_version: int = -1


@dataclass(frozen=True, slots=True)
class DeleteSchedule:
    tenant: str
    schedule_id: str


@dataclass(frozen=True, slots=True)
class PauseSchedule:
    """Stop firing, or go on. Times that went by meanwhile are not made up for."""

    tenant: str
    schedule_id: str
    paused: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FireSchedule:
    """The leader's word that a nominal time has come. Of two such words the second changes nothing."""

    tenant: str
    schedule_id: str
    number: int  # of the schedule that was looked at
    nominal_ms: int
    kind: FireKind = FireKind.TICK
    missed: int = 0  # times before this one that are given up with it


@dataclass(frozen=True, slots=True)
class RunSchedule:
    """Run it now, outside of its times, or once for each of the given past times."""

    tenant: str
    schedule_id: str
    run_id: str
    nominals: tuple[int, ...] = ()


CoordinationCommand = (
    AcquireLock
    | RenewLock
    | ReleaseLock
    | PutKey
    | DeleteKey
    | SetTopic
    | DeleteTopic
    | PublishMessage
    | SetGroup
    | DeleteGroup
    | FetchMessages
    | AckMessages
    | SeekGroup
    | ApplySchedule
    | DeleteSchedule
    | PauseSchedule
    | FireSchedule
    | RunSchedule
)
