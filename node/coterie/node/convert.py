"""Between the API's messages and the core's records. Nothing generated goes further in than this file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coterie.core.nouns import (
    NO_DATA,
    Companion,
    Constraints,
    CrashKind,
    Data,
    Event,
    Label,
    Node,
    NodeId,
    NodeStatus,
    RetryPolicy,
    Step,
    Task,
    TaskError,
)
from coterie.core.routing import NodeLoad, SkillLoad
from coterie.core.runs.run import WORKFLOW
from coterie.raft import codec
from coterie.v1 import cluster_pb2, log_pb2, peer_pb2, tasks_pb2

NAME_PREFIX = "tenants/"


def task_name(task: Task) -> str:
    return f"tenants/{task.tenant}/tasks/{task.task_id}"


def data_to_pb(data: Data, message: tasks_pb2.Data) -> None:
    if data.sha256:
        message.blob.sha256 = data.sha256
        message.blob.size_bytes = data.size_bytes
    else:
        message.inline = data.inline
        message.SetInParent()


def data_from_pb(message: tasks_pb2.Data) -> Data:
    if message.HasField("blob") and message.blob.sha256:
        return Data(sha256=message.blob.sha256, size_bytes=message.blob.size_bytes)
    return Data(message.inline) if message.inline else NO_DATA


def constraints_from_pb(message: tasks_pb2.Constraints) -> Constraints:
    return Constraints(
        require_gpu=message.require_gpu,
        labels=labels_from_pb(message.labels),
        zones=tuple(message.zones),
        target_node=message.target_node,
        prefer_zone=message.prefer_zone,
        skill_version=message.skill_version,
        memory_bytes=message.memory_bytes,
        gpus=message.gpus,
        require_coordinator=message.require_coordinator,
        session=message.session,
        max_latency_ms=message.max_latency_ms,
        companions=tuple(_companion_from_pb(companion) for companion in message.companions),
        prefer_node=message.prefer_node,
    )


def _companion_from_pb(message: tasks_pb2.Companion) -> Companion:
    return Companion(
        message.task_id,
        message.type,
        message.label_key,
        message.label_value,
        message.away,
        message.required,
        message.zone,
    )


def _constraints_to_pb(constraints: Constraints, message: tasks_pb2.Constraints) -> None:
    message.require_gpu = constraints.require_gpu
    message.labels.update({label.key: label.value for label in constraints.labels})
    message.zones.extend(constraints.zones)
    message.target_node = constraints.target_node
    message.prefer_zone, message.prefer_node = constraints.prefer_zone, constraints.prefer_node
    message.skill_version = constraints.skill_version
    message.memory_bytes, message.gpus = constraints.memory_bytes, constraints.gpus
    message.require_coordinator = constraints.require_coordinator
    message.session, message.max_latency_ms = constraints.session, constraints.max_latency_ms
    for companion in constraints.companions:
        message.companions.add(
            task_id=companion.task_id,
            type=companion.type,
            label_key=companion.label_key,
            label_value=companion.label_value,
            away=companion.away,
            required=companion.required,
            zone=companion.zone,
        )


def labels_from_pb(labels: Any) -> tuple[Label, ...]:
    """Labels in the order of their keys: the same request gives the same command."""
    return tuple(Label(key, labels[key]) for key in sorted(labels))


def error_to_pb(error: TaskError, message: tasks_pb2.TaskError) -> None:
    message.code, message.message = error.code, error.message
    message.retryable, message.traceback = error.retryable, error.traceback


def task_to_pb(
    task: Task,
    steps: Iterable[Step] = (),
    *,
    with_payload: bool = False,
    deadline_after_ms: int = 0,
) -> tasks_pb2.Task:
    """The public form of a task. The wait reason is the caller's to fill: it depends on the nodes."""
    message = tasks_pb2.Task(
        name=task_name(task),
        task_id=task.task_id,
        type=task.type,
        priority=task.priority,  # type: ignore[arg-type]
        attempt_timeout_ms=task.attempt_timeout_ms,
        deadline_ms=deadline_after_ms
        or (task.deadline_at_ms - task.created_at_ms if task.deadline_at_ms else 0),
        max_attempts=task.retry.attempts_max,
        no_checkpoint=not task.checkpointing,
        state=int(task.state),  # type: ignore[arg-type]
        node=task.node_id,
        attempt=task.attempt,
        failures=task.failures,
        losses=task.losses,
        cancel_requested=task.cancel_requested,
        etag=str(task.version),
        tenant=task.tenant,
        step_count=task.step_count,
        request_id=task.request_id,
        key=task.key,
        agent=task.agent,
        parent_task=task.parent_id,
        retry_of=task.retry_of,
        forked_from=task.forked_from,
        pause_requested=task.pause_requested,
    )
    _fill_optional(task, message)
    if with_payload:
        data_to_pb(task.payload, message.payload)
    for step in steps:
        item = message.steps.add(name=step.key, attempt=step.attempt)
        data_to_pb(step.result, item.result)
        item.completed_at.FromMilliseconds(step.at_ms)
    return message


def _fill_optional(task: Task, message: tasks_pb2.Task) -> None:
    message.create_time.FromMilliseconds(task.created_at_ms)
    if task.started_at_ms:
        message.start_time.FromMilliseconds(task.started_at_ms)
    if task.finished_at_ms:
        message.end_time.FromMilliseconds(task.finished_at_ms)
    if task.percent_x100 or task.progress_message:
        message.progress.percent = task.percent_x100 / 100
        message.progress.message = task.progress_message
    if task.result is not NO_DATA:
        data_to_pb(task.result, message.result)
    if task.checkpoint is not NO_DATA and task.type != WORKFLOW:  # that of a run is the table of its nodes
        data_to_pb(task.checkpoint, message.checkpoint)
    if task.error is not None:
        error_to_pb(task.error, message.error)
    if task.labels:
        message.labels.update({label.key: label.value for label in task.labels})
    if task.constraints != Constraints():
        _constraints_to_pb(task.constraints, message.constraints)
    _retry_to_pb(task.retry, message.retry)
    for crash in task.crashes:
        item = message.crashes.add(node=crash.node_id, node_lost=crash.kind is CrashKind.NODE)
        item.time.FromMilliseconds(crash.at_ms)


