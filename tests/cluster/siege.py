"""Real nodes under attack: what is said to their ports, what is heard, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import ssl
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import yaml

from coterie.node.direct import FORMAT, tls_context
from coterie.node.links import FRAME_BYTES_MAX
from coterie.node.localcluster import LocalCluster
from coterie.node.tls import load_tls, node_paths
from coterie.raft import messages as m
from coterie.raft.wire import Wire
from coterie.v1.peer_pb2 import RaftHello
from tests.cluster.conftest import READY_S, client_of, until

HOST = "127.0.0.1"
PATIENCE_S = 30.0
SILENCE_S = 3.0  # of a node that has something to say
HUSH_S = 0.5  # of one that waits for more
LOUD = ("WARNING", "ERROR", "CRITICAL")
KINDS_MAX = 5
GROWTH_BYTES_MAX = 256 << 20  # a few of the largest messages there can be, in the library's own pools
LARGE, LARGE_COUNT = 15_000_000, 16
AT_ONCE = 40


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (str(self._witness), "w")


def bombs(witness: Path) -> list[bytes]:
    return [pickle.dumps(Bomb(witness), protocol) for protocol in (0, 2, 4)]


# --- bytes


def framed(body: bytes, size: int | None = None) -> bytes:
    """A frame; `size`: what it says of its length, if that is not so."""
    return struct.pack(">I", len(body) if size is None else size) + body


def unframed(data: bytes) -> list[bytes]:
    """The frames that are complete, without signs of life."""
    bodies, at = [], 0
    while at + 4 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        bodies.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return [body for body in bodies[: len(bodies) - (at > len(data))] if body]


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back over one connection, and whether the node has ended it."""

    data: bytes
    ended: bool

    @property
    def hello(self) -> RaftHello | None:
        """None: the node has not answered."""
        return RaftHello.FromString(frames[0]) if (frames := unframed(self.data)) else None

    def messages(self, wire: Wire) -> list[m.Message]:
        """What the node's engine has said after the hello."""
        return [message for frame in unframed(self.data)[1:] for message in wire.decode(frame)]


Then = Callable[[Heard], bytes]


# --- connections


def _nothing(heard: Heard) -> bytes:
    return b""


async def say(
    port: int,
    data: bytes,
    tls: ssl.SSLContext | None = None,
    name: str = "",
    then: Then = _nothing,
    silence_s: float = SILENCE_S,
) -> Heard:
    """One connection: say it, hear what is answered until it is closed or silent, and say what `then` makes
    of that. `name`: whose port it is, with TLS. A node may end the connection at any moment, and does so when
    the true peer comes back; nothing else may go wrong."""
    heard, writer = bytearray(), None
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(HOST, port, ssl=tls, server_hostname=name or None)
            writer.write(data)
            async with asyncio.timeout(silence_s):
                while part := await reader.read(65_536):
                    heard += part
                    writer.write(then(Heard(bytes(heard), ended=False)))
            return Heard(bytes(heard), ended=True)
    except ConnectionError:
        return Heard(bytes(heard), ended=True)
    except TimeoutError:
        return Heard(bytes(heard), ended=False)
    finally:
        if writer is not None:
            writer.transport.abort()


def ports_of(pid: int) -> set[int]:
    """The TCP ports on which a process listens."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(entry.readlink())
            if name.startswith("socket:["):
                sockets.add(name[8:-1])
    ports = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in sockets:
            ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def memory_of(pid: int) -> int:
    """Bytes that a process has in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


# --- logs


