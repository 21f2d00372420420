"""Control of tasks, dead letters, limits and tenants, as a client program meets them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from coterie.client import InvalidRequest, Limit, NotFound, QueueFull, Tenant, sync, sync_queueing
from coterie.client.queueing import DeadLetters, Limits
from coterie.client.spec import TaskSpec, prepare
from coterie.v1 import tasks_pb2
from tests.client.conftest import PATIENT, client_of
from tests.client.fake import FakeCluster, Fault


async def test_pause_resume_signal_and_retry(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        assert (await job.pause("lunch")).state == "PAUSED"
        assert (await job.resume()).state == "PENDING"
        await job.signal("go", {"a": 1}, request_id="s1")
        assert await job.retry() is job
        await fake.finish(job.id, state=tasks_pb2.FAILED)
        again = await job.retry(discard_steps=True, request_id="r1")
    assert again.id != job.id and again.task is not None and again.task.retry_of == job.id
    [pause], [signal] = fake.methods("PauseTask"), fake.methods("SignalTask")
    assert (pause.name, pause.reason) == (job.name, "lunch")
    assert (signal.signal, signal.payload.inline, signal.request_id) == ("go", b'{"a":1}', "s1")
    asked = fake.methods("RetryTask")
    assert asked[0].request_id and [(r.request_id, r.discard_steps) for r in asked[1:]] == [("r1", True)]


async def test_a_large_signal_travels_as_a_blob(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await job.signal("go", b"x" * 300_000)
        with pytest.raises(InvalidRequest, match="not a JSON value"):
            await job.signal("go", object())
    [request] = fake.methods("SignalTask")
    assert fake.blobs[request.payload.blob.sha256] == b"x" * 300_000


def too_large(field: str, limit: int) -> Fault:
    told = [(f"{field}.inline", f"the limit is {limit}")]
    metadata = {f"{field}.inline.max": str(limit)}
    code = grpc.StatusCode.INVALID_ARGUMENT
    return Fault(code, reason="BAD_FIELD", violations=told, metadata=metadata)


async def test_a_cluster_that_allows_less_inline_gets_blobs(fake: FakeCluster) -> None:
    payload = b"x" * 5_000
    async with client_of(fake) as client:
        refusals: list[Fault | None] = [too_large("task.payload", 4_096)]
        for node in fake.nodes:
            node.entry_faults = refusals
        first = await client.submit_task(type="echo", payload=payload)
        second = await client.submit_task(type="echo", payload=payload)
        small = await client.submit_task(type="echo", payload=b"x" * 4_096)
        asked = [entry.task.payload for call in fake.methods("BatchSubmitTasks") for entry in call.requests]
        assert [len(one.inline) for one in asked] == [5_000, 0, 0, 4_096], "the limit is remembered"
        assert {one.blob.size_bytes for one in asked[1:3]} == {5_000}
        assert len({first.id, second.id, small.id}) == 3
        once = [too_large("payload", 1_000)]
        for node in fake.nodes:
            node.faults["SignalTask"] = once
        await small.signal("go", b"x" * 2_000)
        asked = [request.payload for request in fake.methods("SignalTask")]
    assert [(len(one.inline), one.blob.size_bytes) for one in asked] == [(2_000, 0), (0, 2_000)]


async def test_what_is_wrong_besides_the_size_is_told(fake: FakeCluster) -> None:
    fault = too_large("task.payload", 100)
    fault.violations.append(("task.key", "is too long"))
    for node in fake.nodes:
        node.entry_faults = [fault]
    async with client_of(fake) as client:
        with pytest.raises(InvalidRequest, match="too long"):
            await client.submit_task(type="echo", payload=b"x" * 200)


@pytest.mark.parametrize("call", ["cancel", "pause", "resume", "signal", "retry"])
async def test_a_lost_answer_is_asked_for_under_the_same_id(fake: FakeCluster, call: str) -> None:
    method = f"{call.capitalize()}Task"
    for node in fake.nodes:
        node.faults[method] = [Fault()]
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        said = ["go"] if call == "signal" else []
        await getattr(job, call)(*said)
        asked = fake.methods(method)
        assert len(asked) == 4 and len({request.request_id for request in asked}) == 1
        assert asked[0].request_id, "an id of its own"
        job = await client.submit_task(type="echo")
        await getattr(job, call)(*said, request_id="mine")
    assert fake.methods(method)[-1].request_id == "mine"


async def test_dead_letters_are_listed_shown_replayed_and_purged(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        jobs = await client.submit_tasks([{"type": "echo"} for _ in range(3)])
        for job in jobs:
            await fake.finish(job.id, state=tasks_pb2.DEAD_LETTERED)
        ids = [task.id async for task in client.dead_letters.list(page_size=2)]
        assert ids == [job.id for job in reversed(jobs)]
        assert [task.id async for task in client.dead_letters.list(limit=1)] == ids[:1]
        assert (await client.dead_letters.get(ids[0])).state == "DEAD_LETTERED"
        again = await client.dead_letters.replay(ids[0], request_id="r1")
        assert again.task is not None and again.task.retry_of == ids[0]
        assert await client.dead_letters.purge(ids[:2]) == 2
        moment = datetime(2030, 1, 2, tzinfo=UTC)
        assert await client.dead_letters.purge(before=moment) == 3
        with pytest.raises(InvalidRequest, match="time zone"):
            await client.dead_letters.purge(before=datetime(2030, 1, 2))
    by_name, by_time = fake.methods("PurgeDeadLetters")
    assert list(by_name.names) == [f"tenants/default/tasks/{one}" for one in ids[:2]]
    assert by_time.before.ToDatetime(UTC) == moment and not by_time.names


async def test_what_a_lost_answer_hid_is_no_error_of_the_next_try(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        await client.limits.set(Limit(id="search", concurrent=2))
        planned = [Fault(after=True)]
        for node in fake.nodes:
            node.faults["DeleteLimit"] = planned
        await client.limits.remove("search")
        assert len(fake.methods("DeleteLimit")) == 2 and not fake.limits
        with pytest.raises(NotFound):
            await client.limits.remove("search")


async def test_limits_and_tenants(fake: FakeCluster) -> None:
    limit = Limit(id="search", type="search", key="*", concurrent=2, rate=100, period="1m", burst=5)
    async with client_of(fake) as client:
        assert await client.limits.set(limit) == Limit.of(fake.limits["search"])
        [found] = await client.limits.list()
        assert (found.period, found.rate, found.concurrent, found.burst, found.key) == (60, 100, 2, 5, "*")
        with pytest.raises(InvalidRequest, match="period"):
            await client.limits.set(Limit(id="x", rate=1, period="soon"))
        await client.limits.remove("search")
        assert await client.limits.list() == []
        assert await client.limits.set_tenant(Tenant("acme", 3, 50)) == Tenant("acme", 3, 50)
        assert await client.limits.tenants() == [Tenant("acme", 3, 50)]


async def test_a_tenant_over_its_share_is_a_full_queue(fake: FakeCluster) -> None:
    full = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "50 tasks", reason="TENANT_QUOTA", retry_after=0.01)
    fake.nodes[0].entry_faults = [full, full, None]
    async with client_of(fake, fake.nodes[0]) as client:
        with pytest.raises(QueueFull) as refused:
            await client.submit_task(type="echo")
        assert refused.value.retry_after == 0.01
        assert (await client.submit_task(type="echo", wait_when_full=True)).id


async def test_the_blocking_mirror(fake: FakeCluster) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        with sync.Cluster([node.address for node in fake.nodes], timeouts=PATIENT) as client:
            job = client.submit_task(type="echo")
            assert job.pause().state == "PAUSED" and job.resume().state == "PENDING"
            assert job.signal("go", 1).state == "PENDING"
            ended = fake.finish(job.id, state=tasks_pb2.DEAD_LETTERED)
            asyncio.run_coroutine_threadsafe(ended, loop).result()
            assert [task.id for task in client.dead_letters.list()] == [job.id]
            assert client.dead_letters.get(job.id).id == job.id
            runs = [job.retry(), client.dead_letters.replay(job.id)]
            assert all(run.task is not None and run.task.retry_of == job.id for run in runs)
            assert client.dead_letters.purge([job.id]) == 1
            client.limits.set(Limit(id="a", concurrent=1))
            assert [limit.id for limit in client.limits.list()] == ["a"]
            client.limits.remove("a")
            client.limits.set_tenant(Tenant("t"))
            assert client.limits.tenants() == [Tenant("t")]

    await asyncio.to_thread(work)


@pytest.mark.parametrize("pair", [(DeadLetters, "DeadLetters"), (Limits, "Limits")])
def test_the_mirror_has_every_method(pair: tuple[type, str]) -> None:
    theirs, ours = pair[0], getattr(sync_queueing, pair[1])
    assert [n for n in vars(theirs) if n[0] != "_"] == [n for n in vars(ours) if n[0] != "_"]


def test_what_a_task_belongs_to_and_how_it_is_retried() -> None:
    retry = {"max_attempts": 5, "initial_backoff": "1s", "max_backoff": 60, "dead_letter": True}
    spec = TaskSpec(type="a", key="k", agent="g", parent="p", retry={**retry, "non_retryable": ["BAD"]})
    task = prepare(spec, "default").request.task
    assert (task.key, task.agent, task.parent_task) == ("k", "g", "p")
    made = (task.retry.max_attempts, task.retry.initial_backoff_ms, task.retry.max_backoff_ms)
    assert made == (5, 1_000, 60_000)
    assert task.retry.dead_letter and list(task.retry.non_retryable) == ["BAD"]


def test_every_mistake_in_them_is_named_at_once() -> None:
    wrong: Any = {
        "attempts": 1,
        "max_attempts": 0,
        "non_retryable": "BAD",
        "dead_letter": 1,
        "max_backoff": "x",
    }
    spec: Any = {"key": 1, "agent": None, "retry": wrong}
    with pytest.raises(InvalidRequest) as refused:
        prepare(TaskSpec(type="a", **spec), "default")
    fields = {field for field, _ in refused.value.violations}
    assert fields == {"key", "agent", *(f"retry.{name}" for name in wrong)}
