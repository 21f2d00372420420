"""The Tasks service over a quiet node: sizes of answers, ids that were used before, waits in every window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coterie.client.rpc_errors import decode_status
from coterie.core.commands import Accepted, RecordStep, SaveCheckpoint
from coterie.core.nouns import Data, TaskId
from coterie.core.ports import NotCommitted
from coterie.node import gateway
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.blob_errors import BlobQuotaExceeded
from coterie.node.clock import Clock
from coterie.node.gateway import TasksService
from coterie.node.ledger import Ledger, LedgerError, LedgerOptions
from coterie.node.metrics import NodeMetrics
from coterie.node.rpc import Gate
from coterie.node.skillhost.nouns import SkillInfo
from coterie.v1 import tasks_pb2
from tests.core.builders import submit_command
from tests.node.fakes import QuietNode


class Refused(Exception):
    """Stands for grpc's own AbortError."""


class Context:
    """A call without a deadline; remembers its refusal."""

    code: grpc.StatusCode | None = None

    def time_remaining(self) -> float | None:
        return None

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.code = code
        raise Refused(details)


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[QuietNode]:
    monkeypatch.setattr(gateway, "RECHECK_S", 0.02)
    made = await QuietNode.open(tmp_path)
    yield made
    await made.ledger.close()


@pytest.fixture
def service(node: QuietNode) -> Any:
    parts: Any = SimpleNamespace(
        state=node.state,
        reader=node.reader,
        hub=node.hub,
        clock=Clock(),
        admission=Admission(AdmissionLimits()),
        local_skills=lambda: {"echo": SkillInfo("echo", "", "", 0, "none")},
        ledger_backlog=lambda: 0,
        takes_new_work=lambda: True,
        proposer=SimpleNamespace(waiting_bytes=0),
        router=SimpleNamespace(stamped=lambda command, **_: command),
    )
    control: Any = SimpleNamespace()
    return TasksService(parts, control, Gate(100))


def run(node: QuietNode, task_id: str = "t1", payload: bytes = b"{}") -> None:
    node.do(submit_command(task_id, payload=Data(payload)))
    node.core.assign(task_id)
    node.core.state.outbox.clear()


def submission(task_id: str) -> tasks_pb2.SubmitTaskRequest:
    return tasks_pb2.SubmitTaskRequest(task=tasks_pb2.Task(task_id=task_id, type="echo"), validate_only=True)


async def refusal(call: Any, request: Any) -> grpc.StatusCode | None:
    context = Context()
    with pytest.raises(Refused):
        await call(request, context)
    return context.code


async def test_an_id_is_good_once_even_when_the_state_has_forgotten_it(node: QuietNode, service: Any) -> None:
    """A second task of that name would answer with the first one's result as soon as it had ended."""
    run(node)
    node.finish("t1")
    node.forget_finished()
    assert await refusal(service.SubmitTask, submission("t1")) is grpc.StatusCode.ALREADY_EXISTS
    assert (await service.SubmitTask(submission("t2"), Context())).task_id == "t2"
    node.catching_up = True
    assert await refusal(service.SubmitTask, submission("t3")) is grpc.StatusCode.UNAVAILABLE


async def test_steps_that_a_node_still_copies_are_not_said_to_be_none(node: QuietNode, service: Any) -> None:
    """A snapshot shows that the task has ended; its steps are in the ledgers of the others."""
    run(node)
    attempt = node.core.task("t1").attempt
    node.do(RecordStep(TaskId("t1"), attempt, "load", Data(b"1")))
    node.finish("t1", seen=False)
    node.restore()
    node.catching_up = True
    request = tasks_pb2.GetTaskRequest(name="t1", include_steps=True)
    assert await refusal(service.GetTask, request) is grpc.StatusCode.UNAVAILABLE
    request.read_mode = tasks_pb2.STALE
    told = await service.GetTask(request, Context())
    assert (told.step_count, len(told.steps)) == (1, 0), "whoever is content with what is here gets that"
    request = tasks_pb2.GetTaskRequest(name="t1")
    assert (await service.GetTask(request, Context())).state == tasks_pb2.SUCCEEDED


async def test_a_list_keeps_to_a_size_and_goes_on_where_it_ended(
    node: QuietNode, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "PAGE_BYTES_MAX", 300)
    for number in range(7):
        node.do(submit_command(f"t{number}"))
    found: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        request = tasks_pb2.ListTasksRequest(page_size=100, page_token=token)
        answer = await service.ListTasks(request, Context())
        found += [task.task_id for task in answer.tasks]
        token, pages = answer.next_page_token, pages + 1
    assert found == [f"t{number}" for number in reversed(range(7))]
    assert pages > 2


