"""What every demo stands on: real nodes, a client, the live view, and a journal that the view shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from coterie.client import TLS, Cluster, CoterieError
from coterie.node.demo import output
from coterie.node.demo.journal import Journal
from coterie.node.demo.proof import Check
from coterie.node.demo.view import show
from coterie.node.localcluster import LocalCluster

READY_MAX_S = 90.0  # a machine with other work to do starts three processes slowly
STATUS_PERIOD_S = 0.25
# For scenes that count what was lost: an election, or a node that stands for two seconds on a busy machine,
# ends no attempt. A node is given up after 3 s.
PATIENT: Mapping[str, Any] = {"faultTolerance": {"healthCheck": {"unhealthyThreshold": 20}}}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller of the demo gave: a file with data, and a model instead of the scripted one."""

    data: Path | None = None
    model_url: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a scene has made before its nodes start: keys of their file, and things that it needs itself."""

    options: Mapping[str, Any] = field(default_factory=dict)
    props: Any = None


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scene plays with. `say` shows a line; `journal.total` and `finish` move the bar."""

    nodes: LocalCluster
    cluster: Cluster
    journal: Journal
    out: Path
    setting: Setting = field(default_factory=lambda: Setting())

    def say(self, text: str) -> None:
        """Show a line with its time."""
        self.journal.say(text)

    def client(self, endpoints: str = "") -> Cluster:
        """A further client; with an endpoint, one that talks to that node alone. Use it with `async with`."""
        return client_of(self.nodes, endpoints or self.nodes.endpoints, alone=bool(endpoints))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A demo of one thing: the cluster it needs, and what happens in it. `play` returns the proof."""

    title: str
    play: Callable[[Stage], Awaitable[Sequence[Check]]]
    unit: str = "tasks"
    nodes: int = 3
    capacity: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    run_max_s: float = 300.0
    set_up: Callable[[Path, Asked], AbstractContextManager[Setting]] | None = None


async def run_scene(
    scene: Scene, console: Console, out: Path, plain: bool, asked: Asked | None = None
) -> int:
    """Play it; the exit code. Every node process is stopped when this returns or raises."""
    console.print(scene.title, markup=False, highlight=False)
    with scene.set_up(out, asked or Asked()) if scene.set_up else nullcontext(Setting()) as setting:
        return await _run(scene, setting, console, out, plain)


async def _run(scene: Scene, setting: Setting, console: Console, out: Path, plain: bool) -> int:
    journal = Journal(total=0, unit=scene.unit)
    options = {**scene.options, **setting.options}
    nodes = LocalCluster(nodes=scene.nodes, capacity=scene.capacity, options=options, env=scene.env)
    try:
        async with beside(show(console, journal, plain)):
            nodes.start()
            journal.processes = dict.fromkeys(nodes.node_ids, "running")
            leader = await nodes.wait_ready(READY_MAX_S)
            journal.say(f"{len(nodes.node_ids)} nodes are ready, {leader} leads")
            async with (
                asyncio.timeout(scene.run_max_s),
                client_of(nodes, nodes.endpoints) as cluster,
                beside(follow(journal, nodes, cluster)),
            ):
                checks = await scene.play(Stage(nodes, cluster, journal, out, setting))
        return _conclude(console, nodes, checks, out)
    except Exception:
        _keep_logs(console, nodes, out)
        raise
    finally:
        nodes.stop()


async def follow(journal: Journal, nodes: LocalCluster, cluster: Cluster) -> None:
    """Keep the journal's picture of nodes and queue fresh for the view."""
    while True:
        await asyncio.sleep(STATUS_PERIOD_S)
        alive = {node_id: nodes.alive(node_id) for node_id in nodes.node_ids}
        journal.processes = {name: "running" if up else "dead" for name, up in alive.items()}
        try:
            async with asyncio.timeout(STATUS_PERIOD_S * 4):
                journal.status = await cluster.get_status(stale=True)
        except (CoterieError, TimeoutError):
            # Between a kill and the election nobody may answer in time; the old picture stays.
            continue


def client_of(nodes: LocalCluster, endpoints: str, *, alone: bool = False) -> Cluster:
    """A client with the certificate made for it; `alone`: it asks no node but these."""
    paths = nodes.client_tls
    assert paths is not None
    return Cluster(endpoints, tls=TLS(ca=paths.ca, cert=paths.cert, key=paths.key), auto_discovery=not alone)


@asynccontextmanager
async def beside(coroutine: Any) -> AsyncIterator[None]:
    """Run a coroutine that never ends beside a block, and stop it with the block."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def _conclude(console: Console, nodes: LocalCluster, checks: Sequence[Check], out: Path) -> int:
    output.print_proof(console, checks)
    if checks and all(check.kept for check in checks):
        console.print("every promise was kept", style="green")
        return 0
    console.print("a promise was BROKEN", style="bold red")
    _keep_logs(console, nodes, out)
    return 1


def _keep_logs(console: Console, nodes: LocalCluster, out: Path) -> None:
    logs = output.keep_logs(out, [nodes.log_path(node_id) for node_id in nodes.node_ids])
    console.print(f"the nodes' logs are in {logs}", markup=False, highlight=False, soft_wrap=True)