def retry_from_pb(task: tasks_pb2.Task, default: RetryPolicy) -> RetryPolicy:
    """What the task says about its retries, and the cluster's default for the rest."""
    given = task.retry
    return RetryPolicy(
        given.max_attempts or task.max_attempts or default.attempts_max,
        given.initial_backoff_ms or default.backoff_initial_ms,
        given.max_backoff_ms or max(default.backoff_max_ms, given.initial_backoff_ms),
        tuple(sorted({*default.non_retryable, *given.non_retryable})),
        given.dead_letter or default.dead_letter,
    )


def _retry_to_pb(retry: RetryPolicy, message: tasks_pb2.RetryPolicy) -> None:
    message.max_attempts = retry.attempts_max
    message.initial_backoff_ms, message.max_backoff_ms = retry.backoff_initial_ms, retry.backoff_max_ms
    message.non_retryable.extend(retry.non_retryable)
    message.dead_letter = retry.dead_letter


def event_record(event: Event) -> bytes:
    """An event as the ledger keeps it."""
    task = event.task
    return log_pb2.LedgerEvent(
        type=event.type,
        node_id=task.node_id,
        attempt=task.attempt,
        sequence=task.sequence,
        at_ms=event.at_ms,
        detail=event.detail,
        percent_x100=task.percent_x100,
        index=event.index,
        task_id=task.task_id,
    ).SerializeToString()


def record_to_event(record: bytes) -> tasks_pb2.TaskEvent:
    kept = log_pb2.LedgerEvent.FromString(record)
    message = tasks_pb2.TaskEvent(
        resume_token=resume_token(kept.task_id, kept.sequence),
        sequence=kept.sequence,
        type=kept.type,
        node=kept.node_id,
        attempt=kept.attempt,
        detail=kept.detail,
        percent=kept.percent_x100 / 100,
    )
    message.time.FromMilliseconds(kept.at_ms)
    return message


def event_to_pb(event: Event) -> tasks_pb2.TaskEvent:
    task = event.task
    message = tasks_pb2.TaskEvent(
        resume_token=resume_token(task.task_id, task.sequence),
        sequence=task.sequence,
        type=event.type,
        node=task.node_id,
        attempt=task.attempt,
        detail=event.detail,
        percent=task.percent_x100 / 100,
    )
    message.time.FromMilliseconds(event.at_ms)
    return message


def end_to_pb(task: Task) -> tasks_pb2.TaskEvent:
    """The last event of a finished task, made from the task itself."""
    detail = task.error.message if task.error is not None else ""
    return event_to_pb(Event(task.state.name.lower(), task, 0, task.finished_at_ms, detail))


def resume_token(task_id: str, sequence: int) -> str:
    """Good on every node: events are numbered by the log, not by the node that sends them."""
    return f"{task_id}.{sequence}"


def finished_record(event: Event) -> bytes:
    """A finished task with its steps as the ledger keeps it."""
    record = log_pb2.LedgerRecord(index=event.index)
    codec.fill_task(record.task, event.task, event.steps)
    return record.SerializeToString()


def read_finished(record: bytes) -> tuple[Task, tuple[Step, ...]]:
    return codec.read_task(log_pb2.LedgerRecord.FromString(record).task)


def load_from_pb(report: peer_pb2.LoadReport, age_ms: int) -> NodeLoad:
    return NodeLoad(
        node_id=NodeId(report.node_id),
        incarnation=report.incarnation,
        age_ms=age_ms,
        running=report.running,
        cpu=report.cpu,
        skills={
            skill.skill: SkillLoad(
                skill.service_ms, skill.samples, skill.idle_ms, skill.running, skill.running_ms
            )
            for skill in report.skills
        },
        rtt_ms={peer.node_id: peer.rtt_ms for peer in report.peers},
    )


def node_to_pb(
    node: Node, held: int, leader: str, report: peer_pb2.LoadReport | None, age_ms: int, suspect_ms: int
) -> cluster_pb2.Node:
    """The public form of a node; `age_ms` is -1 when it has not reported to the present leader."""
    message = cluster_pb2.Node(
        node_id=node.node_id,
        address=node.address,
        state=_node_state(node, held, age_ms, suspect_ms),
        reason=node.reason,
        leader=node.node_id == leader,
        incarnation=node.incarnation,
        capacity=node.capacity,
        running=held,
        zone=node.zone,
        labels={label.key: label.value for label in node.labels},
        skills=[skill.name for skill in node.skills],
        version=node.version,
        report_age_ms=age_ms,
        leaving=node.leaving,
    )
    if report is not None:
        message.cpu, message.rss_bytes = report.cpu, report.rss_bytes
        message.applied_index = report.applied_index
    return message


def _node_state(node: Node, held: int, age_ms: int, suspect_ms: int) -> cluster_pb2.NodeState.ValueType:
    if node.status is NodeStatus.DOWN:
        return cluster_pb2.DOWN
    if node.draining:
        return cluster_pb2.DRAINING if held else cluster_pb2.DRAINED
    return cluster_pb2.SUSPECT if age_ms > suspect_ms else cluster_pb2.ACTIVE
