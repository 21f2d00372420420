"""What a submitted task must look like: every violation at once, before anything is proposed."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from coterie.core.commands import SubmitTask
from coterie.core.nouns import Data, RetryPolicy, TaskId
from coterie.node import convert
from coterie.node.errors import Violation, invalid
from coterie.v1 import tasks_pb2

DEFAULT_TENANT = "default"
ATTEMPTS_MAX = 100
DURATION_MS_MAX = 366 * 24 * 3_600_000
LABELS_MAX = 32
COMPANIONS_MAX = 8
LABEL_CHARS_MAX = 256
NAME_CHARS_MAX = 256  # of a task: its tenant and its id have less together
CODES_MAX = 32
TARGET = "task.constraints.target_node"
PAGE_DEFAULT, PAGE_MAX = 50, 1_000
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
SKILL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
SIGNAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
ERROR_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OUTPUT_ONLY = (
    "state",
    "result",
    "steps",
    "error",
    "attempt",
    "checkpoint",
    "retry_of",
    "forked_from",
    "crashes",
)


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What the gateway checks on its own, and the cluster's defaults it fills in."""

    payload_inline_max: int = 256 * 1024
    blob_bytes_max: int = 64 * 1024 * 1024
    attempt_timeout_ms: int = 0
    retry: RetryPolicy = field(default_factory=RetryPolicy)


class Admission:
    """Turns SubmitTaskRequest into the command, or raises ApiError with all violations."""

    def __init__(self, limits: AdmissionLimits, live: Callable[[], AdmissionLimits] | None = None) -> None:
        """`live` gives the limits of the moment, where they may change."""
        self._live = live or (lambda: limits)

    @property
    def _limits(self) -> AdmissionLimits:
        return self._live()

    @property
    def attempt_timeout_ms(self) -> int:
        """Of an attempt of which neither the task nor its skill says anything."""
        return self._limits.attempt_timeout_ms

    def command(
        self,
        request: tasks_pb2.SubmitTaskRequest,
        new_id: str,
        skills: Collection[str],
        nodes: Collection[str],
    ) -> SubmitTask:
        """`skills` and `nodes` are those known to the cluster; `new_id` is for a client that chose none."""
        wrong = list(self._violations(request, skills, nodes))
        if wrong:
            raise invalid(wrong, _reason(wrong))
        task, limits = request.task, self._limits
        return SubmitTask(
            task_id=TaskId(task.task_id or new_id),
            tenant=tenant_of(request.parent),
            type=task.type,
            payload=convert.data_from_pb(task.payload),
            priority=int(task.priority) or int(tasks_pb2.NORMAL),
            retry=convert.retry_from_pb(task, limits.retry),
            # A proposal whose outcome was unknown is made again: without an id it would meet its own task.
            request_id=request.request_id or new_id,
            digest=_digest(request),
            attempt_timeout_ms=task.attempt_timeout_ms,  # 0: what its skill says, see skillset.filled
            deadline_after_ms=task.deadline_ms,
            start_delay_ms=task.start_delay_ms,
            checkpointing=not task.no_checkpoint,
            labels=convert.labels_from_pb(task.labels),
            constraints=convert.constraints_from_pb(task.constraints),
            key=task.key,
            agent=task.agent,
            parent_id=TaskId(task.parent_task),
        )

    def _violations(
        self,
        request: tasks_pb2.SubmitTaskRequest,
        skills: Collection[str],
        nodes: Collection[str],
    ) -> list[Violation]:
        task = request.task
        wrong = _names(request) + _type(task.type, skills) + _numbers(task) + _labels(task)
        wrong += _belonging(task) + _retry(task)
        wrong += self.data_faults("task.payload", convert.data_from_pb(task.payload))
        wrong += _zones(task.constraints) + _wishes(task.constraints)
        if task.payload.HasField("blob") and not task.payload.blob.sha256:
            wrong.append(Violation("task.payload.blob.sha256", "is empty; name the blob, or send it inline"))
        target = task.constraints.target_node
        if target and target not in nodes:
            known = ", ".join(sorted(nodes))
            wrong.append(Violation(TARGET, f"no node {target!r}; known: {known}"))
        return wrong

    def data_faults(self, field: str, payload: Data) -> list[Violation]:
        """What is wrong with bytes that travel inline or as a blob."""
        limits = self._limits
        if len(payload.inline) > limits.payload_inline_max:
            text = (
                f"{len(payload.inline)} bytes inline, the limit is {limits.payload_inline_max};"
                " store it with Blobs.PutBlob and refer to it"
            )
            return [Violation(f"{field}.inline", text, limits.payload_inline_max)]
        if payload.sha256 and not _SHA256.fullmatch(payload.sha256):
            text = f"{payload.sha256!r} is not 64 lower-case hex digits"
            return [Violation(f"{field}.blob.sha256", text)]
        if payload.size_bytes > limits.blob_bytes_max:
            text = f"{payload.size_bytes} bytes, the limit is {limits.blob_bytes_max}; split the payload"
            return [Violation(f"{field}.blob.size_bytes", text)]
        return []


