"""Nouns of coordination: frozen, comparable, free of behaviour. Times are ms since the epoch; 0 is none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from coterie.core.coordination.bounds import KEPT_BYTES, KEPT_COUNT, KEPT_MS
from coterie.core.nouns import NO_CONSTRAINTS, NO_PARENT, Constraints, Data, Label, RetryPolicy, TaskId

# --- locks


@dataclass(frozen=True, slots=True)
class LockWaiter:
    """Somebody in the queue for a lock."""

    owner: str
    ttl_ms: int  # of the lease it wants
    until_ms: int  # when it leaves the queue, unless it asks again
    task_id: TaskId = NO_PARENT
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that somebody holds. One that nobody holds is no record."""

    tenant: str
    name: str
    owner: str
    token: int  # fencing token: grows with every grant of any lock, never reused
    ttl_ms: int
    expires_at_ms: int
    acquired_at_ms: int
    task_id: TaskId = NO_PARENT  # the task that holds it, if one does: it lets go when it ends
    attempt: int = 0
    waiters: tuple[LockWaiter, ...] = ()


# --- keys and values


@dataclass(frozen=True, slots=True)
class KvEntry:
    tenant: str
    key: str
    value: bytes
    version: int  # grows with every change of any key, never reused: also after a delete
    created_at_ms: int
    changed_at_ms: int
    expires_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A key that is gone, for those who watch."""

    tenant: str
    key: str
    version: int
    at_ms: int
    expired: bool = False


# --- topics


@dataclass(frozen=True, slots=True)
class Topic:
    """A named stream of messages, and how much of it is kept."""

    tenant: str
    name: str
    created_at_ms: int
    kept_count: int = KEPT_COUNT
    kept_bytes: int = KEPT_BYTES
    kept_ms: int = KEPT_MS  # 0: for any time
    sequence: int = 0  # of the newest message
    forgotten: int = 0  # position of the newest message that is not kept any more


@dataclass(frozen=True, slots=True)
class TopicMessage:
    tenant: str
    topic: str
    position: int  # among all messages of the cluster: what subscribers resume by
    sequence: int  # in its topic, without holes
    body: bytes
    at_ms: int
    headers: tuple[Label, ...] = ()
    publisher: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that a group was given and has not acknowledged."""

    position: int
    fetch_id: str
    until_ms: int  # then it is given out again
    count: int = 1  # how often it was given out


@dataclass(frozen=True, slots=True)
class ConsumerGroup:
    """Consumers who share the messages of some topics: each message goes to one of them, until it is
    acknowledged or was given out too often."""

    tenant: str
    name: str
    pattern: str
    cursor: int  # position of the newest message given out
    ack_wait_ms: int = 30_000
    deliveries_max: int = 0  # then it goes to the topic $dead.{name}; 0: any number
    unacked: tuple[Delivery, ...] = ()  # by position
    lost: int = 0  # messages that retention took before they were acknowledged
    dead: int = 0  # messages given up


# --- schedules


class Overlap(IntEnum):
    """What happens when a run is due while an earlier one is not over."""

    SKIP = 1
    QUEUE = 2  # it starts when the earlier one is over
    ALLOW = 3
    CANCEL_PREVIOUS = 4


class Misfire(IntEnum):
    """What becomes of times that went by while nothing could fire: no leader, a full queue, a paused
    clock."""

    SKIP = 1  # nothing: the next one is the next in the future
    FIRE_ONCE = 2  # the newest of them runs, for all
    FIRE_ALL = 3  # each runs


class FireKind(IntEnum):
    TICK = 1  # a nominal time has come
    PASS = 2  # a nominal time is given up
    QUEUED = 3  # a run that waited for an earlier one


@dataclass(frozen=True, slots=True)
class TaskTemplate:
    """What a schedule submits."""

    type: str
    payload: Data
    priority: int
    retry: RetryPolicy
    attempt_timeout_ms: int = 0
    deadline_after_ms: int = 0
    checkpointing: bool = True
    labels: tuple[Label, ...] = ()
    constraints: Constraints = NO_CONSTRAINTS
    key: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """When a schedule fires, and how."""

    cron: str = ""  # five or six fields; or
    interval_ms: int = 0  # counted from `begins_at_ms`
    time_zone: str = "UTC"
    begins_at_ms: int = 0
    ends_at_ms: int = 0
    overlap: Overlap = Overlap.SKIP
    misfire: Misfire = Misfire.FIRE_ONCE
    catch_up_ms: int = 3_600_000  # older times are never made up for


@dataclass(frozen=True, slots=True)
class Schedule:
    tenant: str
    schedule_id: str
    plan: SchedulePlan
    template: TaskTemplate
    number: int  # of this schedule among all that ever were: one made anew under an old id is another one
    version: int  # grows with every change of any schedule
    created_at_ms: int
    last_nominal_ms: int  # of the newest time that fired or was given up; before the first: when it was made
    paused: bool = False
    pause_reason: str = ""
    runs: tuple[TaskId, ...] = ()  # those that were not over when it was last looked
    queued: tuple[int, ...] = ()  # nominal times that wait for a run to end
    fired: int = 0
    skipped: int = 0  # for overlap
    missed: int = 0  # given up as too late
    last_task_id: TaskId = NO_PARENT


# --- all of them


@dataclass(frozen=True, slots=True)
class Answer:
    """A change already made: the same request id with the same body gets the same answer."""

    key: str
    number: int
    digest: bytes
    at_ms: int
