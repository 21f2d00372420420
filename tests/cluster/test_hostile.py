"""Real nodes and strangers at both of their ports: garbage, pickles, false names, huge and broken frames. No
node dies, no code runs, the logs do not fill, and clients are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import random
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from coterie.node.direct import FORMAT, tls_context
from coterie.node.links import CLAIM_KEY
from coterie.node.localcluster import LocalCluster
from coterie.node.tls import load_tls, node_paths
from coterie.v1.peer_pb2 import RaftHello
from tests.cluster.conftest import READY_S, client_of, new_cluster
from tests.fuzz.mutate import ATTACKS, mutated
from tests.fuzz.targets import connections, requests

pytestmark = pytest.mark.cluster

VICTIM, OTHER, THIRD = "node-1", "node-2", "node-3"
MANY = 150
PATIENCE_S = 5.0
HOST = "127.0.0.1"
LOUD = ("WARNING", "ERROR", "CRITICAL")
PEER, TASKS = "/coterie.v1.Peer/", "/coterie.v1.Tasks/"


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (str(self._witness), "w")


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


async def say(port: int, data: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """One connection: say it, hear what is answered until it is closed or silent."""
    heard = b""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_S):
            name = VICTIM if tls else None
            reader, writer = await asyncio.open_connection(HOST, port, ssl=tls, server_hostname=name)
            try:
                writer.write(data)
                async with asyncio.timeout(0.5):
                    while part := await reader.read(65_536):
                        heard += part
            finally:
                writer.close()
    return heard


class Site:
    """A cluster under attack, and what its victim's log said since it began."""

    def __init__(self, cluster: LocalCluster, witness: Path) -> None:
        self.cluster, self.witness = cluster, witness
        self.pids = {node_id: cluster.pid(node_id) for node_id in cluster.node_ids}
        self.grpc_port = int(cluster.addresses[VICTIM].rpartition(":")[2])
        self.raft_port = next(iter(ports_of(self.pids[VICTIM]) - {self.grpc_port}))
        self._log_from = cluster.log_path(VICTIM).stat().st_size
        self._began = time.monotonic()
        self.bombs = [pickle.dumps(Bomb(witness), protocol) for protocol in (0, 2, 4)]

    def context(self, node_id: str) -> ssl.SSLContext:
        """What that node's own certificate opens."""
        paths = node_paths(self.cluster.base_dir / "tls", node_id)
        return tls_context(load_tls(paths, node_id), ssl.PROTOCOL_TLS_CLIENT)

    def channel(self, node_id: str) -> grpc.aio.Channel:
        tls = load_tls(node_paths(self.cluster.base_dir / "tls", node_id), node_id)
        credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
        return grpc.aio.secure_channel(f"{HOST}:{self.grpc_port}", credentials)

    async def unharmed(self) -> None:
        """Every process is the one it was, and a task runs through the victim."""
        for node_id, pid in self.pids.items():
            assert self.cluster.alive(node_id) and self.cluster.pid(node_id) == pid
        async with client_of(self.cluster, VICTIM) as client:
            job = await client.submit_task(type="echo", payload="still here")
            assert await job.wait(timeout=60) == "still here"
        assert not self.witness.exists(), "a stranger's pickle ran"

    def loud_lines(self) -> list[str]:
        with self.cluster.log_path(VICTIM).open("rb") as log:
            log.seek(self._log_from)
            text = log.read().decode("utf-8", "replace")
        assert "Traceback" not in text
        lines = [line for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if str(json.loads(line).get("level", "")).upper() in LOUD]

    def is_quiet(self) -> None:
        """At most one loud line a second of each kind of bad peer (there are two ports)."""
        seconds = time.monotonic() - self._began
        lines = self.loud_lines()
        assert len(lines) <= 2 * seconds + 5, lines[:10]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    with new_cluster() as cluster:
        await cluster.wait_ready(READY_S)
        under_attack = Site(cluster, tmp_path / "bombed")
        yield under_attack
        await under_attack.unharmed()
        under_attack.is_quiet()


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def hello(node_id: str, cluster_id: str = "dev", disk_id: str = "0" * 16) -> bytes:
    said = RaftHello(format=FORMAT, cluster_id=cluster_id, node_id=node_id, disk_id=disk_id)
    return framed(said.SerializeToString())


async def test_bytes_without_tls(site: Site) -> None:
    """Garbage, truncated and changed frames, deep nesting, pickles, at both ports."""
    rng = random.Random(3)
    wishes = [*ATTACKS, *site.bombs, *(mutated(connections(), rng) for _ in range(MANY))]
    for port in (site.grpc_port, site.raft_port):
        for at in range(0, len(wishes), 20):
            await asyncio.gather(*(say(port, data) for data in wishes[at : at + 20]))


async def test_bytes_under_a_nodes_own_certificate(site: Site) -> None:
    """A node that lies: about its name, its cluster, its disk; and one that sends broken frames."""
    honest, rng = site.context(OTHER), random.Random(4)
    said = [
        hello(THIRD),
        hello("stranger"),
        hello(OTHER, cluster_id="another"),
        hello(OTHER, disk_id="f" * 16),
    ]
    said += [hello(OTHER) + data for data in (*ATTACKS, *(framed(bomb) for bomb in site.bombs))]
    said += [struct.pack(">I", 2**32 - 1) + b"x", hello(OTHER) + struct.pack(">I", 2**31) + b"x"]
    said += [mutated(connections(), rng) for _ in range(MANY)]
    for at in range(0, len(said), 20):
        await asyncio.gather(*(say(site.raft_port, data, honest) for data in said[at : at + 20]))


async def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        await call()  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def first_of(channel: grpc.aio.Channel, method: str) -> None:
    """The first answer to a stream, or to a call for one, that begins with garbage."""
    call: Any = channel.stream_stream(method) if method.endswith("Tasks") else channel.unary_stream(method)
    garbage = b"\xff" * 9
    stream = call(iter([garbage]) if method.endswith("Tasks") else garbage, timeout=10)
    async for _ in stream:
        break


async def test_calls_with_bad_bodies(site: Site) -> None:
    """A client's calls whose bodies are anything: an error that says so, never UNKNOWN."""
    rng, codes = random.Random(5), set()
    async with site.channel(OTHER) as channel:
        for method in (TASKS + "SubmitTask", TASKS + "GetTask", PEER + "GetRaftAddress"):
            call: Any = channel.unary_unary(method)
            for data in [*ATTACKS, *site.bombs, *(mutated(requests(), rng) for _ in range(60))]:
                codes.add(await code_of(lambda call=call, data=data: call(data, timeout=10)))  # type: ignore[misc]
        for method in (TASKS + "WatchTask", TASKS + "WaitTasks"):
            codes.add(await code_of(lambda method=method: first_of(channel, method)))  # type: ignore[misc]
    assert grpc.StatusCode.UNKNOWN not in codes and grpc.StatusCode.INTERNAL not in codes
    assert grpc.StatusCode.INVALID_ARGUMENT in codes


async def test_a_node_that_claims_to_be_another(site: Site) -> None:
    async with site.channel(OTHER) as channel:
        call: Any = channel.unary_unary(PEER + "GetRaftAddress")
        claim = ((CLAIM_KEY, THIRD),)
        assert await code_of(lambda: call(b"", metadata=claim, timeout=10)) in {
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
        }
