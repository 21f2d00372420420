"""TaskSpec: what to run, checked and turned into a request. All mistakes are reported at once."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from coterie.client.constraints import Problems, fill_constraints, fill_labels, unknown_key
from coterie.client.rpc_errors import invalid
from coterie.client.units import Duration, duration_ms
from coterie.v1 import tasks_pb2

INLINE_BYTES_MAX = 256 * 1024
"""Payloads above this many bytes travel as blobs; the cluster enforces the same limit."""

_PRIORITIES = {
    "low": tasks_pb2.LOW,
    "normal": tasks_pb2.NORMAL,
    "high": tasks_pb2.HIGH,
    "critical": tasks_pb2.CRITICAL,
}
_INT32_MAX = 2**31 - 1
RETRY_KEYS = ("max_attempts", "initial_backoff", "max_backoff", "non_retryable", "dead_letter")


class TaskOptions(TypedDict, total=False):
    """The optional arguments of `submit_task`; see `TaskSpec` for their meaning."""

    priority: str
    timeout: Duration | None
    deadline: Duration | None
    checkpoint: bool
    request_id: str | None
    task_id: str | None
    max_attempts: int | None
    labels: Mapping[str, str] | None
    constraints: Mapping[str, Any] | None
    start_delay: Duration | None
    key: str
    agent: str
    parent: str
    retry: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task to submit.

    - `type`: the skill that runs it. The only field without a default.
    - `payload`: any JSON value, or bytes that are passed on as they are.
    - `target_node`: run on this node only.
    - `priority`: "low", "normal", "high" or "critical".
    - `timeout`: bounds one attempt ("10m", "500ms", 600 = seconds); None: the skill's own.
    - `deadline`: bounds the whole task from its submission, retries included; None: no bound.
    - `checkpoint`: False makes a resumed task start from zero, its completed steps included.
    - `request_id`: the idempotency key. Minted when left out. Submitting again with the same key and
      the same body returns the same task instead of running it twice.
    - `task_id`: choose the id yourself; None: the cluster chooses.
    - `max_attempts`: None: the cluster's default.
    - `labels`: your own words, usable in list filters.
    - `constraints`: what the node must offer, and what the task would like; all keys are listed in
      `coterie.client.constraints`.
    - `start_delay`: do not start earlier than this after the submission.
    - `key`, `agent`: what limits count by: a customer or a session, and on whose behalf the task runs.
    - `parent`: the id of a live task of the same tenant. Its deadline binds this one too, and when it ends
      without success this one is cancelled.
    - `retry`: a dict of max_attempts, initial_backoff, max_backoff, non_retryable (error codes that end the
      task at once) and dead_letter (True: out of attempts it is kept as a dead letter).
    """

    type: str
    payload: Any = None
    target_node: str | None = None
    priority: str = "normal"
    timeout: Duration | None = None
    deadline: Duration | None = None
    checkpoint: bool = True
    request_id: str | None = None
    task_id: str | None = None
    max_attempts: int | None = None
    labels: Mapping[str, str] | None = None
    constraints: Mapping[str, Any] | None = None
    start_delay: Duration | None = None
    key: str = ""
    agent: str = ""
    parent: str = ""
    retry: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, entry: TaskSpec | Mapping[str, Any]) -> TaskSpec:
        """A spec from a dict with the same keys, in camelCase too; `id` is the task_id, `requireNode` the
        constraint of that name. InvalidRequest for unknown keys and a missing type."""
        if isinstance(entry, TaskSpec):
            return entry
        if not isinstance(entry, Mapping):
            raise invalid([("task", f"a dict or TaskSpec is expected, not {type(entry).__name__}")])
        problems: Problems = []
        known = _known(entry, problems)
        if "type" not in known:
            problems.append(("type", "is missing: name the skill that runs the task"))
        if problems:
            raise invalid(problems)
        return cls(**known)


SPEC_KEYS = tuple(field.name for field in fields(TaskSpec))
"""The keys of a task given as a dict."""


_SPELLINGS = {key.replace("_", ""): key for key in SPEC_KEYS} | {"id": "task_id"}


