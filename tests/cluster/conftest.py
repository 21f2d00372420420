"""Real clusters: three node processes on loopback, with TLS, on fresh data."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from coterie.client import TLS, Cluster
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from coterie.node.localcluster.config import merge

SKILLS = Path(__file__).parent / "skills"
READY_S = 60.0
KEY = "sk-of-the-tests"
PRICE = {"in": 1.0, "out": 2.0}
# What is counted in tests is what they do: no attempt is lost to an election, nor because a busy machine let
# a node stand for two seconds. A node is DOWN after 3 s, and its lease ends after 2.6 s.
PATIENT = {"faultTolerance": {"healthCheck": {"unhealthyThreshold": 20}}}


def llm_options(server: LlmServerProcess, key_file: Path) -> dict[str, Any]:
    """Three providers at the same server: plain, in the background, and with idempotency keys."""
    common = {"baseUrl": server.url, "apiKey": {"file": str(key_file)}, "model": "m", "price": PRICE}
    providers = {
        "plain": {**common, "stallTimeout": "5s"},
        "background": {**common, "api": "responses"},
        "keyed": {**common, "idempotencyKeys": True},
    }
    return {"llm": {"default": "plain", "providers": providers}}


class ShownCluster(LocalCluster):
    """A test that fails while it is open shows the last words of its nodes."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.log_tails())
        super().__exit__(kind, error, trace)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The same for the clusters of its fixtures, which are open still."""
    report = yield
    if report.failed:
        given = getattr(item, "funcargs", {})
        held = [getattr(value, name, None) for value in given.values() for name in ("nodes", "cluster")]
        found = [one for one in (*given.values(), *held) if isinstance(one, LocalCluster)]
        report.sections += [(f"nodes in {one.base_dir}", one.log_tails()) for one in dict.fromkeys(found)]
    return report


def with_skills(options: dict[str, Any] | None = None, *, patient: bool = True) -> dict[str, Any]:
    """Keys of the cluster file: the test skills, and those that are given."""
    return merge(PATIENT if patient else {}, {"skills": {"dirs": [str(SKILLS)]}, **(options or {})})


def new_cluster(
    options: dict[str, Any] | None = None, *, patient: bool = True, **arguments: Any
) -> ShownCluster:
    """Three nodes with the test skills. `options` are further keys of the cluster file; not `patient`: leases
    are short, as where nodes are stopped and cut off by the way."""
    merged = with_skills(options, patient=patient)
    return ShownCluster(options=merged, **{"nodes": 3, "capacity": 8, **arguments})


def client_of(cluster: LocalCluster, *node_ids: str, **arguments: Any) -> Cluster:
    """A client of the whole cluster, or of the named nodes only."""
    endpoints = ",".join(cluster.addresses[node_id] for node_id in node_ids) or cluster.endpoints
    paths = cluster.client_tls
    tls = TLS(ca=paths.ca, cert=paths.cert, key=paths.key) if paths else None
    arguments.setdefault("auto_discovery", not node_ids)
    return Cluster(endpoints, tls=tls, insecure=tls is None, **arguments)


async def until(
    condition: Callable[[], Awaitable[Any]], what: str, timeout_s: float = 30.0, pause_s: float = 0.05
) -> Any:
    """Wait until the condition answers something true; fail naming what was waited for."""
    end = time.monotonic() + timeout_s
    while True:
        found = await condition()
        if found:
            return found
        if time.monotonic() > end:
            pytest.fail(f"waited {timeout_s:g} s in vain for: {what}")
        await asyncio.sleep(pause_s)


@pytest.fixture(scope="session")
def shared() -> Iterator[LocalCluster]:
    """One cluster for the tests that harm nobody."""
    with new_cluster(options={"distribution": {"taskQueue": {"maxPending": 500}}}) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def fresh() -> AsyncIterator[LocalCluster]:
    """A cluster of its own, for tests that kill nodes."""
    with new_cluster() as cluster:
        await cluster.wait_ready(READY_S)
        yield cluster


# --- behind a language model; a module may have `nodes` of its own ---


@pytest.fixture(scope="module")
def server() -> Iterator[LlmServerProcess]:
    with LlmServerProcess("--key", KEY) as process:
        yield process


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "llm.key"
    path.write_text(KEY + "\n")
    return path


@pytest.fixture(scope="module")
def nodes(server: LlmServerProcess, key_file: Path) -> Iterator[LocalCluster]:
    with new_cluster(options=llm_options(server, key_file)) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def client(nodes: LocalCluster, server: LlmServerProcess) -> AsyncIterator[Cluster]:
    """Of those nodes; the server has forgotten what earlier tests told it."""
    server.script()
    async with client_of(nodes) as opened:
        yield opened
