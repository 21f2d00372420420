"""The Peer service: what nodes ask of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from coterie.core.nouns import NodeId, TaskId
from coterie.core.ports import Engine
from coterie.node.blob_exchange import CHUNK_BYTES, receive_blob
from coterie.node.blobs import BlobStore
from coterie.node.clock import Clock
from coterie.node.errors import ApiError, not_found
from coterie.node.identity import require_node
from coterie.node.ledger import Ledger
from coterie.node.ledger.feed import pages
from coterie.node.links import CLAIM_KEY, CLUSTER_KEY, DISK_KEY, Links, run_stream
from coterie.node.llm.tokens import TokenHub
from coterie.node.loads import LoadBook
from coterie.node.observability import get_logger
from coterie.node.roster import Roster
from coterie.node.rpc import Context, streaming, unary
from coterie.raft.errors import BadFrame, LinkRefused
from coterie.v1 import peer_pb2, peer_pb2_grpc, tasks_pb2

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PeerParts:
    """What the Peer service works on."""

    cluster: str  # as its nodes say it in their calls: see PeerChannels
    roster: Roster
    links: Links
    check_link: Callable[[str, str], None]  # the engine's: raises LinkRefused for a node and its disk
    introduction: Callable[[], tuple[tuple[str, str], ...]]  # what this node says of itself
    engine: Engine
    book: LoadBook
    blobs: BlobStore
    ledger: Ledger
    clock: Clock
    tokens: TokenHub
    raft_port: Callable[[], int]  # where frames come in on sockets of their own; 0: nowhere
    quorum_fresh_s: float  # older evidence of a majority grants no lease


class PeerService(peer_pb2_grpc.PeerServicer):
    """Every call must come from a node of this cluster, proved by its certificate."""

    def __init__(self, parts: PeerParts) -> None:
        self._parts = parts

    def _peer(self, context: Context) -> str:
        self._require_ours(context)
        return require_node(context, self._parts.roster.admits, _said(context, CLAIM_KEY))

    def _require_ours(self, context: Context) -> None:
        """A node of the cluster that this one was restored from may come under the id of one of ours."""
        said = _said(context, CLUSTER_KEY)
        if said and said != self._parts.cluster:
            text = "the call is from a node of another cluster. Remedy: `cluster.name` is to be equal on all"
            raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "OTHER_CLUSTER", text)

    def _knock(self, context: Context) -> str:
        """The node that wants a link. Raises ApiError with the name of the reason why it gets none."""
        self._require_ours(context)
        peer = require_node(context, self._parts.roster.__contains__, _said(context, CLAIM_KEY))
        try:
            self._parts.check_link(peer, _said(context, DISK_KEY))
        except LinkRefused as error:
            raise _no_link(peer, error) from error
        return peer

    @streaming
    async def Raft(self, request_iterator: Any, context: Context) -> AsyncIterator[peer_pb2.RaftFrame]:
        peer = self._knock(context)
        await context.send_initial_metadata(self._parts.introduction())
        disk_id = _said(context, DISK_KEY)
        try:
            await run_stream(self._parts.links, peer, request_iterator, context.write, disk_id)
        except BadFrame as error:
            raise _no_link(peer, error) from error
        return
        yield  # an async generator that writes through the context

    @unary
    async def GetRaftAddress(
        self, request: peer_pb2.GetRaftAddressRequest, context: Context
    ) -> peer_pb2.RaftAddress:
        self._knock(context)
        return peer_pb2.RaftAddress(port=self._parts.raft_port())

    @streaming
    async def Report(self, request_iterator: Any, context: Context) -> AsyncIterator[peer_pb2.ReportAck]:
        peer = self._peer(context)
        async for report in request_iterator:
            yield self._note(peer, report)

    def _note(self, peer: str, report: peer_pb2.LoadReport) -> peer_pb2.ReportAck:
        parts = self._parts
        age_s = parts.clock.monotonic() - parts.engine.quorum_contact_at()
        leads = parts.engine.is_leader and age_s <= parts.quorum_fresh_s
        if leads and report.node_id == peer:
            parts.book.note(report)
        lease = leads and parts.book.grants(NodeId(peer))
        ack = peer_pb2.ReportAck(sent_at_us=report.sent_at_us, lease=lease, leader=parts.engine.leader)
        if leads:
            for other, age_ms in parts.book.reports():
                ack.loads.add(report=other, age_ms=age_ms)
        return ack

    @unary
    async def StoreBlob(self, request_iterator: Any, context: Context) -> tasks_pb2.BlobRef:
        self._peer(context)
        return await receive_blob(self._parts.blobs, request_iterator)

    @streaming
    async def FetchBlob(
        self, request: tasks_pb2.GetBlobRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.BlobChunk]:
        self._peer(context)
        if not await self._parts.blobs.has(request.sha256):
            raise not_found("BLOB", request.sha256)
        size = await self._parts.blobs.size(request.sha256)
        yield tasks_pb2.BlobChunk(ref=tasks_pb2.BlobRef(sha256=request.sha256, size_bytes=size))
        async for part in self._parts.blobs.open_chunks(request.sha256, CHUNK_BYTES):
            yield tasks_pb2.BlobChunk(data=part)

    @streaming
    async def FetchLedger(
        self, request: peer_pb2.FetchLedgerRequest, context: Context
    ) -> AsyncIterator[peer_pb2.LedgerRows]:
        self._peer(context)
        async for rows in pages(self._parts.ledger, request.after_index, request.up_to_index):
            yield rows

    @streaming
    async def WatchTokens(
        self, request: peer_pb2.WatchTokensRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.TokenChunk]:
        self._peer(context)
        async with aclosing(self._parts.tokens.follow(TaskId(request.task_id))) as pieces:
            async for one in pieces:
                yield tasks_pb2.TokenChunk(
                    step=one.step,
                    attempt=one.attempt,
                    stream=one.stream,
                    offset=one.offset,
                    text=one.text.decode(),
                )

    @unary
    async def Ping(self, request: peer_pb2.PingRequest, context: Context) -> peer_pb2.PingResponse:
        self._peer(context)
        return peer_pb2.PingResponse()

    @unary
    async def GetLoads(
        self, request: peer_pb2.GetLoadsRequest, context: Context
    ) -> peer_pb2.GetLoadsResponse:
        self._peer(context)
        answer = peer_pb2.GetLoadsResponse()
        for report, age_ms in self._parts.book.reports():
            answer.loads.add(report=report, age_ms=age_ms)
        return answer


def _said(context: Context, key: str) -> str:
    """What the caller says of itself."""
    return str(dict(context.invocation_metadata() or ()).get(key, ""))


def _no_link(peer: str, error: BadFrame) -> ApiError:
    """What a peer is told that gets no link, which it then logs itself, or loses it by what it has sent."""
    if isinstance(error, LinkRefused):
        return ApiError(grpc.StatusCode.PERMISSION_DENIED, error.why.name, str(error))
    log.warning("a stream of raft frames broke", extra={"peer": peer, "reason": str(error)[:200]})
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, "BAD_FRAME", str(error)[:200])
