"""Every shipped skill once through a real node, against real servers; those that need no trust also published
and behind the walls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from coterie.client import Cluster, TaskFailed
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from coterie.skills.bundle import File, collect, pack
from coterie.skills.registry import MANIFEST_FILE, SHIPPED_DIR
from tests.cluster.conftest import KEY, READY_S, client_of, llm_options, new_cluster
from tests.cluster.guest import make_live
from tests.skills.shipped.k8s_api import TOKEN, api
from tests.skills.shipped.test_k8s_deploy import CONFIG
from tests.skills.shipped.test_manifests import rows
from tests.skills.shipped.webserver import Reply, WebServer, serving

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
INSIDE = ["127.0.0.0/8"]
MACHINERY = {"echo", "sleep", "map-reduce"}
SOURCE = "import os\n\n\ndef f(x):\n    if x:\n        return 1\n"


@dataclass(frozen=True)
class Place:
    """A node, and what its skills find around it."""

    cluster: LocalCluster
    web: WebServer
    folder: Path
    mapped: list[Any] = field(default_factory=list)
    """What document-map found."""


@dataclass(frozen=True)
class Case:
    """A payload, and what must hold of the result."""

    skill: str
    payload: Callable[[Place], Any]
    holds: Callable[[Any], bool]
    confined: bool = False


def _case(skill: str, payload: Any, holds: Callable[[Any], bool], *, confined: bool = False) -> Case:
    return Case(skill, payload if callable(payload) else lambda place: payload, holds, confined)


CASES = [
    _case("echo", {"n": 1}, lambda found: found == {"n": 1}),
    _case("sleep", {"seconds": 0, "steps": 2}, lambda found: found["steps"] == 2),
    _case("llm", "Say yes", lambda found: "Say yes" in found, confined=True),
    _case("summarize", {"text": "Tides."}, lambda found: "Tides." in found["summary"], confined=True),
    _case(
        "translate", {"text": "A `b`", "to": "Xx"}, lambda found: found["untranslated"] == [], confined=True
    ),
    _case(
        "python-analysis",
        {"source": SOURCE},
        lambda found: found["total"]["complexity_max"] == 2,
        confined=True,
    ),
    _case(
        "python-analysis",
        lambda place: {"path": str(place.folder / "code.py")},
        lambda found: found["total"]["problems"] == 1,
    ),
    _case(
        "data-analysis",
        {"operation": "chart", "csv": "x,y\n1,2\n3,5\n", "chart": {"kind": "line", "x": "x", "y": ["y"]}},
        lambda found: found["bytes"] > 1_000,
        confined=True,
    ),
    _case(
        "file-management",
        lambda place: {"operation": "write", "path": str(place.folder / "new"), "content": "hi"},
        lambda found: found["bytes"] == 2,
    ),
    _case(
        "web-fetch",
        lambda place: {"url": place.web.url + "/page"},
        lambda found: found["title"] == "T",
        confined=True,
    ),
    _case(
        "web-search", {"operation": "add", "documents": [{"id": "a", "text": "tides"}]}, lambda found: True
    ),
    _case("web-search", {"query": "tides"}, lambda found: found["results"][0]["id"] == "a"),
    _case("communication", {"channel": "hook", "text": "hi"}, lambda found: found["status"] == 200),
    _case(
        "object-storage",
        {"operation": "put", "bucket": "drafts", "key": "k", "content": "hi"},
        lambda found: found["bytes"] == 2,
    ),
    _case(
        "k8s-deploy",
        {"operation": "apply", "namespace": "apps", "manifests": [CONFIG], "wait_s": 5},
        lambda found: found["ready"] is True,
    ),
    _case(
        "document-map",
        {"path": "a.md", "text": "# Tides\nThey come."},
        lambda found: "terms" in json.dumps(found),
        confined=True,
    ),
    _case(
        "document-reduce",
        lambda place: {"documents": place.mapped, "title": "Tides"},
        lambda found: "Tides" in found["markdown"],
        confined=True,
    ),
    _case("map-reduce", {"map": "echo", "documents": [1, 2]}, lambda found: found["result"] == [1, 2]),
]
ELSEWHERE = {"agent", "goal"}  # in tests of their own: test_agents.py, node/test_goal_flow.py


def settings(web: WebServer, s3: str, k8s: str, folder: Path, token: Path) -> dict[str, Any]:
    """What the operator says to each."""
    fetch = {"hosts": [web.target], "insideNetworks": INSIDE}
    key = {"file": str(token)}
    return {
        "file-management": {"paths": [{"path": str(folder), "write": True}]},
        "python-analysis": {"paths": [str(folder)]},
        "web-fetch": fetch,
        "walled/web-fetch": fetch,
        "web-search": {"engines": {"own": {"kind": "local", "path": str(folder / "index")}}},
        "communication": {"channels": {"hook": {"kind": "webhook", "url": web.url + "/hook", "secret": key}}},
        "object-storage": {
            "stores": {"main": {"endpoint": s3, "accessKey": "a", "secretKey": key, "write": ["drafts"]}}
        },
        "k8s-deploy": {"clusters": {"main": {"server": k8s, "token": key, "namespaces": ["apps"]}}},
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, keys = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("keys")
    (folder / "code.py").write_text(SOURCE)
    for name, secret in (("llm", KEY), ("token", TOKEN)):
        (keys / name).write_text(secret + "\n")
        (keys / name).chmod(0o600)
    with ExitStack() as stack:
        web = stack.enter_context(serving())
        html = {"Content-Type": "text/html"}
        web.routes["/page"] = lambda asked: Reply(b"<title>T</title><p>Tides.</p>", headers=html)
        web.routes["/hook"] = lambda asked: Reply(b"")
        k8s, _ = stack.enter_context(api())
        model = stack.enter_context(LlmServerProcess("--key", KEY))
        said = settings(web, stack.enter_context(_objects()), k8s, folder, keys / "token")
        options = {**llm_options(model, keys / "llm"), "skills": {"settings": said, "insideNetworks": INSIDE}}
        cluster = stack.enter_context(new_cluster(options=options, nodes=1))
        asyncio.run(cluster.wait_ready(READY_S))
        yield Place(cluster, web, folder)


class _objects:
    """A store of objects with a bucket; its address."""

    def __enter__(self) -> str:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        address = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="drafts")
        return address

    def __exit__(self, *error: object) -> None:
        self._server.stop()


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Cluster]:
    async with client_of(place.cluster) as opened:
        yield opened


def folders() -> dict[str, Path]:
    """All shipped skills."""
    found = [path.parent for path in SHIPPED_DIR.glob(f"*/{MANIFEST_FILE}")]
    return {folder.name.replace("_", "-"): folder for folder in found}


def test_every_shipped_skill_is_run() -> None:
    assert {case.skill for case in CASES} | ELSEWHERE == set(folders())
    confined = {case.skill for case in CASES if case.confined}
    walls = {name: cells[-1] for name, cells in rows().items()}
    assert {name for name, wall in walls.items() if wall == "either"} == confined
    assert {name for name, wall in walls.items() if wall == "trusted"} == {
        case.skill for case in CASES
    } - confined - MACHINERY


async def test_each_does_its_work_on_a_node(place: Place, client: Cluster) -> None:
    await _each(place, client, CASES)


async def test_each_that_needs_no_trust_does_the_same_behind_the_walls(place: Place, client: Cluster) -> None:
    cases = [case for case in CASES if case.confined]
    for name in {case.skill for case in cases}:
        await make_live(client, _bundle(folders()[name], place.web.target), f"walled/{name}")
    await _each(place, client, cases, "walled/")


async def _each(place: Place, client: Cluster, cases: Sequence[Case], prefix: str = "") -> None:
    """In their order: what is searched for was added before."""
    for case in cases:
        job = await client.submit_task(type=prefix + case.skill, payload=case.payload(place))
        found = await job.wait(timeout=60)
        assert case.holds(found), (case.skill, found)
        if case.skill == "document-map":
            place.mapped[:] = [found]


async def test_behind_the_walls_no_secret_is_told(place: Place, client: Cluster) -> None:
    """A skill of somebody else's takes a shipped skill's name."""
    await make_live(client, _bundle(folders()["communication"], place.web.target), "communication")
    with pytest.raises(TaskFailed, match=r"BAD_SETTINGS.*channels|channels: Field required"):
        await (
            await client.submit_task(type="communication", payload={"channel": "hook", "text": "hi"})
        ).wait(timeout=60)


def _bundle(folder: Path, target: str) -> bytes:
    """The folder as it is; web-fetch is allowed to reach the web server."""
    files = collect(folder)
    text = files[MANIFEST_FILE].content.decode()
    if folder.name == "web_fetch":
        text = text.replace('\'{"handler"', f'\'{{"network":["{target}"],"handler"')
    return pack({**files, MANIFEST_FILE: File(text.encode())})
