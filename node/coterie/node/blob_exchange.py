"""Blobs across nodes: on a majority before anything refers to them, fetched from a peer when missing here."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from coterie.client.rpc_errors import decode_rpc_error
from coterie.core.nouns import NO_DATA, Data
from coterie.node.blob_errors import BlobDamaged, BlobMismatch, BlobNotFound, check_content, too_much
from coterie.node.blobs import BlobStore
from coterie.node.errors import DISK_FULL_RETRY_MS, ApiError, Violation, invalid, not_found
from coterie.node.links import PeerChannels, outliving
from coterie.node.observability import get_logger
from coterie.v1 import tasks_pb2

log = get_logger(__name__)

CHUNK_BYTES = 1 << 20
COPY_TIMEOUT_S = 30.0  # without a message from whoever sends; to store a blob, beside the time for its bytes
COPY_BYTES_PER_S = 1 << 20  # at least, to all peers together
LOOK_TIMEOUT_S = 5.0
QUOTA = "BLOB_QUOTA"  # what a peer says whose blobs would take too much
SECURED_MAX = 10_000  # blobs remembered to be on a majority
SECURED_S = 300.0  # for so long; far less than an unused blob is kept (see collecting.py)


class BlobExchange:
    """Puts content on a majority and finds it again wherever it is."""

    def __init__(
        self,
        store: BlobStore,
        channels: PeerChannels,
        inline_max: int,
        voters: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._store, self._channels, self._inline_max = store, channels, inline_max
        self._voters = voters
        self._secured: dict[str, float] = {}  # until that monotonic time

    async def keep(self, content: bytes, inline_max: int | None = None) -> Data:
        """Content as Data: inline when small, else a blob on a majority of nodes. `inline_max`: in bytes,
        where less than usual may be inline."""
        if len(content) <= (self._inline_max if inline_max is None else min(inline_max, self._inline_max)):
            return Data(content) if content else NO_DATA
        digest = await self._store.put_bytes(content)
        await self.spread(digest, len(content))
        return Data(sha256=digest, size_bytes=len(content))

    async def load(self, data: Data) -> bytes:
        """The content of Data, from here or from a peer. Raises ApiError when no node has it."""
        if not data.sha256:
            return data.inline
        await self.ensure(data.sha256)
        try:
            return await self._store.get(data.sha256)
        except (BlobDamaged, BlobNotFound):
            # The store has put the bad file aside, so a sound copy of a peer can take its place.
            await self._fetch(data.sha256)
            return await self._store.get(data.sha256)

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        """The content in chunks, from here or from a peer; it is not stored here for that. Raises ApiError as
        `ensure` does, BlobDamaged where it is damaged here."""
        if await self._store.has(sha256):
            async for part in self._store.open_chunks(sha256, CHUNK_BYTES):
                yield part
            return
        silent, given = [], 0
        for peer in self._channels.peers:
            call = None
            try:
                with outliving(peer):
                    call = self._fetching(peer, sha256)
                    seen = 0  # of this peer; another one may have given a part before it failed
                    async for message in _steady(call):
                        part = message.data[max(0, given - seen) :]
                        seen += len(message.data)
                        given = max(given, seen)
                        if part:
                            yield part
                return
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                if not _lacks(error):
                    silent.append(peer)
            finally:
                if call is not None:
                    call.cancel()
        raise _nowhere(sha256, silent)

    async def ensure(self, sha256: str) -> None:
        """Make sure the blob is here. Raises ApiError: BLOB_NOT_FOUND when all nodes say so, NO_QUORUM when
        some cannot be asked."""
        if not await self._store.has(sha256):
            await self._fetch(sha256)

    async def secure(self, data: Data) -> None:
        """Before a command refers to a blob: it has that size and is on a majority, this node included.
        Raises ApiError."""
        await self.ensure(data.sha256)
        await self._store.touch(data.sha256)
        size = await self._store.size(data.sha256)
        if size != data.size_bytes:
            text = f"{data.size_bytes} is wrong: blob {data.sha256} has {size} bytes"
            raise invalid([Violation("task.payload.blob.size_bytes", text)])
        if self._secured.get(data.sha256, 0.0) < time.monotonic():
            await self.spread(data.sha256, size)

    async def preserve(self, sha256: str, size: int) -> None:
        """Make sure that a blob that is here is on a majority of the present voters. Raises ApiError."""
        peers = list(self._channels.peers)
        answers = await asyncio.gather(*(self._peer_has(peer, sha256) for peer in peers))
        having = {peer for peer, has in zip(peers, answers, strict=True) if has} | {self._channels.me}
        if not _majority(having, self._voters() or frozenset((self._channels.me, *peers))):
            await self.spread(sha256, size)

    async def _peer_has(self, peer: str, sha256: str) -> bool:
        """By the first message of its answer; the content is not waited for."""
        try:
            call = self._channels.stub(peer).FetchBlob(
                tasks_pb2.GetBlobRequest(sha256=sha256),
                metadata=self._channels.metadata,
                timeout=LOOK_TIMEOUT_S,
            )
        except grpc.aio.AioRpcError:
            return False
        try:
            with outliving(peer):
                return await anext(aiter(call), None) is not None
        except grpc.aio.AioRpcError:
            return False
        finally:
            call.cancel()

    async def spread(self, sha256: str, size: int) -> None:
        """Copy a blob that is here to enough peers for a majority of the voters. Raises ApiError when too few
        answer."""
        me, peers = self._channels.me, list(self._channels.peers)
        voters = self._voters() or frozenset((me, *peers))
        stored, errors = {me}, []
        full: set[str] = set()
        copies = [
            asyncio.create_task(self._copy(peer, sha256, size, full), name=f"blob-to-{peer}")
            for peer in peers
        ]
        try:
            for copy in asyncio.as_completed(copies):
                try:
                    stored.add(await copy)
                except (grpc.aio.AioRpcError, TimeoutError) as error:
                    errors.append(str(error)[:200])
                # Looked at here: an item that is drawn and not awaited would be warned about.
                if _majority(stored, voters):
                    break
        finally:
            await self._settle(copies, _majority(stored, voters))
        if not _majority(stored, voters):
            message = f"the blob is on {len(stored & voters)} of {len(voters)} voters: {'; '.join(errors)}"
            if not _majority(set(voters - full), voters):  # whoever else answers
                raise ApiError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, QUOTA, message, retry_after_ms=DISK_FULL_RETRY_MS
                )
            raise ApiError(grpc.StatusCode.UNAVAILABLE, "NO_QUORUM", message, retry_after_ms=500)
        self._secured[sha256] = time.monotonic() + SECURED_S
        if len(self._secured) > SECURED_MAX:
            del self._secured[next(iter(self._secured))]

    async def _settle(self, copies: list[asyncio.Task[str]], wait: bool) -> None:
        """Copies beyond the majority get a moment to end, then are cut off: the reader fetches instead."""
        if wait and copies:
            await asyncio.wait(copies, timeout=0.05)
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)

    async def _copy(self, peer: str, sha256: str, size: int, full: set[str]) -> str:
        """The peer, when it has the blob. One whose blobs would take too much is added to `full`."""
        patience_s = COPY_TIMEOUT_S + size * len(self._channels.peers) / COPY_BYTES_PER_S
        try:
            with outliving(peer):
                await self._channels.stub(peer).StoreBlob(
                    self._chunks(sha256, size), metadata=self._channels.metadata, timeout=patience_s
                )
        except grpc.aio.AioRpcError as error:
            if decode_rpc_error(error).reason == QUOTA:
                full.add(peer)
            raise
        return peer

    async def _chunks(self, sha256: str, size: int) -> AsyncIterator[tasks_pb2.BlobChunk]:
        yield tasks_pb2.BlobChunk(ref=tasks_pb2.BlobRef(sha256=sha256, size_bytes=size))
        async for part in self._store.open_chunks(sha256, CHUNK_BYTES):
            yield tasks_pb2.BlobChunk(data=part)

    async def _fetch(self, sha256: str) -> None:
        silent = []
        for peer in self._channels.peers:
            call = None
            try:
                with outliving(peer):
                    call = self._fetching(peer, sha256)
                    await receive_blob(self._store, _steady(call))
                return
            except (grpc.aio.AioRpcError, BlobMismatch, TimeoutError) as error:
                if not _lacks(error):
                    silent.append(peer)
                log.debug("a peer did not give a blob", extra={"peer": peer, "error": str(error)[:200]})
            finally:
                if call is not None:
                    call.cancel()
        raise _nowhere(sha256, silent)

    def _fetching(self, peer: str, sha256: str) -> grpc.aio.UnaryStreamCall[Any, tasks_pb2.BlobChunk]:
        return self._channels.stub(peer).FetchBlob(
            tasks_pb2.GetBlobRequest(sha256=sha256), metadata=self._channels.metadata
        )


async def _steady(call: AsyncIterable[tasks_pb2.BlobChunk]) -> AsyncIterator[tasks_pb2.BlobChunk]:
    """The messages of a stream, however many. Raises TimeoutError when none comes for COPY_TIMEOUT_S."""
    messages = aiter(call)
    while True:
        async with asyncio.timeout(COPY_TIMEOUT_S):
            message = await anext(messages, None)
        if message is None:
            return
        yield message


async def arriving(chunks: AsyncIterable[tasks_pb2.BlobChunk]) -> AsyncIterator[tasks_pb2.BlobChunk]:
    """A blob that a client sends. Raises ApiError when it has stopped: room is kept for it meanwhile."""
    try:
        async for message in _steady(chunks):
            yield message
    except TimeoutError as error:
        text = f"no part of the blob came for {COPY_TIMEOUT_S:g} s; send it again"
        raise ApiError(grpc.StatusCode.UNAVAILABLE, "UPLOAD_STALLED", text) from error


def _lacks(error: Exception) -> bool:
    """The peer says that it has no such blob."""
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.NOT_FOUND


def _nowhere(sha256: str, silent: Sequence[str]) -> ApiError:
    """No peer gave the blob; `silent` are those that may have it."""
    if silent:
        message = f"blob {sha256} is not here, and {', '.join(silent)} did not answer"
        return ApiError(grpc.StatusCode.UNAVAILABLE, "NO_QUORUM", message, retry_after_ms=500)
    return not_found("BLOB", sha256)


async def receive_blob(
    store: BlobStore, chunks: AsyncIterable[tasks_pb2.BlobChunk], *, shown: bool = False
) -> tasks_pb2.BlobRef:
    """Store an incoming stream: first message the reference, then the data. `shown`: the sender has to have
    the content, also where it is here already. Raises BlobMismatch and the store's other errors."""
    stream = aiter(chunks)
    first = await anext(stream, None)
    if first is None or not first.ref.sha256:
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "BAD_FIELD",
            "ref: the first message must carry sha256 and size_bytes",
        )
    if not shown:
        await store.put(_with_first(first, stream), first.ref.sha256, first.ref.size_bytes)
        return first.ref
    seen = _Seen(_with_first(first, stream))
    await store.put(seen.parts(), first.ref.sha256, first.ref.size_bytes)
    await seen.check(first.ref.sha256, first.ref.size_bytes)
    return first.ref


class _Seen:
    """Content on its way, with what it turned out to be."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source, self._digest, self._size = source, hashlib.sha256(), 0

    async def parts(self) -> AsyncIterator[bytes]:
        async for part in self._source:
            self._digest.update(part)
            self._size += len(part)
            yield part

    async def check(self, sha256: str, size: int) -> None:
        """Read what the store did not need. Raises BlobMismatch."""
        async for _ in self.parts():
            if self._size > size:
                raise too_much(size)
        check_content(self._size, size, self._digest.hexdigest(), sha256)


async def _with_first(
    first: tasks_pb2.BlobChunk, chunks: AsyncIterator[tasks_pb2.BlobChunk]
) -> AsyncIterator[bytes]:
    if first.data:
        yield first.data
    async for chunk in chunks:
        yield chunk.data


def _majority(stored: set[str], voters: frozenset[str]) -> bool:
    return 2 * len(stored & voters) > len(voters)