def _known(entry: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """The entry under the names of TaskSpec's fields."""
    found: dict[str, Any] = {}
    for raw_key, value in entry.items():
        flat = str(raw_key).replace("_", "").lower()
        key = _SPELLINGS.get(flat)
        if flat == "requirenode":
            given = found.get("constraints", entry.get("constraints")) or {}
            found["constraints"] = {**given, "require_node": value} if isinstance(given, Mapping) else given
        elif key is None:
            problems.append((str(raw_key), unknown_key(str(raw_key), SPEC_KEYS)))
        elif key in found and key != "constraints":
            problems.append((str(raw_key), f"is another spelling of {key}, which is there too: give one"))
        else:
            found.setdefault(key, value)
    return found


@dataclass(slots=True)
class Prepared:
    """A checked request, and the payload bytes when they are too large to travel in it."""

    request: tasks_pb2.SubmitTaskRequest
    blob: bytes | None


def prepare(spec: TaskSpec, tenant: str) -> Prepared:
    """The request for a spec. Mints the request_id. InvalidRequest lists every wrong field at once."""
    problems: list[tuple[str, str]] = []
    task = tasks_pb2.Task()
    _fill_words(spec, task, problems)
    task.attempt_timeout_ms = _duration("timeout", spec.timeout, problems)
    task.deadline_ms = _duration("deadline", spec.deadline, problems)
    task.start_delay_ms = _duration("start_delay", spec.start_delay, problems)
    task.max_attempts = _max_attempts(spec.max_attempts, problems)
    task.no_checkpoint = not spec.checkpoint
    _fill_belonging(spec, task, problems)
    _fill_retry(spec.retry or {}, task.retry, problems)
    if spec.labels:
        fill_labels("labels", spec.labels, task.labels, problems)
    if spec.constraints or spec.target_node:
        _fill_constraints(spec, task.constraints, problems)
    payload = _encode(spec.payload, problems)
    if problems:
        raise invalid(problems)
    if len(payload) <= INLINE_BYTES_MAX:
        task.payload.inline = payload
    request = tasks_pb2.SubmitTaskRequest(
        parent=f"tenants/{tenant}", task=task, request_id=spec.request_id or uuid.uuid4().hex
    )
    return Prepared(request, payload if len(payload) > INLINE_BYTES_MAX else None)


def _fill_words(spec: TaskSpec, task: tasks_pb2.Task, problems: list[tuple[str, str]]) -> None:
    if not isinstance(spec.type, str) or not spec.type:
        problems.append(("type", f"{spec.type!r} is not a skill name: give a text"))
    else:
        task.type = spec.type
    priority = _PRIORITIES.get(spec.priority.lower()) if isinstance(spec.priority, str) else None
    if priority is None:
        problems.append(("priority", f"{spec.priority!r} is not one of {', '.join(_PRIORITIES)}"))
    else:
        task.priority = priority
    for field in ("task_id", "request_id", "target_node"):
        value = getattr(spec, field)
        if value is not None and (not isinstance(value, str) or not value):
            problems.append((field, f"{value!r} is not a non-empty text: leave it out or give one"))
    if isinstance(spec.task_id, str):
        task.task_id = spec.task_id


def _fill_belonging(spec: TaskSpec, task: tasks_pb2.Task, problems: Problems) -> None:
    for field, name in (("key", "key"), ("agent", "agent"), ("parent", "parent_task")):
        value = getattr(spec, field)
        if isinstance(value, str):
            setattr(task, name, value)
        else:
            problems.append((field, f"{value!r} is not a text"))


def _fill_retry(given: Mapping[str, Any], into: tasks_pb2.RetryPolicy, problems: Problems) -> None:
    for name, value in given.items():
        field = f"retry.{name}"
        match name:
            case "max_attempts":
                into.max_attempts = _max_attempts(value, problems, field)
            case "initial_backoff" | "max_backoff":
                setattr(into, f"{name}_ms", _duration(field, value, problems))
            case "non_retryable" if isinstance(value, list | tuple) and all(
                isinstance(code, str) for code in value
            ):
                into.non_retryable.extend(value)
            case "dead_letter" if isinstance(value, bool):
                into.dead_letter = value
            case "non_retryable" | "dead_letter":
                kind = "a list of error codes" if name == "non_retryable" else "True or False"
                problems.append((field, f"{value!r} is not {kind}"))
            case _:
                problems.append((field, unknown_key(str(name), RETRY_KEYS)))


def _fill_constraints(spec: TaskSpec, into: tasks_pb2.Constraints, problems: Problems) -> None:
    if isinstance(spec.target_node, str):
        into.target_node = spec.target_node
    fill_constraints(spec.constraints or {}, into, problems)


def _duration(field: str, value: Duration | None, problems: list[tuple[str, str]]) -> int:
    if value is None:
        return 0
    try:
        ms = duration_ms(value)
    except ValueError as error:
        problems.append((field, str(error)))
        return 0
    if ms == 0 and field != "start_delay":
        problems.append((field, f"{value!r} leaves no time: leave it out for the default"))
    return ms


def _max_attempts(value: int | None, problems: Problems, field: str = "max_attempts") -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _INT32_MAX:
        problems.append((field, f"{value!r} is not a whole number from 1 to {_INT32_MAX}"))
        return 0
    return value


def encode_payload(payload: Any) -> bytes:
    """Bytes as they are, any other value as JSON. Raises InvalidRequest."""
    problems: list[tuple[str, str]] = []
    encoded = _encode(payload, problems)
    if problems:
        raise invalid(problems)
    return encoded


def _encode(payload: Any, problems: list[tuple[str, str]]) -> bytes:
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    try:
        text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        problems.append(("payload", f"is not a JSON value ({error}): give JSON values or bytes"))
        return b""
