"""Dialling the peers: who dials whom, what to do when nobody answers, and when they refuse this node."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc

from coterie.node.errors import from_exception
from coterie.node.hub import Bell, wait_for_bell
from coterie.node.links import CLAIM_KEY, CLUSTER_KEY, DISK_KEY, Links, PeerChannels, outliving, run_stream
from coterie.node.observability import get_logger
from coterie.node.roster import Roster
from coterie.raft.errors import BadFrame, LinkRefused, Why
from coterie.v1 import peer_pb2

log = get_logger(__name__)

RECONNECT_MIN_S, RECONNECT_MAX_S = 0.05, 0.5
ASK_S = 3.0
DIRECT_PAUSE_S = 60.0  # a socket that a firewall swallows costs seconds; not at every reconnect
LOOK_S = 0.25
LONELY_S = 2.0  # without a leader for so long: do not wait to be dialled
UNHEARD_S = 5.0  # without a link for so long: the peer may not know where this node is
SAY_AGAIN_S = 30.0
FAREWELL_S = 1.0
REFUSED_MAX_S = 5.0  # refused by some, and heard by nobody


class DirectDialer(Protocol):
    """Opens sockets for Raft frames; see coterie.node.direct."""

    async def serve(self, peer: str, address: tuple[str, int]) -> bool:
        """Dial, and carry frames until the socket ends. False when there was no getting through."""


@dataclass(frozen=True, slots=True)
class DialerParts:
    """What the dialer is given. `on_refused` is told, once, why the cluster does not let this node in."""

    channels: PeerChannels
    links: Links
    roster: Roster
    bell: Bell
    has_quorum: Callable[[], bool]
    link_refused: Callable[[str, Why], None]  # the engine's
    on_refused: Callable[[str], None]
    direct: DirectDialer | None = None


class RaftDialer:
    """Keeps the Raft links up. One is a socket of its own where the peer can be reached by one, else a gRPC
    stream. A node dials those with smaller ids; the others dial it, unless they
    cannot know where or who it is: then it dials them all, and those who do not come."""

    def __init__(self, parts: DialerParts) -> None:
        self._parts = parts
        self._channels, self._links, self._roster = parts.channels, parts.links, parts.roster
        self._direct_again: dict[str, float] = {}  # when to try a socket again, by peer
        self._bell = parts.bell.listener()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._refusals: dict[str, tuple[Why, float, str]] = {}
        self._said: dict[str, tuple[str, float]] = {}
        self._left_at: dict[str, float] = {}
        self._quorum_at = time.monotonic()
        self._linked_at: dict[str, float] = {}

    async def run(self) -> None:
        try:
            while True:
                self._follow_members()
                self._judge()
                await wait_for_bell(self._bell, LOOK_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _follow_members(self) -> None:
        now = time.monotonic()
        if self._parts.has_quorum():
            self._quorum_at = now
        self._channels.update(self._known(now))
        if self._roster.members and self._parts.has_quorum():
            self._links.keep_only(self._channels.peers)
        for peer in [peer for peer in self._tasks if peer not in self._channels.peers]:
            self._tasks.pop(peer).cancel()
            self._linked_at.pop(peer, None)
            self._refusals.pop(peer, None)
        for peer in self._channels.peers:
            if self._links.up(peer):
                self._linked_at[peer] = now
            if peer not in self._tasks:
                self._tasks[peer] = asyncio.create_task(self._keep(peer), name=f"raft-dial-{peer}")

    def _known(self, now: float) -> dict[str, tuple[str, ...]]:
        """Where the peers are. One that was removed keeps its streams for a moment, to hear of it."""
        known = self._roster.addresses()
        for peer, address in self._channels.peers.items():
            if peer not in known and now - self._left_at.setdefault(peer, now) < FAREWELL_S:
                known[peer] = (address,)
        self._left_at = {peer: at for peer, at in self._left_at.items() if peer in self._channels.peers}
        return known

    def _dials(self, peer: str) -> bool:
        if peer < self._channels.me:
            return True
        if self._links.up(peer):
            return False
        now = time.monotonic()
        lonely = now - self._quorum_at > LONELY_S
        unheard = now - self._linked_at.setdefault(peer, now) > UNHEARD_S
        return lonely or unheard or not self._roster.settled

    async def _keep(self, peer: str) -> None:
        pause = RECONNECT_MIN_S
        while True:
            if self._dials(peer):
                ended_well = await self._try(peer)
                pause = RECONNECT_MIN_S if ended_well else min(pause * 2, RECONNECT_MAX_S)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _try(self, peer: str) -> bool:
        """One link, from dialling to its end; whether it ever stood."""
        try:
            with outliving(peer):
                await self._once(peer)
            return True
        except grpc.aio.AioRpcError as error:
            self._note_error(peer, error)
        except LinkRefused as error:
            self._say(peer, f"this node refuses a peer: {error}")
        except Exception as error:  # bytes that are no frame: the link's end, not this node's
            self._say(peer, f"a raft link broke: {str(error)[:200]}")
        self._channels.try_elsewhere(peer)
        return False

    async def _once(self, peer: str) -> None:
        if await self._once_direct(peer):
            return
        call = self._channels.stub(peer, "raft").Raft(metadata=self._channels.metadata)
        try:
            await call.wait_for_connection()
            told = dict(await call.initial_metadata())
            name = str(told.get(CLAIM_KEY, peer))
            if name != peer:
                raise BadFrame(f"node {name} answers at the address of {peer}")
            if told.get(CLUSTER_KEY, self._channels.cluster) != self._channels.cluster:
                raise BadFrame(f"a node of another cluster answers at the address of {peer}")
            self._refusals.pop(peer, None)
            await run_stream(self._links, peer, call, call.write, str(told.get(DISK_KEY, "")))
        finally:
            call.cancel()

    async def _once_direct(self, peer: str) -> bool:
        now = time.monotonic()
        if self._parts.direct is None or now < self._direct_again.get(peer, 0.0):
            return False
        stub = self._channels.stub(peer, "raft")
        request = peer_pb2.GetRaftAddressRequest()
        answer = await stub.GetRaftAddress(request, metadata=self._channels.metadata, timeout=ASK_S)
        self._refusals.pop(peer, None)
        if not answer.port:
            return False
        host = self._channels.peers[peer].rpartition(":")[0].strip("[]")
        if await self._parts.direct.serve(peer, (host, answer.port)):
            return True
        self._direct_again[peer] = now + DIRECT_PAUSE_S
        return False

    # --- refusals

    def _note_error(self, peer: str, error: grpc.aio.AioRpcError) -> None:
        log.debug("raft link ended", extra={"peer": peer, "error": error.details()})
        if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            self._refusals.pop(peer, None)
            return
        refusal = from_exception(error)
        self._say(peer, f"a peer refuses this node: {refusal.message}")
        why = next((why for why in Why if why.name == refusal.reason), None)
        if why is not None:
            since = self._refusals.get(peer, (why, time.monotonic(), ""))[1]
            self._refusals[peer] = (why, since, refusal.message)
            self._parts.link_refused(peer, why)

    def _judge(self) -> None:
        """Whether this node's disk is refused by so many, or for so long, that waiting makes no sense. One
        peer that lags behind may not know yet that the disk was changed with the cluster's leave."""
        wrong = [(at, text) for why, at, text in self._refusals.values() if why is Why.WRONG_DISK]
        if not wrong or any(self._links.up(peer) for peer in self._channels.peers):
            return
        long = time.monotonic() - min(at for at, _ in wrong) > REFUSED_MAX_S
        if long or 2 * len(wrong) > len(self._channels.peers):
            self._parts.on_refused(wrong[0][1])

    def _say(self, peer: str, text: str) -> None:
        """A warning, again only after a while: a peer that is refused comes back twice a second. One that
        gives another reason each time has a share of the log for all of them."""
        before, at = self._said.get(peer, ("", float("-inf")))
        now = time.monotonic()
        if text != before or now - at > SAY_AGAIN_S:
            self._said[peer] = (text, now)
            log.warning(text, extra={"peer": peer, "limit_key": f"link with {peer}"})
