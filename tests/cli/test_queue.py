"""`coterie task pause|resume|signal|retry`, `dlq`, `limits` and `tenants`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from coterie.client import FailedPrecondition
from coterie.v1 import tasks_pb2
from tests.cli.console import Console
from tests.cli.fakes import FakeCluster, document, run, task_info
from tests.client.conftest import fake as fake
from tests.client.fake import FakeCluster as Nodes


@pytest.fixture
async def console(fake: Nodes) -> AsyncIterator[Console]:
    for number in range(3):
        request = tasks_pb2.SubmitTaskRequest(parent="tenants/default", request_id=f"r{number}")
        request.task.type = "echo"
        fake.submit(request)
    yield Console(fake)


async def test_a_task_under_control(console: Console) -> None:
    assert (await console("task", "pause", "t1", "--reason", "lunch")).stdout == "t1: PAUSED\n"
    assert (await console.json("task", "resume", "t1"))["task"]["state"] == "PENDING"
    told = await console("task", "signal", "t1", "go", "--payload", '{"a": 1}', "--request-id", "s1")
    assert told.stdout == "t1: PENDING\n"
    [request] = console.nodes.methods("SignalTask")
    assert (request.signal, request.payload.inline, request.request_id) == ("go", b'{"a":1}', "s1")
    await console.nodes.finish("t1", state=tasks_pb2.FAILED)
    retried = await console("task", "retry", "t1", "--discard-steps", "--request-id", "again")
    assert retried.stdout == "t4\n"
    assert (await console.json("task", "retry", "t1"))["task"]["retry_of"] == "t1"


async def test_dead_letters(console: Console) -> None:
    assert "no dead letters" in (await console("dlq", "list")).stdout
    for task in ("t1", "t2"):
        console.nodes.tasks[task].crashes.add(node="n9")
        await console.nodes.finish(task, state=tasks_pb2.DEAD_LETTERED)
    assert [task["id"] for task in (await console.json("dlq", "list"))["tasks"]] == ["t2", "t1"]
    assert "t2" in (await console("dlq", "list", "--limit", "1")).stdout
    assert "n9" in (await console("dlq", "show", "t1")).stdout
    assert (await console.json("dlq", "show", "t1"))["task"]["crashed_on"] == ["n9"]
    assert (await console("dlq", "replay", "t1")).stdout == "t4\n"
    assert (await console("dlq", "purge", "t1")).stdout == "1 purged\n"
    assert (await console.json("dlq", "purge", "--older-than", "1h"))["purged"] == 2
    by_name, by_time = console.nodes.methods("PurgeDeadLetters")
    assert list(by_name.names) and by_time.HasField("before")
    assert (await console("dlq", "purge")).exit_code == 2


async def test_limits_and_tenants(console: Console) -> None:
    assert "no limits" in (await console("limits", "list")).stdout
    options = ["--type", "search", "--key", "*", "--rate", "100", "--period", "1m", "--burst", "5"]
    found = await console.json("limits", "set", "search", *options, "--concurrent", "3")
    assert (found["limit"]["rate"], found["limit"]["period"], found["limit"]["key"]) == (100, 60.0, "*")
    assert "100 per 60.0 s, 5 at once" in (await console("limits", "list")).stdout
    assert (await console("limits", "rm", "search")).stdout == "search is lifted\n"
    assert "no tenants" in (await console("tenants", "list")).stdout
    found = await console.json("tenants", "set", "acme", "--weight", "3", "--pending-max", "50")
    assert found["tenant"] == {"name": "acme", "weight": 3, "pending_max": 50}
    assert "acme" in (await console("tenants", "list")).stdout


def test_a_pause_that_is_refused_has_an_exit_code_of_its_own() -> None:
    refused = FailedPrecondition("task t1 has ended as FAILED", reason="TASK_TERMINAL")
    cluster = FakeCluster(tasks={"t1": task_info("t1", "FAILED")}, failures={"pause": refused})
    result = run(cluster, "task", "pause", "t1", "--json")
    assert result.exit_code == 4 and document(result)["ok"] is False
