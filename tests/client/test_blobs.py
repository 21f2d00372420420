"""Large payloads and results travel beside the task, and arrive as they were."""

from __future__ import annotations

import hashlib
import json
import secrets

import grpc
import pytest

from coterie.client import DataLoss, InvalidRequest
from coterie.client.spec import INLINE_BYTES_MAX
from coterie.v1 import tasks_pb2
from tests.client.conftest import client_of
from tests.client.fake import FakeCluster, Fault


async def test_a_large_payload_is_put_first_and_then_named(fake: FakeCluster) -> None:
    payload = {"text": secrets.token_hex(1_300_000)}
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo", payload=payload)
    data = fake.tasks[job.id].payload
    assert not data.inline
    assert json.loads(fake.blobs[data.blob.sha256]) == payload
    assert data.blob.size_bytes == len(fake.blobs[data.blob.sha256])
    assert [method for _, method, _ in fake.calls] == ["PutBlob", "BatchSubmitTasks"]


@pytest.mark.parametrize(("size", "blobs"), [(INLINE_BYTES_MAX, 0), (INLINE_BYTES_MAX + 1, 1)])
async def test_the_limit_is_exact(fake: FakeCluster, size: int, blobs: int) -> None:
    async with client_of(fake) as client:
        await client.submit_task(type="echo", payload=b"x" * size)
    assert len(fake.blobs) == blobs


async def test_a_lost_put_is_repeated(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.faults["PutBlob"] = [Fault(after=True)]
    async with client_of(fake) as client:
        await client.submit_task(type="echo", payload=b"x" * 300_000)
    assert len(fake.methods("PutBlob")) == 4 and len(fake.blobs) == 1


async def test_a_refusal_that_got_lost_while_sending_is_asked_for_again(fake: FakeCluster) -> None:
    """gRPC's own words when the node ended the call and the client was still writing."""
    lost = Fault(grpc.StatusCode.INTERNAL, "Internal error from Core")
    for node in fake.nodes:
        node.faults["PutBlob"] = [lost, Fault(grpc.StatusCode.INVALID_ARGUMENT, "no", "BLOB_TOO_LARGE")]
    async with client_of(fake) as client:
        with pytest.raises(InvalidRequest, match="BLOB_TOO_LARGE"):
            await client.submit_task(type="echo", payload=b"x" * 300_000)
    for node in fake.nodes:
        node.faults["PutBlob"] = [lost, Fault(grpc.StatusCode.INVALID_ARGUMENT, "no", "BLOB_MISMATCH")]
    async with client_of(fake) as client:
        await client.submit_task(type="echo", payload=b"x" * 300_000)
    assert len(fake.blobs) == 1, "what the node would take after all is sent again"


async def finished_with_blob(fake: FakeCluster, task_id: str, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    fake.blobs[digest] = data
    fake.tasks[task_id].result.blob.CopyFrom(tasks_pb2.BlobRef(sha256=digest, size_bytes=len(data)))
    await fake.finish(task_id)


async def test_a_large_result_is_fetched_and_decoded(fake: FakeCluster) -> None:
    result = {"text": "y" * 3_000_000}
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await finished_with_blob(fake, job.id, json.dumps(result).encode())
        for node in fake.nodes[:2]:
            node.faults["GetBlob"] = [Fault(grpc.StatusCode.UNAVAILABLE)]
        assert await job.wait() == result
        assert await client.job(job.id).result() == result


@pytest.mark.parametrize("damage", [b"other bytes", b"much longer than the reference says"])
async def test_damage_is_noticed(fake: FakeCluster, damage: bytes) -> None:
    async with client_of(fake) as client:
        job = await client.submit_task(type="echo")
        await finished_with_blob(fake, job.id, b"right bytes")
        for digest in fake.blobs:
            fake.blobs[digest] = damage
        with pytest.raises(DataLoss):
            await job.wait()
    assert len(fake.methods("GetBlob")) == 3
