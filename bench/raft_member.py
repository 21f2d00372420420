"""One member of the engine bench: the Raft engine with its real journal and transport, and nothing above it.

{"id", "addresses", "tls", "directory", …}     -> {"started": true}; "sync_delay_ms": added to every fsync
{"ask": "state"}                               -> {"leader", "has_quorum", "applied", "digest"}
{"ask": "load", "outstanding", "seconds", …}   -> {"latencies_ms", "seconds", "cpu_s"}"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from coterie.node.config.settings import TlsPaths
from coterie.node.dialer import DialerParts, RaftDialer
from coterie.node.direct import DirectRaft, Me
from coterie.node.hub import Bell
from coterie.node.identity import require_node
from coterie.node.links import CLAIM_KEY, DISK_KEY, Links, PeerChannels, run_stream
from coterie.node.roster import Roster
from coterie.node.rpc import Context, streaming, unary
from coterie.node.server import SERVER_OPTIONS, channel_credentials, server_credentials
from coterie.node.tls import load_tls
from coterie.raft.disk import RealDisk, RealFile
from coterie.raft.engine import RaftEngine
from coterie.raft.errors import FatalRaftError
from coterie.raft.options import RaftOptions
from coterie.v1 import peer_pb2, peer_pb2_grpc

PROPOSE_S = 30.0
# The timers of a development cluster, so that engine and nodes are measured alike.
ELECTION_MS, HEARTBEAT_MS = 300, 60


class Counter:
    """A machine that counts entries and keeps a digest of them, so that members can be compared."""

    def __init__(self) -> None:
        self.applied = 0
        self.digest = 0

    def apply(self, index: int, at_ms: int, entry: bytes) -> int:
        self.applied += 1
        self.digest = zlib.crc32(entry, self.digest)
        return self.applied

    def freeze(self) -> Iterator[bytes]:
        yield json.dumps([self.applied, self.digest]).encode()

    def restore(self, chunks: Iterable[bytes], index: int) -> None:
        self.applied, self.digest = json.loads(b"".join(chunks))


class SlowFile(RealFile):
    """A file on a disk whose fsync takes longer."""

    delay_s = 0.0

    def sync(self) -> None:
        time.sleep(self.delay_s)
        super().sync()


class SlowDisk(RealDisk):
    """The real disk with some time added to every fsync of a file."""

    def __init__(self, directory: Path, delay_s: float) -> None:
        super().__init__(directory)
        self._delay_s = delay_s

    def open(self, name: str) -> RealFile:
        return self._slow(SlowFile(self.path_of(name), os.O_RDWR))

    def create(self, name: str) -> RealFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        return self._slow(SlowFile(self.path_of(name), flags))

    def _slow(self, file: SlowFile) -> SlowFile:
        file.delay_s = self._delay_s
        return file


class RaftOnly(peer_pb2_grpc.PeerServicer):
    """Of the Peer service only what the Raft links need, as the node serves it."""

    raft_port = 0

    def __init__(self, links: Links, peers: frozenset[str], channels: PeerChannels) -> None:
        self._links, self._peers, self._channels = links, peers, channels

    @unary
    async def GetRaftAddress(
        self, request: peer_pb2.GetRaftAddressRequest, context: Context
    ) -> peer_pb2.RaftAddress:
        return peer_pb2.RaftAddress(port=self.raft_port)

    @streaming
    async def Raft(self, request_iterator: Any, context: Context) -> AsyncIterator[peer_pb2.RaftFrame]:
        metadata = dict(context.invocation_metadata() or ())
        peer = require_node(context, self._peers.__contains__, str(metadata.get(CLAIM_KEY, "")))
        await context.send_initial_metadata(self._channels.metadata)
        disk_id = str(metadata.get(DISK_KEY, ""))
        await run_stream(self._links, peer, request_iterator, context.write, disk_id)
        return
        yield  # an async generator that writes through the context


class EngineMember:
    """One engine with its listener and its dialler."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._me: str = plan["id"]
        self._addresses: dict[str, str] = plan["addresses"]
        tls = plan["tls"]
        paths = TlsPaths(Path(tls["ca"]), Path(tls["cert"]), Path(tls["key"])) if tls else None
        self._tls = load_tls(paths, self._me) if paths else None
        self._counter = Counter()
        options = RaftOptions(
            node_id=self._me,
            peers=tuple(self._addresses),
            addresses=self._addresses,
            data_dir=Path(plan["directory"]),
            election_timeout_ms=ELECTION_MS,
            heartbeat_ms=HEARTBEAT_MS,
        )
        delay_ms = float(plan.get("sync_delay_ms", 0))
        disk = SlowDisk(options.data_dir, delay_ms / 1000) if delay_ms else None
        self._engine = RaftEngine(options, self._counter, on_fatal=fatal, disk=disk)

    async def serve(self) -> None:
        """Answer the parent until it closes our stdin."""
        peers = {peer: address for peer, address in self._addresses.items() if peer != self._me}
        credentials = channel_credentials(self._tls) if self._tls else None
        channels = PeerChannels(self._me, peers, credentials, lambda: self._engine.disk_id)
        links = Links(self._engine)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        add: Any = peer_pb2_grpc.add_PeerServicer_to_server
        service: Any = RaftOnly
        add(service(links, frozenset(peers), channels), server)
        if self._tls:
            server.add_secure_port(self._addresses[self._me], server_credentials(self._tls))
        else:
            server.add_insecure_port(self._addresses[self._me])
        await server.start()
        await self._engine.start()
        me = Me(self._me, "bench", self._engine.options.frame_bytes_max)
        direct = DirectRaft(me, links, peers, self._tls)
        await direct.start("127.0.0.1", None, self._engine.disk_id)
        service.raft_port = direct.port
        dialling = asyncio.create_task(self._dialer(channels, links, direct).run(), name="dial")
        try:
            say({"started": True})
            while line := await asyncio.to_thread(sys.stdin.readline):
                say(await self._answer(json.loads(line)))
        finally:
            dialling.cancel()
            await asyncio.gather(dialling, return_exceptions=True)
            await server.stop(0)
            await channels.close()
            await direct.stop()
            await self._engine.stop()

    def _dialer(self, channels: PeerChannels, links: Links, direct: DirectRaft) -> RaftDialer:
        engine = self._engine
        roster = Roster(
            self._me,
            self._addresses[self._me],
            channels.peers,
            lambda: engine.members,
            lambda: engine.disk_id,
        )
        quorum = lambda: engine.has_quorum  # noqa: E731
        return RaftDialer(
            DialerParts(channels, links, roster, Bell(), quorum, engine.link_refused, _refused, direct)
        )

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if question["ask"] == "load":
            return await self._load(question)
        return {
            "leader": self._engine.leader,
            "has_quorum": self._engine.has_quorum,
            "applied": self._counter.applied,
            "digest": self._counter.digest,
        }

    async def _load(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Keep so many proposals of so many bytes under way for so many seconds."""
        latencies_ms: list[float] = []
        numbers = itertools.count()
        began, cpu_s = time.monotonic(), _cpu_s()
        until = began + plan["seconds"]

        async def caller() -> None:
            while (sent := time.monotonic()) < until:
                entry = next(numbers).to_bytes(8, "big").ljust(plan["entry_bytes"], b".")
                await self._engine.propose(entry, PROPOSE_S)
                latencies_ms.append((time.monotonic() - sent) * 1000)

        async with asyncio.TaskGroup() as group:
            for number in range(plan["outstanding"]):
                group.create_task(caller(), name=f"caller-{number}")
        seconds = time.monotonic() - began
        return {"latencies_ms": latencies_ms, "seconds": seconds, "cpu_s": _cpu_s() - cpu_s}


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def fatal(error: FatalRaftError) -> None:
    sys.exit(f"the engine stopped: {error}")


def _refused(reason: str) -> None:
    sys.exit(f"the others refuse this member: {reason}")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(EngineMember(json.loads(sys.stdin.readline())).serve())