class Log:
    """What a node has written since a moment."""

    def __init__(self, path: Path) -> None:
        self._path, self._from, self._began = path, path.stat().st_size, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def text(self) -> str:
        with self._path.open("rb") as log:
            log.seek(self._from)
            return log.read().decode("utf-8", "replace")

    def loud(self, *words: str) -> list[dict[str, Any]]:
        """Warnings and worse that have all these words somewhere."""
        whole = [line for line in self.text().splitlines(keepends=True) if line.endswith("}\n")]
        lines = [json.loads(line) for line in whole if all(word in line for word in words)]
        return [line for line in lines if line["level"] in LOUD]

    def must_be_short(self) -> None:
        """Of a few kinds of loud lines a few each, whatever has been sent how often."""
        assert "Traceback" not in self.text()
        kinds = Counter(f"{line['logger']}: {line['message']}" for line in self.loud())
        assert len(kinds) <= KINDS_MAX, kinds
        assert all(count <= self.bound for count in kinds.values()), kinds

    @property
    def bound(self) -> float:
        """How many lines of a kind the log lets through."""
        return 10 * (self.seconds // 10 + 1)


# --- the place


class Site:
    """A cluster under attack. `liar` is a follower whose certificate is in the wrong hands, `victim` the
    other one."""

    def __init__(self, cluster: LocalCluster, leader: str, witness: Path) -> None:
        self.cluster, self.leader, self.witness = cluster, leader, witness
        self.victim, self.liar = (node_id for node_id in cluster.node_ids if node_id != leader)
        self.cluster_id = str(yaml.safe_load(cluster.config_path.read_text())["cluster"]["name"])
        self.wire = Wire(self.cluster_id, FRAME_BYTES_MAX)
        self.bombs = bombs(witness)
        self.pids = {node_id: cluster.pid(node_id) for node_id in cluster.node_ids}
        self._memory = {node_id: memory_of(pid) for node_id, pid in self.pids.items()}
        self.logs = {node_id: Log(cluster.log_path(node_id)) for node_id in cluster.node_ids}

    def grpc_port(self, node_id: str) -> int:
        return int(self.cluster.addresses[node_id].rpartition(":")[2])

    def raft_port(self, node_id: str) -> int:
        (port,) = ports_of(self.pids[node_id]) - {self.grpc_port(node_id)}
        return port

    def context(self, holder: str) -> ssl.SSLContext:
        """What that node's own certificate opens."""
        paths = node_paths(self.cluster.base_dir / "tls", holder)
        return tls_context(load_tls(paths, holder), ssl.PROTOCOL_TLS_CLIENT)

    def channel(self, holder: str, to: str) -> grpc.aio.Channel:
        tls = load_tls(node_paths(self.cluster.base_dir / "tls", holder), holder)
        credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
        return grpc.aio.secure_channel(f"{HOST}:{self.grpc_port(to)}", credentials)

    def hello(self, node_id: str, cluster_id: str = "", disk_id: str = "", form: int = FORMAT) -> bytes:
        """A right one, if nothing else is said: without a disk it is let through by the name alone."""
        cluster_id = cluster_id or self.cluster_id
        said = RaftHello(format=form, cluster_id=cluster_id, node_id=node_id, disk_id=disk_id)
        return framed(said.SerializeToString())

    async def say(
        self,
        to: str,
        data: bytes,
        holder: str = "",
        then: Then = _nothing,
        silence_s: float = SILENCE_S,
    ) -> Heard:
        """To a node's port for raft frames, with the certificate of `holder`, or of the liar."""
        context = self.context(holder or self.liar)
        return await say(self.raft_port(to), data, context, to, then, silence_s)

    async def term(self) -> int:
        """The present one, in which the victim follows another node."""

        async def led() -> int:
            async with client_of(self.cluster, self.victim) as client:
                status = await client.get_status()
                return status.term if status.leader not in ("", self.victim) else 0

        return int(await until(led, "a leader that is not the victim"))

    async def tell(self, to: str, *frames: bytes, holder: str = "") -> Heard:
        """Those frames, after a good hello."""
        holder = holder or self.liar
        return await self.say(to, self.hello(holder) + b"".join(map(framed, frames)), holder)

    async def flood(self, port: int, said: Sequence[bytes], to: str = "") -> list[Heard]:
        """Each over a connection of its own, many at once; with TLS and as the liar when a node is named."""
        tls, heard = self.context(self.liar) if to else None, list[Heard]()
        for at in range(0, len(said), AT_ONCE):
            some = [say(port, data, tls, to, silence_s=HUSH_S) for data in said[at : at + AT_ONCE]]
            heard += await asyncio.gather(*some)
        return heard

    async def tell_often(self, to: str, said: Sequence[bytes]) -> None:
        """Each after a good hello over a connection of its own, many at once."""
        good, tls, port = self.hello(self.liar), self.context(self.liar), self.raft_port(to)
        for at in range(0, len(said), AT_ONCE):
            some = [say(port, good + data, tls, to, silence_s=PATIENCE_S) for data in said[at : at + AT_ONCE]]
            for heard in await asyncio.gather(*some):
                assert heard.hello is not None and heard.ended

    # --- what must hold

    async def works(self) -> None:
        """A task runs through every node."""
        for node_id in self.cluster.node_ids:
            async with client_of(self.cluster, node_id) as client:
                job = await client.submit_task(type="echo", payload="still here")
                assert await job.wait(timeout=60) == "still here"

    async def must_be_unharmed(self) -> None:
        """Every process is the one it was, and no larger by much; no stranger's code ran; logs are short."""
        for node_id, pid in self.pids.items():
            assert self.cluster.alive(node_id) and self.cluster.pid(node_id) == pid
        await self.works()
        assert not self.witness.exists(), "a stranger's pickle ran"
        for node_id, pid in self.pids.items():
            assert memory_of(pid) - self._memory[node_id] < GROWTH_BYTES_MAX
            self.logs[node_id].must_be_short()

    async def refuses(self, at: str, said: Sequence[bytes], reason: str, holder: str = "") -> list[Heard]:
        """Say each until the node's log tells of that reason, which it does not for all that come at once."""
        log, heard = Log(self.cluster.log_path(at)), list[Heard]()

        async def told() -> bool:
            heard.extend([await self.say(at, data, holder, silence_s=PATIENCE_S) for data in said])
            return bool(log.loud("raft frames", reason))

        await until(told, f"{reason!r} in the log of {at}", 2 * PATIENCE_S, pause_s=0.1)
        return heard


@asynccontextmanager
async def besieged(cluster: LocalCluster, witness: Path) -> AsyncIterator[Site]:
    """For one attack: the cluster works before it, and after it."""
    site = Site(cluster, await cluster.wait_ready(READY_S), witness)
    await site.works()
    yield site
    await site.must_be_unharmed()
