"""Payloads and results above the inline limit: sent and fetched beside the log, checked by hash."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio

from coterie.client.caller import Caller
from coterie.client.endpoints import Endpoint
from coterie.client.errors import DataLoss, InvalidRequest, Unavailable
from coterie.client.rpc_errors import decode_rpc_error, invalid
from coterie.v1 import tasks_pb2

CHUNK_BYTES = 1024 * 1024
BLOB_BYTES_MAX = 1024 * 1024 * 1024
_SECONDS_PER_MIB = 1.0
_DAMAGED_TRIES_MAX = 3


class _Damaged(Exception):
    """The bytes that arrived are not those that the reference names."""


@dataclass(slots=True)
class Blobs:
    """Puts and gets content-addressed blobs on any node."""

    caller: Caller

    async def put(self, data: bytes) -> tasks_pb2.BlobRef:
        """Stores the bytes on a majority of nodes; returns the reference for a task's payload."""
        if len(data) > BLOB_BYTES_MAX:
            raise _too_large(len(data))
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        ref = tasks_pb2.BlobRef(sha256=digest, size_bytes=len(data))

        async def attempt(endpoint: Endpoint, timeout: float) -> tasks_pb2.BlobRef:
            try:
                return await endpoint.blobs.PutBlob(_chunks(ref, data), timeout=timeout)
            except grpc.aio.AioRpcError as error:
                if not _answer_lost(error):
                    raise
            return await _answer_without_data(endpoint, ref, timeout)

        # Storing the same bytes again is harmless: the hash is the key.
        return await self.caller.run(attempt, attempt_timeout=self._patience(len(data)))

    async def get(self, ref: tasks_pb2.BlobRef, task: str = "") -> bytes:
        """The bytes of a blob, verified. `task` refers to it: a caller of one tenant has to name
        it. Raises NotFound, or DataLoss when no node has them undamaged."""

        async def attempt(endpoint: Endpoint, timeout: float) -> bytes:
            return await _fetch(endpoint, ref, task, timeout)

        for _ in range(_DAMAGED_TRIES_MAX):
            try:
                return await self.caller.run(attempt, attempt_timeout=self._patience(ref.size_bytes))
            except _Damaged:
                continue
        raise DataLoss(f"blob {ref.sha256} arrived damaged {_DAMAGED_TRIES_MAX} times")

    async def read(self, data: tasks_pb2.Data, task: str) -> bytes:
        """The bytes of a payload, checkpoint or result of the task, wherever they are."""
        if data.HasField("blob") and data.blob.sha256:
            return await self.get(data.blob, task)
        return data.inline

    def _patience(self, size_bytes: int) -> float:
        return self.caller.timeouts.attempt + _SECONDS_PER_MIB * size_bytes / CHUNK_BYTES


async def _chunks(ref: tasks_pb2.BlobRef, data: bytes) -> AsyncIterator[tasks_pb2.BlobChunk]:
    yield tasks_pb2.BlobChunk(ref=ref)
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        yield tasks_pb2.BlobChunk(data=bytes(view[start : start + CHUNK_BYTES]))


def _answer_lost(error: grpc.aio.AioRpcError) -> bool:
    """A node that refuses ends the call while data is on its way to it. The library then fails in writing,
    and may not have read why."""
    return error.code() is grpc.StatusCode.INTERNAL and "Internal error from Core" in (error.details() or "")


async def _answer_without_data(
    endpoint: Endpoint, ref: tasks_pb2.BlobRef, timeout: float
) -> tasks_pb2.BlobRef:
    """The refusal, asked for anew with nothing to be cut off. Raises Unavailable when the node misses only
    the data: then it may be sent again."""
    try:
        return await endpoint.blobs.PutBlob(_chunks(ref, b""), timeout=timeout)
    except grpc.aio.AioRpcError as error:
        if decode_rpc_error(error).reason != "BLOB_MISMATCH":
            raise
    raise Unavailable("the node ended the call while the blob was being sent", code="UNAVAILABLE")


async def _fetch(endpoint: Endpoint, ref: tasks_pb2.BlobRef, task: str, timeout: float) -> bytes:
    parts = bytearray()
    call = endpoint.blobs.GetBlob(tasks_pb2.GetBlobRequest(sha256=ref.sha256, task=task), timeout=timeout)
    try:
        async for chunk in call:
            parts += chunk.data
            if len(parts) > ref.size_bytes:
                raise _Damaged
    finally:
        call.cancel()
    data = bytes(parts)
    digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
    if len(data) != ref.size_bytes or digest != ref.sha256:
        raise _Damaged
    return data


def _too_large(size_bytes: int) -> InvalidRequest:
    return invalid([("payload", f"{size_bytes} bytes: at most {BLOB_BYTES_MAX} can be sent")])
