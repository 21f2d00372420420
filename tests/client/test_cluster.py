"""Everything else a Cluster does: status, nodes, lists, discovery, and who is asked."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest

from coterie.client import (
    Aborted,
    AlreadyExists,
    Cluster,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Timeouts,
    Unavailable,
    WaitTimeout,
)
from coterie.v1 import cluster_pb2, tasks_pb2
from tests.client.conftest import PATIENT, client_of
from tests.client.fake import FakeCluster, Fault


async def test_status_and_nodes(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        status = await client.get_status()
        nodes = await client.list_nodes()
    assert (status.leader, status.active_nodes, status.tasks_by_state) == ("n1", 3, {"PENDING": 1})
    assert [(node.id, node.state) for node in nodes] == [("n1", "ACTIVE"), ("n2", "ACTIVE"), ("n3", "ACTIVE")]
    assert status.nodes == tuple(nodes) and status.raw.cluster_name == "fake"


async def test_operations_take_a_node_or_its_id(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        [first, *_] = await client.list_nodes()
        assert (await client.drain_node(first, deadline="5m")).state == "DRAINING"
        assert (await client.undrain_node("n1")).state == "ACTIVE"
        assert await client.transfer_leadership() == "n2"
        assert await client.transfer_leadership(first) == "n1"
        for wrong in ("", 7):
            with pytest.raises(InvalidRequest, match="node"):
                await client.drain_node(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="deadline"):
            await client.drain_node("n1", deadline="soon")
    [drain] = fake.methods("DrainNode")
    assert (drain.node_id, drain.deadline_ms) == ("n1", 300_000) and drain.request_id


async def test_members_come_and_go(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        added = await client.add_node("n4", "127.0.0.1:9")
        assert (added.id, added.address, added.role) == ("n4", "127.0.0.1:9", "RUNNER")
        assert (await client.promote_node("n4")).role == "VOTER"
        assert (await client.move_node("n4", "127.0.0.1:8")).address == "127.0.0.1:8"
        await client.remove_node("n4", deadline="5m")
        with pytest.raises(InvalidRequest, match="node"):
            await client.remove_node("")
    asked = fake.methods("RemoveNode")
    assert [(request.node_id, request.deadline_ms) for request in asked] == [("n4", 300_000)] * 3


async def test_a_removal_that_the_leader_finished_between_two_looks_is_done(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        for node in fake.nodes:
            node.faults["RemoveNode"] = [Fault(grpc.StatusCode.NOT_FOUND)]
        with pytest.raises(NotFound):
            await client.remove_node("n5")
        for node in fake.nodes:
            node.faults["RemoveNode"] = []
        removing = asyncio.create_task(client.remove_node("n5"))
        while not fake.methods("RemoveNode")[1:]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for node in fake.nodes:
            node.faults["RemoveNode"] = [Fault(grpc.StatusCode.NOT_FOUND)]
        await removing


async def test_a_removal_that_somebody_calls_off_is_not_begun_again(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        leaving = cluster_pb2.Node(node_id="n4", state=cluster_pb2.DRAINING, leaving=True)
        for node in fake.nodes:
            node.advertised = [leaving]
        removing = asyncio.create_task(client.remove_node("n4"))
        while not fake.methods("RemoveNode"):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        leaving.leaving = False
        with pytest.raises(Aborted, match="called off"):
            await removing
    assert len(fake.methods("RemoveNode")) == 1


async def test_a_member_that_is_gone_when_it_is_asked_again_was_removed(fake: FakeCluster) -> None:
    """The answer to the first call was lost with the leader that had made the change."""
    for node in fake.nodes:
        node.faults["RemoveNode"] = [Fault(grpc.StatusCode.NOT_FOUND)]
    async with client_of(fake) as client:
        await client.remove_node("n1")


async def test_waiting_for_a_removal_ends_when_told(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.faults["RemoveNode"] = [Fault(hang=True)] * 9
    async with client_of(fake) as client:
        with pytest.raises(WaitTimeout, match="it goes on"):
            await client.remove_node("n5", timeout=0.2)


async def test_a_target_node_may_be_positional(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        [first, *_] = await client.list_nodes()
        jobs = [await client.submit_task(node, type="echo") for node in (first, "n1", None)]
    assert [fake.tasks[job.id].constraints.target_node for job in jobs] == ["n1", "n1", ""]


async def test_lists_are_paged_as_they_are_read(fake: FakeCluster) -> None:
    async with client_of(fake, tenant="acme") as client:
        await client.submit_tasks([{"type": "echo"} for _ in range(25)])
        everything = [task.id async for task in client.list_tasks(filter="state=PENDING", page_size=10)]
        some = [task.id async for task in client.list_tasks(page_size=10, limit=12)]
        none = [task.id async for task in client.list_tasks(limit=0)]
        with pytest.raises(InvalidRequest, match="page_size"):
            await anext(client.list_tasks(page_size=0))
    newest_first = [f"t{number}" for number in range(25, 0, -1)]
    assert (everything, some, none) == (newest_first, newest_first[:12], [])
    pages = fake.methods("ListTasks")
    assert [page.page_token for page in pages] == ["", "10", "20", "", "10"]
    assert {page.parent for page in pages} == {"tenants/acme"} and pages[0].filter == "state=PENDING"


async def test_a_job_from_elsewhere_is_read_with_its_id_or_name(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        made = await client.submit_task(type="echo", labels={"team": "x"})
        fake.tasks[made.id].steps.add(name="fetch", attempt=1)
        for handle in (client.job(made.id), client.job(made.name)):
            assert handle.task is None
            info = await handle.get(include_steps=True)
            assert (info.id, info.state, info.labels, info.done) == (made.id, "PENDING", {"team": "x"}, False)
            assert [step.name for step in info.steps] == ["fetch"]
            with pytest.raises(asyncio.InvalidStateError):
                await handle.result()
        with pytest.raises(InvalidRequest):
            client.job("")


async def test_states_of_newer_nodes_are_no_error(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        fake.tasks[job.id].state = 77  # type: ignore[assignment]
        info = await job.get()
    assert (info.state, info.done) == ("UNKNOWN_77", False)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(grpc.StatusCode.PERMISSION_DENIED, "role viewer"), PermissionDenied),
        (Fault(grpc.StatusCode.UNAUTHENTICATED, "who are you"), PermissionDenied),
        (Fault(grpc.StatusCode.ALREADY_EXISTS, "taken", reason="TASK_EXISTS"), AlreadyExists),
    ],
)
async def test_final_errors_are_not_repeated(fake: FakeCluster, fault: Fault, error: type[Exception]) -> None:
    for node in fake.nodes:
        node.faults["GetStatus"] = [fault]
    async with client_of(fake) as client:
        with pytest.raises(error, match=fault.message):
            await client.get_status()
    assert len(fake.calls) == 1


async def test_calls_go_round_the_nodes_that_answer(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        for _ in range(30):
            await client.get_status()
        assert Counter(name for name, _, _ in fake.calls) == {"n1": 10, "n2": 10, "n3": 10}
        await fake.nodes[0].stop()
        fake.calls.clear()
        for _ in range(10):
            await client.get_status()
        assert Counter(name for name, _, _ in fake.calls).keys() == {"n2", "n3"}


async def test_a_stopped_node_costs_one_attempt_and_is_then_left_alone(fake: FakeCluster) -> None:
    fake.nodes[1].deaf = True
    async with client_of(fake, timeouts=Timeouts(attempt=6.0)) as client:
        for _ in range(12):
            await client.get_status()
    assert Counter(name for name, _, _ in fake.calls)["n2"] == 1


async def test_members_are_discovered_from_one_endpoint(fake: FakeCluster) -> None:
    one = fake.nodes[0]
    async with client_of(fake, one, auto_discovery=True, timeouts=Timeouts(discovery=0.05)) as client:
        await fake.until(lambda: {name for name, _, _ in fake.calls} == {"n1", "n2", "n3"})
        assert set(client.endpoints) == {node.address for node in fake.nodes}
        # The given node dies; the discovered ones carry on.
        await one.stop()
        await client.submit_task(type="echo")
        # A member leaves; a wildcard and a drained one are advertised.
        survivor = fake.nodes[1]
        members = [
            cluster_pb2.Node(node_id="n2", address=survivor.address, state=cluster_pb2.ACTIVE),
            cluster_pb2.Node(node_id="n9", address="0.0.0.0:8080", state=cluster_pb2.ACTIVE),
            cluster_pb2.Node(node_id="n8", address="10.1.2.3:8080", state=cluster_pb2.ACTIVE),
            cluster_pb2.Node(node_id="n7", address="nonsense", state=cluster_pb2.ACTIVE),
        ]
        for node in fake.nodes:
            node.advertised = members
        while set(client.endpoints) != {one.address, survivor.address}:
            asked = len(fake.calls)
            await fake.until(lambda asked=asked: len(fake.calls) > asked)


async def test_a_draining_member_is_asked_last(fake: FakeCluster) -> None:
    members = [
        cluster_pb2.Node(
            node_id=node.name,
            address=node.address,
            state=cluster_pb2.DRAINING if node.name == "n3" else cluster_pb2.ACTIVE,
        )
        for node in fake.nodes
    ]
    for node in fake.nodes:
        node.advertised = members
    async with client_of(fake, auto_discovery=True) as client:
        await fake.until(lambda: fake.methods("ListNodes"))
        await client.list_nodes()
        fake.calls.clear()
        for _ in range(12):
            await client.get_status()
    assert {name for name, _, _ in fake.calls} == {"n1", "n2"}


async def test_a_timeout_bounds_one_call(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.deaf = True
    async with client_of(fake) as client:
        with pytest.raises(Unavailable):
            await client.get_status(timeout="300ms")
        with pytest.raises(Unavailable):
            await client.list_nodes(timeout=0.3)
        with pytest.raises(Unavailable):
            await client.job("t1").get(timeout=0.3)


async def test_no_leader_for_a_while_is_a_pause(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.faults["GetStatus"] = [Fault(reason="NO_LEADER", retry_after=0.02)] * 3
    async with client_of(fake) as client:
        assert (await client.get_status()).leader == "n1"
    assert len(fake.calls) == 10


async def test_opening_twice_is_refused(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        with pytest.raises(Exception, match="open already"):
            await client.__aenter__()
        assert (await client.get_status()).has_quorum


async def test_a_cluster_can_be_opened_again_after_closing(fake: FakeCluster) -> None:
    client = Cluster(fake.nodes[0].address, timeouts=PATIENT)
    for _ in range(2):
        async with client:
            assert (await client.get_status()).served_by


async def test_priority_and_limits_reach_the_node(fake: FakeCluster) -> None:
    async with client_of(fake, tenant="acme") as client:
        job = await client.submit_task(
            type="map",
            payload={"a": 1},
            priority="high",
            timeout="10m",
            deadline=3600,
            checkpoint=False,
            max_attempts=4,
            task_id="chosen",
            labels={"k": "v"},
            constraints={"requireGPU": True, "preferZone": "a", "labels": {"gpu": "1"}},
            start_delay="500ms",
        )
    task = fake.tasks["chosen"]
    assert job.name == "tenants/acme/tasks/chosen"
    assert (task.priority, task.attempt_timeout_ms, task.deadline_ms) == (tasks_pb2.HIGH, 600_000, 3_600_000)
    assert (task.no_checkpoint, task.max_attempts, task.start_delay_ms) == (True, 4, 500)
    assert task.constraints.require_gpu and task.constraints.prefer_zone == "a"
    assert dict(task.constraints.labels) == {"gpu": "1"} and dict(task.labels) == {"k": "v"}
