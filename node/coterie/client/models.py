"""What the cluster tells a client, as small frozen dataclasses. Each keeps its message in `.raw`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from coterie.client.tokens import TokenChunk
from coterie.v1 import cluster_pb2, tasks_pb2

TERMINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "DEAD_LETTERED"})
TERMINAL_EVENTS = frozenset({"succeeded", "failed", "cancelled", "timed_out", "dead_lettered"})
TOKEN_EVENT = "token"
GAP_EVENT = "gap"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is: `percent` 0..100 and the skill's own words."""

    percent: float
    message: str


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """Why an attempt failed: `code` such as SKILL_FAILED, SKILL_CRASHED, ATTEMPT_TIMEOUT, NODE_LOST."""

    code: str
    message: str
    retryable: bool
    traceback: str


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A completed step: it is not run again, whatever happens to the node. `raw` holds its result."""

    name: str
    attempt: int
    completed_at: datetime | None
    raw: tasks_pb2.Step


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task as one node saw it. Times are UTC; `attempt` grows at every assignment.

    `failures` counts attempts that failed by themselves, `losses` those that ended with their node.
    `wait_reason` ("" while running) and `wait_detail` say why the task does not run. `retry_of` is the ended
    task that this one is a new run of, `forked_from` (`TASK@point`) the one with whose journal it began;
    `crashed_on` the nodes on which it died since it last got further.
    """

    id: str
    name: str
    type: str
    state: str
    priority: str
    tenant: str
    node: str
    attempt: int
    failures: int
    losses: int
    wait_reason: str
    wait_detail: str
    progress: Progress
    error: TaskFailure | None
    labels: Mapping[str, str]
    steps: tuple[StepInfo, ...]
    step_count: int
    cancel_requested: bool
    request_id: str
    key: str
    agent: str
    parent_task: str
    retry_of: str
    forked_from: str
    pause_requested: bool
    crashed_on: tuple[str, ...]
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    raw: tasks_pb2.Task

    @property
    def done(self) -> bool:
        """True in a terminal state: SUCCEEDED, FAILED, CANCELLED, TIMED_OUT or DEAD_LETTERED."""
        return self.state in TERMINAL_STATES

    @classmethod
    def of(cls, raw: tasks_pb2.Task) -> TaskInfo:
        """The dataclass for a message."""
        return cls(
            id=raw.task_id,
            name=raw.name,
            type=raw.type,
            state=state_name(raw.state),
            priority=_enum_name(tasks_pb2.Priority, raw.priority, "PRIORITY_UNSPECIFIED"),
            tenant=raw.tenant,
            node=raw.node,
            attempt=raw.attempt,
            failures=raw.failures,
            losses=raw.losses,
            wait_reason=_enum_name(tasks_pb2.WaitReason, raw.wait_reason, "WAIT_REASON_UNSPECIFIED"),
            wait_detail=raw.wait_detail,
            progress=Progress(raw.progress.percent, raw.progress.message),
            error=_failure(raw) if raw.HasField("error") else None,
            labels=dict(raw.labels),
            steps=tuple(
                StepInfo(step.name, step.attempt, _time(step, "completed_at"), step) for step in raw.steps
            ),
            step_count=raw.step_count,
            cancel_requested=raw.cancel_requested,
            request_id=raw.request_id,
            key=raw.key,
            agent=raw.agent,
            parent_task=raw.parent_task,
            retry_of=raw.retry_of,
            forked_from=raw.forked_from,
            pause_requested=raw.pause_requested,
            crashed_on=tuple(crash.node for crash in raw.crashes),
            create_time=_time(raw, "create_time"),
            start_time=_time(raw, "start_time"),
            end_time=_time(raw, "end_time"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a task.

    `sequence` counts durable events from 1 without holes (0: a live event, such as a progress report
    or a gap in them). `type` is one of submitted, assigned, started, step, checkpoint, progress,
    released, retry, cancel_requested, gap, or a terminal one: succeeded, failed, cancelled, timed_out,
    dead_lettered. `detail` is the step's name, the error's message, or the progress message.
    Keep `resume_token` to go on after this event later, from any process: `job.watch(resume_token=...)`.
    `task` is the whole task in the first and the last event, else None.
    """

    sequence: int
    type: str
    time: datetime | None
    node: str
    attempt: int
    detail: str
    percent: float
    resume_token: str
    task: TaskInfo | None
    raw: tasks_pb2.TaskEvent
    token: TokenChunk | None = None  # of an event of type "token": some of a model's answer

    @property
    def terminal(self) -> bool:
        """True for the last event of a task."""
        return self.type in TERMINAL_EVENTS

    @classmethod
    def of(cls, raw: tasks_pb2.TaskEvent) -> Event:
        """The dataclass for a message."""
        live = raw.WhichOneof("live")
        gap = live == GAP_EVENT
        return cls(
            sequence=raw.sequence,
            type=live if live in (GAP_EVENT, TOKEN_EVENT) else raw.type,
            time=_time(raw, "time"),
            node=raw.node,
            attempt=raw.attempt,
            detail=raw.gap.reason if gap else raw.detail,
            percent=raw.percent,
            resume_token=raw.resume_token,
            task=TaskInfo.of(raw.task) if raw.HasField("task") else None,
            raw=raw,
            token=TokenChunk.of(raw.token) if live == TOKEN_EVENT else None,
        )


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node of the cluster. `cpu` is its share of one node's cores, 0..1; `report_age_ms` is how old
    its last load report is (-1: it never reported to this leader). `role` is VOTER, RUNNER (which runs work
    and does not vote) or "" when it is no member any more; `leaving`: it is removed once it is empty."""

    id: str
    address: str
    state: str
    reason: str
    leader: bool
    capacity: int
    running: int
    zone: str
    labels: Mapping[str, str]
    skills: tuple[str, ...]
    version: str
    cpu: float
    rss_bytes: int
    report_age_ms: int
    role: str
    leaving: bool
    raw: cluster_pb2.Node

    @classmethod
    def of(cls, raw: cluster_pb2.Node) -> NodeInfo:
        """The dataclass for a message."""
        return cls(
            id=raw.node_id,
            address=raw.address,
            state=_enum_name(cluster_pb2.NodeState, raw.state),
            reason=raw.reason,
            leader=raw.leader,
            capacity=raw.capacity,
            running=raw.running,
            zone=raw.zone,
            labels=dict(raw.labels),
            skills=tuple(raw.skills),
            version=raw.version,
            cpu=raw.cpu,
            rss_bytes=raw.rss_bytes,
            report_age_ms=raw.report_age_ms,
            role=_enum_name(cluster_pb2.MemberRole, raw.role, "MEMBER_ROLE_UNSPECIFIED"),
            leaving=raw.leaving,
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Status:
    """The cluster as the node `served_by` sees it. `leader` is empty while none is known;
    `active_tasks` counts tasks that are not finished; `warnings` are about who votes."""

    cluster_name: str
    cluster_id: str
    leader: str
    term: int
    has_quorum: bool
    active_nodes: int
    total_nodes: int
    active_tasks: int
    tasks_by_state: Mapping[str, int]
    tasks_finished_total: int
    steps_recorded_total: int
    served_by: str
    version: str
    commit_index: int
    applied_index: int
    state_hash: str
    nodes: tuple[NodeInfo, ...]
    voters: int
    warnings: tuple[str, ...]
    raw: cluster_pb2.ClusterStatus

    @classmethod
    def of(cls, raw: cluster_pb2.ClusterStatus) -> Status:
        """The dataclass for a message."""
        return cls(
            cluster_name=raw.cluster_name,
            cluster_id=raw.cluster_id,
            leader=raw.leader,
            term=raw.term,
            has_quorum=raw.has_quorum,
            active_nodes=raw.active_nodes,
            total_nodes=raw.total_nodes,
            active_tasks=raw.active_tasks,
            tasks_by_state=dict(raw.tasks_by_state),
            tasks_finished_total=raw.tasks_finished_total,
            steps_recorded_total=raw.steps_recorded_total,
            served_by=raw.served_by,
            version=raw.version,
            commit_index=raw.commit_index,
            applied_index=raw.applied_index,
            state_hash=raw.state_hash,
            nodes=tuple(NodeInfo.of(node) for node in raw.nodes),
            voters=raw.voters,
            warnings=tuple(raw.warnings),
            raw=raw,
        )


def state_name(state: int) -> str:
    """The name of a task state; a state newer than this client reads UNKNOWN_<number>."""
    return _enum_name(tasks_pb2.TaskState, state)


def terminal(raw: tasks_pb2.Task) -> bool:
    """True when the message shows a terminal state."""
    return state_name(raw.state) in TERMINAL_STATES


def decode_json(data: bytes) -> Any:
    """The Python value of a payload or result: parsed JSON, the bytes themselves when they are not
    JSON, None when there are none."""
    if not data:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data


def _failure(raw: tasks_pb2.Task) -> TaskFailure:
    error = raw.error
    return TaskFailure(error.code, error.message, error.retryable, error.traceback)


def _enum_name(enum: Any, number: int, unset: str = "") -> str:
    try:
        name: str = enum.Name(number)
    except ValueError:
        # A newer node may know values that this client does not; that is no reason to fail.
        return f"UNKNOWN_{number}"
    return "" if unset and name == unset else name


def _time(message: Any, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)