def _reason(wrong: Sequence[Violation]) -> str:
    """Of a request in which nothing is wrong but names that the cluster does not know: which they are."""
    if any(v.field not in ("task.type", TARGET) or "known" not in v.description for v in wrong):
        return "BAD_FIELD"
    return "UNKNOWN_SKILL" if wrong[0].field == "task.type" else "UNKNOWN_NODE"


def tenant_of(parent: str) -> str:
    return parent.removeprefix(convert.NAME_PREFIX) if parent else DEFAULT_TENANT


def task_id_of(name: str) -> TaskId:
    """The id in `tenants/{t}/tasks/{id}`, or a bare id. Raises ApiError for anything else."""
    parts = name.split("/", 4)
    bare = parts[-1]
    well_formed = len(parts) == 1 or (len(parts) == 4 and parts[0] == "tenants" and parts[2] == "tasks")
    if not well_formed or len(name) > NAME_CHARS_MAX or not _TASK_ID.fullmatch(bare):
        shown = name[:NAME_CHARS_MAX]
        raise invalid([Violation("name", f"{shown!r} is not tenants/{{tenant}}/tasks/{{id}} or a task id")])
    return TaskId(bare)


def checked_tenant(parent: str) -> str:
    """The tenant of `tenants/{name}`; empty: the default one. Raises ApiError for anything else."""
    if wrong := _parent_fault(parent):
        raise invalid(wrong)
    return tenant_of(parent)


def _parent_fault(parent: str) -> list[Violation]:
    if not parent or _TENANT.fullmatch(tenant_of(parent)):
        return []
    text = f"{parent!r} is not tenants/{{name}} with a name of a-z, 0-9 and -, at most 63"
    return [Violation("parent", text)]


def tenant_fault(field: str, name: str) -> list[Violation]:
    if _TENANT.fullmatch(name):
        return []
    return [Violation(field, f"{name!r} is not a name of a-z, 0-9 and -, of 1 to 63 characters")]


def request_id_faults(request_id: str) -> list[Violation]:
    if not request_id or _REQUEST_ID.fullmatch(request_id):
        return []
    text = f"{request_id!r}: use 1 to 128 printable ASCII characters without spaces"
    return [Violation("request_id", text)]


def signal_faults(request: tasks_pb2.SignalTaskRequest) -> list[Violation]:
    """What is wrong with a signal's name and id."""
    wrong = request_id_faults(request.request_id)
    if not SIGNAL_NAME.fullmatch(request.signal):
        text = f"{request.signal!r}: use 1 to 128 letters, digits and . _ / -, the first a letter or digit"
        wrong.append(Violation("signal", text))
    return wrong


def check_page_size(asked: int) -> int:
    """How many items a page has. Raises ApiError for a negative number."""
    if asked < 0:
        raise invalid([Violation("page_size", f"{asked} is negative; use 1 to {PAGE_MAX}, or 0")])
    return min(asked or PAGE_DEFAULT, PAGE_MAX)


