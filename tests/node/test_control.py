"""Control of tasks, dead letters, limits and tenants over a quiet node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from coterie.core.commands import Command, FailAttempt, Outcome, RecordStep
from coterie.core.nouns import Data, RetryPolicy, TaskError, TaskId, evolve
from coterie.node import dead_letters as module
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.clock import Clock
from coterie.node.control import Control
from coterie.node.dead_letters import DeadLettersService
from coterie.node.errors import STATUS_DETAILS_KEY
from coterie.node.gateway import TasksService
from coterie.node.limits_service import LimitsService
from coterie.node.meters import Meters
from coterie.node.rpc import Gate
from coterie.v1 import tasks_pb2
from tests.core.builders import submit_command
from tests.node.fakes import QuietNode

YEAR_MS = 366 * 24 * 3_600_000
ONCE = RetryPolicy(attempts_max=1, backoff_initial_ms=1, backoff_max_ms=1)
BURIED = RetryPolicy(attempts_max=1, backoff_initial_ms=1, backoff_max_ms=1, dead_letter=True)


class Refused(Exception):
    """Stands for grpc's own AbortError."""


class Context:
    """A call without a deadline; remembers its refusal."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.reason = ""
        self.fields: list[str] = []

    def time_remaining(self) -> float | None:
        return None

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.code = code
        status = status_pb2.Status.FromString(dict(trailing_metadata)[STATUS_DETAILS_KEY])
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            if detail.Unpack(info):
                self.reason = info.reason
            if detail.Unpack(bad):
                self.fields = [violation.field for violation in bad.field_violations]
        raise Refused(details)


class Services:
    """The three services over one node."""

    def __init__(self, node: QuietNode) -> None:
        async def one(command: Command, timeout_s: float) -> Outcome:
            return node.do(command)

        proposer: Any = SimpleNamespace(one=one)
        exchange: Any = SimpleNamespace()
        self.room = True
        admission, gate, parts = Admission(AdmissionLimits()), Gate(9), SimpleNamespace()
        control = Control(node.state, node.reader, proposer, exchange, admission, Clock(), lambda: self.room)
        handed: Any = parts
        self.tasks: Any = TasksService(handed, control, gate)
        self.letters: Any = DeadLettersService(node.state, control, gate)
        self.limits: Any = LimitsService(
            node.state, node.reader, proposer, Meters(node.state, proposer, Clock()), gate
        )


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[QuietNode]:
    made = await QuietNode.open(tmp_path)
    yield made
    await made.ledger.close()


@pytest.fixture
def services(node: QuietNode) -> Services:
    return Services(node)


async def refusal(call: Any, request: Any) -> Context:
    context = Context()
    with pytest.raises(Refused):
        await call(request, context)
    return context


def submit(node: QuietNode, task_id: str = "t1", **changes: Any) -> None:
    node.do(submit_command(task_id, **changes))


def fail(node: QuietNode, task_id: str = "t1", retry: RetryPolicy = ONCE) -> None:
    """Runs it until it has ended without success, with one completed step."""
    submit(node, task_id, retry=retry)
    node.core.assign(task_id)
    attempt = node.core.task(task_id).attempt
    node.do(RecordStep(TaskId(task_id), attempt, "fetch", Data(b"1")))
    node.do(FailAttempt(TaskId(task_id), attempt, TaskError("SKILL_FAILED", "boom")))


async def test_pause_and_resume(node: QuietNode, services: Services) -> None:
    submit(node)
    paused = await services.tasks.PauseTask(tasks_pb2.PauseTaskRequest(name="t1", reason="r"), Context())
    assert (paused.state, paused.wait_reason) == (tasks_pb2.PAUSED, tasks_pb2.PAUSE)
    resumed = await services.tasks.ResumeTask(tasks_pb2.ResumeTaskRequest(name="t1"), Context())
    assert resumed.state == tasks_pb2.PENDING
    node.core.assign("t1")
    running = await services.tasks.PauseTask(tasks_pb2.PauseTaskRequest(name="t1"), Context())
    assert running.pause_requested and running.state == tasks_pb2.SCHEDULED


async def test_what_has_ended_cannot_be_paused_however_long_ago(node: QuietNode, services: Services) -> None:
    fail(node)
    request = tasks_pb2.PauseTaskRequest(name="t1")
    for _ in range(2):
        refused = await refusal(services.tasks.PauseTask, request)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_TERMINAL")
        node.forget_finished()
    refused = await refusal(services.tasks.PauseTask, tasks_pb2.PauseTaskRequest(name="t9"))
    assert refused.code is grpc.StatusCode.NOT_FOUND


async def test_a_signal_is_kept_once(node: QuietNode, services: Services) -> None:
    submit(node)
    request = tasks_pb2.SignalTaskRequest(name="t1", signal="go", request_id="s1")
    request.payload.inline = b"1"
    for _ in range(2):
        await services.tasks.SignalTask(request, Context())
    [signal] = node.core.task("t1").signals
    assert (signal.name, signal.payload, signal.signal_id) == ("go", Data(b"1"), "s1")


async def test_everything_wrong_with_a_signal_is_said_at_once(node: QuietNode, services: Services) -> None:
    submit(node)
    request = tasks_pb2.SignalTaskRequest(name="t1", signal="a b", request_id="x y")
    request.payload.inline = b"x" * 300_000
    refused = await refusal(services.tasks.SignalTask, request)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == ["request_id", "signal", "payload.inline"]
    assert not node.core.task("t1").signals


async def test_a_delayed_task_is_hurried_under_its_own_name(node: QuietNode, services: Services) -> None:
    submit(node, start_delay_ms=60_000)
    task = await services.tasks.RetryTask(tasks_pb2.RetryTaskRequest(name="t1"), Context())
    assert (task.task_id, task.wait_reason) == ("t1", tasks_pb2.QUEUED)
    node.core.assign("t1")
    refused = await refusal(services.tasks.RetryTask, tasks_pb2.RetryTaskRequest(name="t1"))
    assert refused.reason == "NOT_QUEUED"


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_failed_task_runs_again_with_its_steps(
    node: QuietNode, services: Services, forgotten: bool
) -> None:
    """Its steps are in the history only, where the feed puts them."""
    fail(node)
    if forgotten:
        node.forget_finished()
    request = tasks_pb2.RetryTaskRequest(name="t1", request_id="r1")
    again = await services.tasks.RetryTask(request, Context())
    assert again.retry_of == "t1" and again.state == tasks_pb2.PENDING and again.step_count == 1
    assert [step.key for step in node.state().steps[TaskId(again.task_id)]] == ["fetch"]
    assert (await services.tasks.RetryTask(request, Context())).task_id == again.task_id, "asked twice"
    clean = tasks_pb2.RetryTaskRequest(name="t1", request_id="r2", discard_steps=True)
    assert (await services.tasks.RetryTask(clean, Context())).step_count == 0


async def test_steps_that_the_history_lacks_are_waited_for_not_run_again(
    node: QuietNode, services: Services
) -> None:
    submit(node, retry=ONCE)
    node.core.assign("t1")
    node.do(RecordStep(TaskId("t1"), 1, "fetch", Data(b"1")))
    node.do(FailAttempt(TaskId("t1"), 1, TaskError("SKILL_FAILED", "boom")), seen=False)
    refused = await refusal(services.tasks.RetryTask, tasks_pb2.RetryTaskRequest(name="t1"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "CATCHING_UP")
    clean = tasks_pb2.RetryTaskRequest(name="t1", discard_steps=True)
    assert (await services.tasks.RetryTask(clean, Context())).step_count == 0


async def test_what_succeeded_or_has_no_room_does_not_run_again(node: QuietNode, services: Services) -> None:
    submit(node)
    node.core.assign("t1")
    node.finish("t1")
    request = tasks_pb2.RetryTaskRequest(name="t1")
    for _ in range(2):
        assert (await refusal(services.tasks.RetryTask, request)).reason == "TASK_SUCCEEDED"
        node.forget_finished()
    fail(node, "t2")
    services.room = False
    assert (
        await refusal(services.tasks.RetryTask, tasks_pb2.RetryTaskRequest(name="t2"))
    ).reason == "DISK_FULL"
    services.room = True
    state = node.state()
    state.meta = evolve(state.meta, policy=evolve_policy(state.meta.policy, 1))
    submit(node, "t3")
    refused = await refusal(services.tasks.RetryTask, tasks_pb2.RetryTaskRequest(name="t2"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")


def evolve_policy(policy: Any, pending: int) -> Any:
    return type(policy)(pending_tasks_max=pending)


async def test_dead_letters_page_by_page(node: QuietNode, services: Services) -> None:
    for number in range(5):
        fail(node, f"t{number}", BURIED)
    found: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        request = tasks_pb2.ListDeadLettersRequest(page_size=2, page_token=token)
        answer = await services.letters.ListDeadLetters(request, Context())
        found += [task.task_id for task in answer.tasks]
        token, pages = answer.next_page_token, pages + 1
    assert (found, pages) == ([f"t{number}" for number in (4, 3, 2, 1, 0)], 3)
    bad = tasks_pb2.ListDeadLettersRequest(page_token="x.y")
    assert (await refusal(services.letters.ListDeadLetters, bad)).fields == ["page_token"]
    other = tasks_pb2.ListDeadLettersRequest(parent="tenants/other")
    assert not (await services.letters.ListDeadLetters(other, Context())).tasks
    bad = tasks_pb2.ListDeadLettersRequest(parent="tenants/A b")
    assert (await refusal(services.letters.ListDeadLetters, bad)).fields == ["parent"]


async def test_a_page_of_dead_letters_keeps_to_a_size(
    node: QuietNode, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES_MAX", 10)
    for number in range(3):
        fail(node, f"t{number}", BURIED)
    answer = await services.letters.ListDeadLetters(tasks_pb2.ListDeadLettersRequest(), Context())
    assert len(answer.tasks) == 1 and answer.next_page_token


async def test_a_poison_task_is_shown_with_the_nodes_it_crashed_on(
    node: QuietNode, services: Services
) -> None:
    for number in (2, 3):
        node.core.with_node(f"n{number}")
    submit(node, retry=RetryPolicy(attempts_max=9, backoff_initial_ms=1, backoff_max_ms=1))
    for number in (1, 2, 3):
        node.core.now_ms += 10
        node.core.assign("t1", f"n{number}")
        attempt = node.core.task("t1").attempt
        node.do(FailAttempt(TaskId("t1"), attempt, TaskError("SKILL_CRASHED", "died")))
    task = await services.letters.GetDeadLetter(tasks_pb2.GetDeadLetterRequest(name="t1"), Context())
    assert task.error.code == "POISON" and "n1, n2, n3" in task.error.message
    assert [crash.node for crash in task.crashes] == ["n1", "n2", "n3"]
    assert not any(crash.node_lost for crash in task.crashes)


async def test_a_dead_letter_is_replayed_once(node: QuietNode, services: Services) -> None:
    fail(node, retry=BURIED)
    shown = await services.letters.GetDeadLetter(tasks_pb2.GetDeadLetterRequest(name="t1"), Context())
    assert [step.name for step in shown.steps] == ["fetch"] and shown.payload.inline == b"{}"
    request = tasks_pb2.ReplayDeadLetterRequest(name="t1", request_id="r1")
    again = await services.letters.ReplayDeadLetter(request, Context())
    assert again.retry_of == "t1" and again.step_count == 1 and not node.state().dead_letters
    assert (await services.letters.ReplayDeadLetter(request, Context())).task_id == again.task_id
    node.forget_finished()
    assert (await services.letters.ReplayDeadLetter(request, Context())).task_id == again.task_id
    other = tasks_pb2.ReplayDeadLetterRequest(name="t1", request_id="r2")
    refused = await refusal(services.letters.ReplayDeadLetter, other)
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "DEAD_LETTER_NOT_FOUND")


async def test_dead_letters_are_purged_by_name_or_by_time(node: QuietNode, services: Services) -> None:
    for number in range(4):
        fail(node, f"t{number}", BURIED)
    by_name = tasks_pb2.PurgeDeadLettersRequest(names=["t0", "t9"])
    assert (await services.letters.PurgeDeadLetters(by_name, Context())).purged == 1
    by_time = tasks_pb2.PurgeDeadLettersRequest()
    by_time.before.FromMilliseconds(node.state().dead_letters[TaskId("t2")].task.finished_at_ms)
    assert (await services.letters.PurgeDeadLetters(by_time, Context())).purged == 1
    assert list(node.state().dead_letters) == ["t2", "t3"]
    for wrong in (tasks_pb2.PurgeDeadLettersRequest(), tasks_pb2.PurgeDeadLettersRequest(names=["t2"])):
        if wrong.names:
            wrong.before.FromMilliseconds(1)
        assert (await refusal(services.letters.PurgeDeadLetters, wrong)).fields == ["names"]


async def test_limits_are_set_listed_and_lifted(node: QuietNode, services: Services) -> None:
    limit = tasks_pb2.Limit(limit_id="b", key="*", concurrent=2)
    other = tasks_pb2.Limit(limit_id="a", type="echo", rate_count=5, rate_period_ms=1_000, burst=2)
    for one in (limit, other):
        assert await services.limits.SetLimit(tasks_pb2.SetLimitRequest(limit=one), Context()) == one
    answer = await services.limits.ListLimits(tasks_pb2.ListLimitsRequest(), Context())
    assert list(answer.limits) == [other, limit]
    await services.limits.DeleteLimit(tasks_pb2.DeleteLimitRequest(limit_id="a"), Context())
    refused = await refusal(services.limits.DeleteLimit, tasks_pb2.DeleteLimitRequest(limit_id="a"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "LIMIT_NOT_FOUND")


@pytest.mark.parametrize(
    ("limit", "fields"),
    [
        ({}, ["limit_id", "concurrent"]),
        ({"limit_id": "a b", "concurrent": -1, "key": "x" * 300}, ["limit_id", "key", "concurrent"]),
        ({"limit_id": "a", "rate_count": 1}, ["rate_period_ms"]),
        ({"limit_id": "a", "concurrent": 1, "burst": 1}, ["burst"]),
        ({"limit_id": "a", "rate_count": 1, "rate_period_ms": YEAR_MS, "burst": 127}, ["burst"]),
        ({"limit_id": "a", "rate_count": 9, "rate_period_ms": YEAR_MS, "burst": 10**9}, ["burst"]),
    ],
)
async def test_every_fault_of_a_limit_is_named(
    services: Services, limit: dict[str, Any], fields: list[str]
) -> None:
    refused = await refusal(
        services.limits.SetLimit, tasks_pb2.SetLimitRequest(limit=tasks_pb2.Limit(**limit))
    )
    assert refused.fields == [f"limit.{name}" for name in fields]


async def test_a_bucket_fills_within_what_a_clock_can_tell(services: Services) -> None:
    slow: dict[str, Any] = {"limit_id": "a", "rate_count": 1, "rate_period_ms": YEAR_MS}
    limit = tasks_pb2.Limit(**slow, burst=126)
    assert await services.limits.SetLimit(tasks_pb2.SetLimitRequest(limit=limit), Context()) == limit
    limit.burst = 300
    with pytest.raises(Refused, match=r"limit.burst: 300 tokens .*: give 126 at most"):
        await services.limits.SetLimit(tasks_pb2.SetLimitRequest(limit=limit), Context())


async def test_tenants(node: QuietNode, services: Services) -> None:
    asked = tasks_pb2.SetTenantRequest(tenant=tasks_pb2.Tenant(tenant="acme", pending_tasks_max=5))
    made = await services.limits.SetTenant(asked, Context())
    assert (made.weight, made.pending_tasks_max) == (1, 5)
    answer = await services.limits.ListTenants(tasks_pb2.ListTenantsRequest(), Context())
    assert list(answer.tenants) == [made]
    asked.tenant.tenant, asked.tenant.weight, asked.tenant.pending_tasks_max = "A", -1, -1
    refused = await refusal(services.limits.SetTenant, asked)
    assert refused.fields == ["tenant.tenant", "tenant.weight", "tenant.pending_tasks_max"]


def test_what_a_task_belongs_to_is_checked_with_all_the_rest() -> None:
    task = tasks_pb2.Task(type="echo", key="k" * 300, agent="a\n", parent_task="?", max_attempts=3)
    retry = tasks_pb2.RetryPolicy(
        max_attempts=4, initial_backoff_ms=5, max_backoff_ms=4, non_retryable=["a b"]
    )
    task.retry.CopyFrom(retry)
    with pytest.raises(Exception) as refused:
        command(task)
    wrong: Any = refused.value
    assert [violation.field.removeprefix("task.") for violation in wrong.violations] == [
        *["key", "agent", "parent_task", "retry.max_attempts", "retry.max_backoff_ms"],
        "retry.non_retryable[0]",
    ]


def test_a_task_says_how_it_is_retried_and_the_cluster_the_rest() -> None:
    task = tasks_pb2.Task(type="echo", key="k", agent="a", parent_task="p")
    task.retry.non_retryable.append("BAD")
    task.retry.initial_backoff_ms = 1_000_000
    made = command(task)
    assert (made.key, made.agent, made.parent_id) == ("k", "a", "p")
    assert made.retry == RetryPolicy(3, 1_000_000, 1_000_000, ("BAD",), False)
    task.retry.CopyFrom(tasks_pb2.RetryPolicy(max_attempts=7, max_backoff_ms=10, dead_letter=True))
    assert command(task).retry == RetryPolicy(7, 200, 10, (), True)


def command(task: tasks_pb2.Task) -> Any:
    request = tasks_pb2.SubmitTaskRequest(task=task)
    return Admission(AdmissionLimits()).command(request, "id", {"echo"}, {"n1"})
