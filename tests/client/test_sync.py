"""The blocking mirror: the same cluster, from plain threads."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from coterie import client as asynchronous
from coterie.client import (
    ClusterClosed,
    InvalidRequest,
    SubmitErrors,
    Timeouts,
    Unavailable,
    WaitTimeout,
    skip,
    sync,
)
from coterie.client.sync_job import LoopThread
from tests.client.conftest import PATIENT
from tests.client.fake import FakeCluster, Fault

JOIN_S = 20.0  # a thread that ends does so at once


def plain(fake: FakeCluster, **arguments: Any) -> sync.Cluster:
    return sync.Cluster([node.address for node in fake.nodes], **{"timeouts": PATIENT, **arguments})


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("coterie-client")}


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


async def test_submit_wait_watch_list_and_status(fake: FakeCluster) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        with plain(fake) as client:
            job = client.submit_task(type="echo", payload={"a": 1})
            others = client.submit_tasks([{"type": "echo"}, {"type": "echo"}])
            asyncio.run_coroutine_threadsafe(fake.finish(job.id, [1, 2]), loop).result()
            assert job.wait(timeout="30s") == [1, 2] == job.result() == client.job(job.id).wait()
            assert [event.type for event in job.watch()] == ["submitted", "succeeded"]
            for _ in client.job(others[0].id).watch():
                break
            assert others[0].cancel("no").state == "CANCELLED"
            with pytest.raises(WaitTimeout):
                others[1].wait(timeout=0.05)
            assert [task.id for task in client.list_tasks(page_size=2)] == ["t3", "t2", "t1"]
            assert client.get_status().leader == "n1"
            assert [node.id for node in client.list_nodes()] == ["n1", "n2", "n3"]
            assert client.drain_node("n1").state == "DRAINING"
            assert client.undrain_node("n1").state == "ACTIVE"
            assert client.transfer_leadership() == "n2"
            assert job.task is not None and job.task.done and len(client.endpoints) == 3
        with pytest.raises(ClusterClosed):
            job.get()
        with pytest.raises(ClusterClosed):
            client.get_status()

    await in_thread(work)
    assert threads() == set()


async def test_refused_entries_come_with_blocking_jobs(fake: FakeCluster) -> None:
    def work() -> None:
        with plain(fake) as client, pytest.raises(SubmitErrors) as refused:
            client.submit_tasks([{"type": "a"}, {}])
        [job, none] = refused.value.jobs
        assert isinstance(job, sync.Job) and none is None

    await in_thread(work)


async def test_errors_pass_and_the_thread_ends(fake: FakeCluster) -> None:
    for node in fake.nodes:
        await node.stop()

    def work() -> None:
        with plain(fake, timeouts=Timeouts(call=0.3)) as client, pytest.raises(Unavailable):
            client.get_status()

    await in_thread(work)
    assert threads() == set()


def outcome_of(work: Callable[[], Any], outcomes: list[Any]) -> threading.Thread:
    """A thread that notes what `work` returned or raised."""

    def noted() -> None:
        try:
            outcomes.append(work())
        except Exception as error:
            outcomes.append(type(error))

    thread = threading.Thread(target=noted, daemon=True)
    thread.start()
    return thread


async def test_closing_ends_what_other_threads_wait_for(fake: FakeCluster) -> None:
    loop = asyncio.get_running_loop()
    busy = Fault(reason="NO_LEADER", retry_after=10.0)
    full = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="RATE_LIMITED", retry_after=10.0)
    for node in fake.nodes:
        node.faults["GetStatus"], node.faults["TakeTokens"] = [busy] * 9, [full] * 9

    def seen(*methods: str) -> bool:
        return all(fake.methods(method) for method in methods)

    def work() -> None:
        outcomes: list[Any] = []
        client = plain(fake).__enter__()
        job = client.submit_task(type="echo")
        calls: list[Callable[[], Any]] = [
            client.get_status,
            lambda: client.limits.take("search", timeout=60),
            job.wait,
            lambda: [event.type for event in job.watch()],
        ]
        started = [outcome_of(call, outcomes) for call in calls]
        told = fake.until(lambda: seen("GetStatus", "TakeTokens", "WaitTasks.names", "WatchTask"))
        asyncio.run_coroutine_threadsafe(told, loop).result()
        client.close()
        for thread in started:
            thread.join(JOIN_S)
        assert not any(thread.is_alive() for thread in started)
        assert outcomes == [ClusterClosed] * 4
        with pytest.raises(ClusterClosed):
            client.get_status()
        client.close()

    await in_thread(work)
    assert threads() == set()


def test_work_handed_in_while_the_loop_ends_ends_too() -> None:
    for _ in range(20):
        thread, outcomes = LoopThread(), list[Any]()

        def hand_in(thread: LoopThread = thread) -> None:
            while True:
                thread.run(asyncio.sleep(0))

        def linger(thread: LoopThread = thread) -> None:
            thread.run(asyncio.sleep(3600))

        workers = [outcome_of(work, outcomes) for work in (hand_in, hand_in, hand_in, linger)]
        thread.run(asyncio.sleep(0))
        thread.stop()
        for worker in workers:
            worker.join(JOIN_S)
        assert outcomes == [ClusterClosed] * 4
    assert threads() == set()


async def test_many_threads_share_a_client(fake: FakeCluster) -> None:
    def work() -> None:
        with plain(fake) as client:
            jobs: list[sync.Job] = []
            workers = [
                threading.Thread(target=lambda: jobs.append(client.submit_task(type="echo")))
                for _ in range(20)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            assert len({job.id for job in jobs}) == 20

    await in_thread(work)


async def test_a_callback_that_calls_the_cluster_is_told_why_not(
    fake: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        with plain(fake) as client:
            job = client.submit_task(type="echo", on_progress=lambda _: print(client.get_status()))
            asyncio.run_coroutine_threadsafe(fake.tell(job.id, "progress", percent=1), loop).result()
            asyncio.run_coroutine_threadsafe(fake.finish(job.id, "end"), loop).result()
            assert job.wait() == "end"

    await in_thread(work)
    assert "must not call the Cluster" in caplog.text


async def test_many_documents_are_one_task(fake: FakeCluster) -> None:
    loop = asyncio.get_running_loop()
    done = {"result": [2, 3], "documents": 2, "failed": []}

    def work() -> None:
        with plain(fake) as client:
            half = skip(percent=50)
            job = sync.start_map_reduce(client, iter([1, 2, 3]), map="echo", on_map_failure=half)
            payload = json.loads(fake.tasks[job.id].payload.inline)
            assert (payload["map"], payload["failures_max"]) == ("echo", 1)
            [batch] = payload["batches"]
            assert fake.blobs[batch["sha256"]] == b"1\n2\n3"
            asyncio.run_coroutine_threadsafe(fake.finish(job.id, done), loop).result()
            again = sync.map_reduce(
                client, [1, 2, 3], map="echo", on_map_failure=half, request_id=job.request_id
            )
            assert again == asynchronous.MapReduceResult([2, 3], 2)
            for wrong in ({}, {"max": 1, "percent": 2}, {"max": -1}, {"percent": 101}, {"max": True}):
                with pytest.raises(InvalidRequest):
                    skip(**wrong)

    await in_thread(work)


def test_wrong_arguments_start_no_thread() -> None:
    with pytest.raises(asynchronous.ConfigError):
        sync.Cluster("nonsense")
    assert threads() == set()


def public(cls: type) -> dict[str, list[str]]:
    """The parameters of each public method."""
    members = inspect.getmembers(cls, inspect.isfunction)
    return {
        key: list(inspect.signature(function).parameters)
        for key, function in members
        if not key.startswith("_") or key == "__init__"
    }


@pytest.mark.parametrize("name", ["Cluster", "Job"])
def test_the_mirror_offers_every_public_method(name: str) -> None:
    theirs, ours = public(getattr(asynchronous, name)), public(getattr(sync, name))
    if name == "Job":
        del theirs["__init__"], ours["__init__"]
        del theirs["follow"]  # Wired up by submit_task(on_progress=...).
    assert ours == theirs


def test_the_mirror_offers_every_service_with_all_its_methods() -> None:
    theirs, ours = asynchronous.Cluster("127.0.0.1:1"), sync.Cluster("127.0.0.1:1")
    services = {name for name in vars(ours) if not name.startswith("_")}
    assert len(services) > 15
    for name in services:
        wanted, found = public(type(getattr(theirs, name))), public(type(getattr(ours, name)))
        del wanted["__init__"], found["__init__"]
        assert found == wanted, name