@pytest.mark.parametrize("record_bytes", [1_000, 5_000])
async def test_a_list_of_large_finished_tasks_goes_on_to_its_end(
    tmp_path: Path, node: QuietNode, service: Any, record_bytes: int
) -> None:
    """Their records hold all their steps, of which a list shows none."""
    options = LedgerOptions(page_bytes_max=3_000)
    ledger = await Ledger.open(tmp_path / "small.db", options)
    node.ledger, node.reader._ledger = ledger, ledger
    wanted = [f"t{number}" for number in range(9)]
    for task_id in wanted:
        run(node, task_id)
        if task_id not in ("t3", "t7"):  # these live
            attempt = node.core.task(task_id).attempt
            node.do(RecordStep(TaskId(task_id), attempt, "s", Data(b"x" * record_bytes)))
            node.finish(task_id)
    await ledger.flush(node.core.index)
    node.forget_finished()
    found: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        answer = await service.ListTasks(
            tasks_pb2.ListTasksRequest(page_size=50, page_token=token), Context()
        )
        assert answer.tasks, "a page has one at least"
        found += [task.task_id for task in answer.tasks]
        token, pages = answer.next_page_token, pages + 1
    await ledger.close()
    assert found == wanted[::-1]


async def test_a_task_too_large_to_send_is_refused_with_a_remedy(
    node: QuietNode, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "ANSWER_BYTES_MAX", 1_000)
    run(node)
    node.do(RecordStep(TaskId("t1"), 1, "s", Data(b"x" * 1_000)))
    request = tasks_pb2.GetTaskRequest(name="t1", include_steps=True)
    assert await refusal(service.GetTask, request) is grpc.StatusCode.FAILED_PRECONDITION
    assert (await service.GetTask(tasks_pb2.GetTaskRequest(name="t1"), Context())).step_count == 1


async def test_what_is_wrong_with_one_task_of_a_batch_is_told_of_that_one(
    node: QuietNode, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of quite different callers of a client travel in one batch."""
    for task_id in ("t2", "t3"):
        run(node, task_id)
    find = node.reader.get

    async def submitted(commands: list[Any], context: Any) -> list[Accepted]:
        return [Accepted(command.task_id) for command in commands]

    async def admitted(request: tasks_pb2.SubmitTaskRequest) -> Any:
        if request.task.task_id == "t1":
            raise BlobQuotaExceeded("no room for its payload here")
        return submit_command(request.task.task_id)

    async def found(task_id: TaskId, timeout_s: float) -> Any:
        if task_id in slow:
            raise slow[task_id]
        return await find(task_id, timeout_s)

    slow = {TaskId("t4"): LedgerError("too many wait"), TaskId("t5"): NotCommitted("no leader")}
    monkeypatch.setattr(service, "_submit", submitted)
    monkeypatch.setattr(service, "_admit", admitted)
    monkeypatch.setattr(node.reader, "get", found)
    service._parts.metrics = NodeMetrics()
    requests = [submission(f"t{number}") for number in range(1, 6)]
    answer = await service.BatchSubmitTasks(tasks_pb2.BatchSubmitTasksRequest(requests=requests), Context())
    assert [one.task.task_id for one in answer.results] == ["", "t2", "t3", "", ""]
    told = [decode_status(one.status).reason if one.status else "" for one in answer.results]
    assert told == ["BLOB_QUOTA", "", "", "HISTORY_BUSY", "NO_LEADER"]


async def test_a_batch_of_tasks_that_have_ended_is_answered_within_a_size(
    node: QuietNode, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client takes no answer above its limit: accepted work would look as if it had been refused."""
    monkeypatch.setattr(gateway, "PAGE_BYTES_MAX", 10_000)
    known = [f"t{number}" for number in range(5)]
    for task_id in known:
        run(node, task_id)
        node.do(SaveCheckpoint(TaskId(task_id), 1, Data(b"x" * 4_000), 1))
        node.finish(task_id)

    async def submitted(*_: Any) -> list[Accepted]:
        return [Accepted(TaskId(task_id), duplicate=True) for task_id in known]

    async def admitted(request: tasks_pb2.SubmitTaskRequest) -> Any:
        return submit_command(request.task.task_id)

    monkeypatch.setattr(service, "_submit", submitted)
    monkeypatch.setattr(service, "_admit", admitted)
    requests = [submission(task_id) for task_id in known]
    answer = await service.BatchSubmitTasks(tasks_pb2.BatchSubmitTasksRequest(requests=requests), Context())
    assert answer.ByteSize() < 10_000
    assert [result.task.task_id for result in answer.results] == known
    assert {result.task.state for result in answer.results} == {tasks_pb2.SUCCEEDED}
    whole = [result.task.result.inline == b"42" for result in answer.results]
    assert whole == [True, True, False, False, False], "what fits is there"


async def test_a_wait_hears_of_an_end_that_came_with_a_snapshot(node: QuietNode, service: Any) -> None:
    run(node)
    waiting = asyncio.ensure_future(service.WaitTask(tasks_pb2.WaitTaskRequest(name="t1"), Context()))
    await asyncio.sleep(0.005)
    node.finish("t1", seen=False)
    node.restore()
    async with asyncio.timeout(30):
        assert (await waiting).state == tasks_pb2.SUCCEEDED


async def test_a_wait_on_a_node_that_is_cut_off_ends(node: QuietNode, service: Any) -> None:
    run(node)
    node.engine.has_quorum = False
    request = tasks_pb2.WaitTaskRequest(name="t1")
    async with asyncio.timeout(30):
        assert await refusal(service.WaitTask, request) is grpc.StatusCode.UNAVAILABLE
