"""Real nodes and strangers at both of their ports: garbage, pickles, false names, huge and broken frames. No
node dies, no code runs, the logs do not fill, and clients are served meanwhile. What the holder of a member's
certificate may do after a good hello is in test_hostile_frames.py."""

from __future__ import annotations

import asyncio
import pickle
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from coterie.node.direct import FORMAT, HELLO_BYTES_MAX, tls_context
from coterie.node.links import CLAIM_KEY
from coterie.node.localcluster import LocalCluster
from coterie.node.tls import init_tls, issue_node, load_tls, node_paths
from coterie.raft import messages as m
from coterie.v1 import tasks_pb2
from tests.cluster.conftest import READY_S, new_cluster
from tests.cluster.siege import LARGE, LARGE_COUNT, Site, besieged, bombs, framed, say
from tests.fuzz.mutate import ATTACKS, mutated
from tests.fuzz.targets import connections, requests

pytestmark = pytest.mark.cluster

MANY = 150
INVALID = grpc.StatusCode.INVALID_ARGUMENT
PEER, TASKS = "/coterie.v1.Peer/", "/coterie.v1.Tasks/"


@pytest.fixture(scope="module")
def nodes() -> Iterator[LocalCluster]:
    with new_cluster() as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def site(nodes: LocalCluster, tmp_path: Path) -> AsyncIterator[Site]:
    async with besieged(nodes, tmp_path / "bombed") as site:
        yield site


def test_the_pickles_would_run(tmp_path: Path) -> None:
    for bomb in bombs(tmp_path / "bombed"):
        pickle.loads(bomb).close()
        (tmp_path / "bombed").unlink()


# --- who says hello


async def test_who_is_who_he_says_is_answered(site: Site) -> None:
    """What the refusals of this module are measured by: the same hello is good in the right hands."""
    for node_id in (site.leader, site.victim):
        heard = await site.tell(node_id)
        assert heard.hello is not None
        assert (heard.hello.cluster_id, heard.hello.node_id) == (site.cluster_id, node_id)
        kinds = [type(message) for message in heard.messages(site.wire)]
        assert kinds[0] is m.Greeting
        assert (m.Append in kinds) is (node_id == site.leader)


def false_hellos(site: Site, at: str) -> list[tuple[bytes, str, str]]:
    """What is said, whose certificate is shown, and what the node makes of that."""
    good, liar, third = site.hello(site.liar), site.liar, ({site.leader, site.victim} - {at}).pop()
    return [
        (site.hello(liar, cluster_id="another"), liar, "it is of cluster 'another'"),
        (good, third, f"its certificate names '{third}', its hello '{liar}'"),
        (site.hello(third), liar, f"its certificate names '{liar}', its hello '{third}'"),
        (site.hello(liar, disk_id="f" * 16), liar, "comes with disk ffffffffffffffff"),
        (site.hello("node-9"), "node-9", "'node-9' is no member of this cluster"),
        (site.hello(at), at, f"'{at}' is no member of this cluster"),
        (site.hello(liar, form=FORMAT + 1), liar, f"its hello has format {FORMAT + 1}"),
        (framed(b"\xff" * 40), liar, "its hello is none"),
        (framed(site.bombs[2]), liar, "its hello"),
        (framed(good, size=HELLO_BYTES_MAX + 1), liar, f"above the limit of {HELLO_BYTES_MAX}"),
        (site.bombs[0], liar, f"above the limit of {HELLO_BYTES_MAX}"),
    ]


async def test_who_is_not_is_refused_for_that_reason(site: Site) -> None:
    issue_node(site.cluster.base_dir / "tls", "node-9")

    async def refuse_all(at: str, part: int) -> None:
        for said, holder, reason in false_hellos(site, at)[part::2]:
            for heard in await site.refuses(at, [said], reason, holder):
                assert not heard.data and heard.ended, reason

    await asyncio.gather(refuse_all(site.victim, 0), refuse_all(site.leader, 1))


async def test_a_certificate_of_another_authority_opens_nothing(site: Site, tmp_path: Path) -> None:
    init_tls(tmp_path, [site.liar], hosts=["127.0.0.1"])
    foreign = tls_context(load_tls(node_paths(tmp_path, site.liar), site.liar), ssl.PROTOCOL_TLS_CLIENT)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context, alert in ((foreign, "UNKNOWN_CA"), (bare, "CERTIFICATE_REQUIRED")):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.raises(ssl.SSLError, match=alert):
            await say(site.raft_port(site.victim), site.hello(site.liar), context)


async def test_broken_hellos_under_a_nodes_own_certificate(site: Site) -> None:
    rng, good = random.Random(4), site.hello(site.liar)
    said = [good[:cut] for cut in range(0, len(good), 7)]
    said += [mutated([good], rng) for _ in range(MANY)]
    said += [*ATTACKS, *(framed(bomb) for bomb in site.bombs), *site.bombs]
    await site.flood(site.raft_port(site.victim), said, site.victim)


async def test_bytes_without_tls(site: Site) -> None:
    """Garbage, truncated and changed frames, deep nesting, pickles, at both ports."""
    rng = random.Random(3)
    good = [site.hello(site.liar), *connections()]
    wishes = [*ATTACKS, *site.bombs, *(mutated(good, rng) for _ in range(MANY))]
    for port in (site.grpc_port(site.victim), site.raft_port(site.victim)):
        await site.flood(port, wishes)


# --- calls


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
    async with site.channel(site.liar, site.victim) as channel:
        for method in (TASKS + "SubmitTask", TASKS + "GetTask", PEER + "GetRaftAddress"):
            call: Any = channel.unary_unary(method)
            for data in [*ATTACKS, *site.bombs, *(mutated(requests(), rng) for _ in range(60))]:
                codes.add(await code_of(lambda call=call, data=data: call(data, timeout=10)))  # type: ignore[misc]
        for method in (TASKS + "WatchTask", TASKS + "WaitTasks"):
            codes.add(await code_of(lambda method=method: first_of(channel, method)))  # type: ignore[misc]
    assert grpc.StatusCode.UNKNOWN not in codes and grpc.StatusCode.INTERNAL not in codes
    assert INVALID in codes


async def test_large_calls_that_are_refused_are_not_kept(site: Site) -> None:
    large = tasks_pb2.SubmitTaskRequest(parent="tenants/default")
    large.task.type, large.task.payload.inline = "echo", bytes(LARGE)
    async with site.channel(site.liar, site.victim) as channel:
        submit: Any = channel.unary_unary(TASKS + "SubmitTask")
        for data in [large.SerializeToString(), b"\xff" * LARGE] * LARGE_COUNT:
            assert await code_of(lambda data=data: submit(data, timeout=10)) is INVALID  # type: ignore[misc]
        put: Any = channel.stream_unary("/coterie.v1.Blobs/PutBlob")
        chunks = [tasks_pb2.BlobChunk(data=bytes(LARGE)).SerializeToString()] * 2
        for _ in range(LARGE_COUNT):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await put(iter(chunks), timeout=10)
            # gRPC may tell who is still sending of the reset only; what the node itself says is INVALID.
            assert refused.value.code() is INVALID or "RST_STREAM" in str(refused.value.details())


async def test_a_node_that_claims_to_be_another(site: Site) -> None:
    async with site.channel(site.liar, site.victim) as channel:
        call: Any = channel.unary_unary(PEER + "GetRaftAddress")
        codes = [
            await code_of(lambda claim=claim: call(b"", metadata=((CLAIM_KEY, claim),), timeout=10))  # type: ignore[misc]
            for claim in (site.liar, site.leader)
        ]
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED]