def _names(request: tasks_pb2.SubmitTaskRequest) -> list[Violation]:
    wrong = _parent_fault(request.parent) + request_id_faults(request.request_id)
    if request.task.task_id and not _TASK_ID.fullmatch(request.task.task_id):
        text = f"{request.task.task_id!r}: use letters, digits and . _ ~ -, at most 128"
        wrong.append(Violation("task.task_id", text))
    wrong += [
        Violation(f"task.{name}", "is set by the cluster; leave it out")
        for name in _OUTPUT_ONLY
        if _is_set(request.task, name)
    ]
    return wrong


def _is_set(task: tasks_pb2.Task, name: str) -> bool:
    value = getattr(task, name)
    return task.HasField(name) if hasattr(value, "DESCRIPTOR") else bool(value)  # type: ignore[arg-type]


def _type(name: str, skills: Collection[str]) -> list[Violation]:
    if not name:
        return [Violation("task.type", "is empty; name a skill")]
    if not SKILL_TYPE.fullmatch(name):
        return [Violation("task.type", f"{name!r}: use letters, digits and . _ / -, at most 128")]
    if name in skills:
        return []
    near = difflib.get_close_matches(name, skills, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(sorted(skills)[:20]) or "none"
    return [Violation("task.type", f"no node has a skill {name!r}; {hint}known: {listed}")]


def _numbers(task: tasks_pb2.Task) -> list[Violation]:
    wrong = []
    for name in ("attempt_timeout_ms", "deadline_ms", "start_delay_ms"):
        value = getattr(task, name)
        if not 0 <= value <= DURATION_MS_MAX:
            wrong.append(Violation(f"task.{name}", f"{value} is not in 0..{DURATION_MS_MAX} ms"))
    if not 0 <= task.max_attempts <= ATTEMPTS_MAX:
        wrong.append(
            Violation(
                "task.max_attempts", f"{task.max_attempts} is not in 0..{ATTEMPTS_MAX} (0: the default)"
            )
        )
    if task.priority not in tasks_pb2.Priority.values():
        wrong.append(Violation("task.priority", f"{task.priority} is not low, normal, high or critical"))
    return wrong


def _labels(task: tasks_pb2.Task) -> list[Violation]:
    wrong = []
    for name, labels in (("labels", task.labels), ("constraints.labels", task.constraints.labels)):
        if len(labels) > LABELS_MAX:
            wrong.append(Violation(f"task.{name}", f"{len(labels)} labels, the limit is {LABELS_MAX}"))
            continue
        for key, value in labels.items():
            if not key or len(key) > LABEL_CHARS_MAX or len(value) > LABEL_CHARS_MAX:
                text = f"key and value must have 1 and 0 to {LABEL_CHARS_MAX} characters"
                wrong.append(Violation(f"task.{name}[{key[:40]!r}]", text))
    return wrong


def _belonging(task: tasks_pb2.Task) -> list[Violation]:
    wrong = [
        Violation(
            f"task.{name}", f"has more than {LABEL_CHARS_MAX} characters, or some that are not printable"
        )
        for name in ("key", "agent")
        if len(getattr(task, name)) > LABEL_CHARS_MAX or not getattr(task, name).isprintable()
    ]
    if task.parent_task and not _TASK_ID.fullmatch(task.parent_task):
        wrong.append(Violation("task.parent_task", f"{task.parent_task!r} is not the id of a task"))
    return wrong


def _retry(task: tasks_pb2.Task) -> list[Violation]:
    retry, at, wrong = task.retry, "task.retry", []
    if not 0 <= retry.max_attempts <= ATTEMPTS_MAX:
        text = f"{retry.max_attempts} is not in 0..{ATTEMPTS_MAX} (0: the default)"
        wrong.append(Violation(f"{at}.max_attempts", text))
    if retry.max_attempts and task.max_attempts not in (0, retry.max_attempts):
        text = f"{retry.max_attempts}, and task.max_attempts is {task.max_attempts}; give one of them"
        wrong.append(Violation(f"{at}.max_attempts", text))
    for name in ("initial_backoff_ms", "max_backoff_ms"):
        value = getattr(retry, name)
        if not 0 <= value <= DURATION_MS_MAX:
            wrong.append(
                Violation(f"{at}.{name}", f"{value} is not in 0..{DURATION_MS_MAX} ms (0: the default)")
            )
    if 0 < retry.max_backoff_ms < retry.initial_backoff_ms:
        text = f"{retry.max_backoff_ms} is below initial_backoff_ms, {retry.initial_backoff_ms}; raise it"
        wrong.append(Violation(f"{at}.max_backoff_ms", text))
    if len(retry.non_retryable) > CODES_MAX:
        wrong.append(
            Violation(f"{at}.non_retryable", f"{len(retry.non_retryable)} codes, the limit is {CODES_MAX}")
        )
    wrong += [
        Violation(f"{at}.non_retryable[{place}]", f"{code[:80]!r} is not an error code: use A-Z, 0-9 and _")
        for place, code in enumerate(retry.non_retryable[:CODES_MAX])
        if not ERROR_CODE.fullmatch(code)
    ]
    return wrong


def _zones(constraints: tasks_pb2.Constraints) -> list[Violation]:
    wrong = []
    if len(constraints.zones) > LABELS_MAX:
        text = f"{len(constraints.zones)} zones, the limit is {LABELS_MAX}"
        wrong.append(Violation("task.constraints.zones", text))
    for name, zones in (
        ("zones", constraints.zones),
        ("prefer_zone", [constraints.prefer_zone]),
        ("prefer_node", [constraints.prefer_node]),
    ):
        if any(len(zone) > LABEL_CHARS_MAX for zone in zones[:LABELS_MAX]):
            text = f"a name has at most {LABEL_CHARS_MAX} characters"
            wrong.append(Violation(f"task.constraints.{name}", text))
    return wrong


def _wishes(constraints: tasks_pb2.Constraints) -> list[Violation]:
    at, wrong = "task.constraints", []
    for name, limit in (("memory_bytes", 1 << 50), ("gpus", 1_024), ("max_latency_ms", DURATION_MS_MAX)):
        value = getattr(constraints, name)
        if not 0 <= value <= limit:
            wrong.append(Violation(f"{at}.{name}", f"{value} is not in 0..{limit}"))
    wrong += [
        Violation(f"{at}.{name}", f"has more than {LABEL_CHARS_MAX} characters")
        for name in ("skill_version", "session")
        if len(getattr(constraints, name)) > LABEL_CHARS_MAX
    ]
    if constraints.prefer_zone and constraints.prefer_same_zone:
        text = "true, and prefer_zone too: give one of them"
        wrong.append(Violation(f"{at}.prefer_same_zone", text))
    if len(constraints.companions) > COMPANIONS_MAX:
        text = f"{len(constraints.companions)} companions, the limit is {COMPANIONS_MAX}"
        wrong.append(Violation(f"{at}.companions", text))
    for place, one in enumerate(constraints.companions[:COMPANIONS_MAX]):
        texts = (one.task_id, one.type, one.label_key, one.label_value)
        if not any(texts[:3]) or any(len(text) > LABEL_CHARS_MAX for text in texts):
            text = f"name a task_id, a type or a label_key, of at most {LABEL_CHARS_MAX} characters"
            wrong.append(Violation(f"{at}.companions[{place}]", text))
    return wrong


def _digest(request: tasks_pb2.SubmitTaskRequest) -> bytes:
    task = request.task
    if task.payload.HasField("blob") and task.payload.blob.ticket:
        # A ticket proves what the caller has shown; it is no part of what is asked for, and may be another
        # one next time.
        task = tasks_pb2.Task()
        task.CopyFrom(request.task)
        task.payload.blob.ticket = ""
    raw = task.SerializeToString(deterministic=True) + b"\0" + request.parent.encode()
    return hashlib.sha256(raw).digest()[:16]
