"""`coterie dev`: a cluster of real processes on this machine, in one terminal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from coterie.node.cli.connect import CALL_S, DEV_DIR, Target, TlsFiles
from coterie.node.cli.failures import EXIT_UNAVAILABLE, CommandFailed, Failure, bad_input
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from coterie.node.cli.live import Screen, StatusView
    from coterie.node.localcluster import LocalCluster

READY_S: Final = 90.0
LOOK_EVERY_S: Final = 1.0
RESTART_AFTER_S: Final = 3.0
NODES_MAX: Final = 9
_KEY: Final = "OPENAI_API_KEY"
_EXAMPLE: Final = """submit echo --payload '{"text": "hello"}' --wait"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and where."""

    nodes: int
    directory: Path
    capacity: int
    first_port: int | None
    insecure: bool
    auth: bool
    skill_dirs: tuple[Path, ...]
    files: tuple[Path, ...]
    fresh: bool
    restart: bool
    model_url: str
    model: str
    model_key: str

    @property
    def options(self) -> dict[str, Any]:
        """Further keys of the cluster's file. The key of the API stays in the environment."""
        found: dict[str, Any] = {}
        if self.skill_dirs:
            found["skills"] = {"dirs": [str(path.resolve()) for path in self.skill_dirs]}
        if self.auth:
            found["security"] = {"auth": "required"}
        if self.model_url:
            key = {"apiKey": {"env": _KEY}} if self.model_key else {}
            main = {"baseUrl": self.model_url, "model": self.model, **key}
            found["llm"] = {"default": "main", "providers": {"main": main}}
        return found

    @property
    def flags(self) -> dict[tuple[str | int, ...], str]:
        """Keys that options say, and which; files must not say them too."""
        model = ("llm",), "--model-url (or $OPENAI_BASE_URL)"
        said = ((("skills", "dirs"), "--skills"), (("security", "auth"), "--auth"), model)
        options = self.options
        return {path: flag for path, flag in said if str(path[0]) in options}


@click.command(cls=LeafCommand)
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), default=3, show_default=True)
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), default=DEV_DIR, show_default=True
)
@click.option(
    "--capacity", type=click.IntRange(1, 10_000), default=16, show_default=True, help="Skill slots of a node."
)
@click.option(
    "--port", "first_port", type=click.IntRange(1, 65_535), help="Of the first node. Default: free ports."
)
@click.option("--insecure", is_flag=True, help="Plain text instead of TLS.")
@click.option("--auth", is_flag=True, help="Tokens, roles and the audit log, as on a real network.")
@click.option(
    "--skills",
    "skill_dirs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory of your own skills. Repeatable.",
)
@click.option(
    "--config",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Further keys of a cluster file, such as mcp, llm or skills.settings. Repeatable.",
)
@click.option("--fresh", is_flag=True, help="Forget the tasks of an earlier run in this directory.")
@click.option("--restart", is_flag=True, help="Start a node that died again, 3 seconds later.")
@click.option(
    "--model-url",
    envvar="OPENAI_BASE_URL",
    default="",
    help="OpenAI-compatible API for agents and ctx.llm, or $OPENAI_BASE_URL; its key: $OPENAI_API_KEY.",
)
@click.option("--model", envvar="OPENAI_MODEL", default="gpt-4o-mini", show_default=True, help="Its model.")
@click.option("--model-key", envvar=_KEY, default="", hidden=True)
@click.pass_obj
def dev(session: Session, /, **options: Any) -> None:
    """Run a cluster of real processes on loopback, with TLS made on the fly, until Ctrl-C.

    In a second terminal in this directory, `coterie status` and all other commands find it by themselves."""
    from coterie.node.cli import devdir, devfiles

    plan = Plan(**options)
    if plan.auth and plan.insecure:
        raise bad_input("--auth", "needs certificates: leave --insecure out")
    devfiles.check_before(plan.files, plan.flags)
    with devdir.only_one(plan.directory), _ends_like_ctrl_c():
        if plan.fresh:
            devdir.forget(plan.directory)
        ports = devdir.choose_ports(plan.directory, plan.nodes, plan.first_port)
        _run(session, plan, ports)


def _run(session: Session, plan: Plan, ports: list[int]) -> None:
    from coterie.node.cli import devdir, devfiles
    from coterie.node.localcluster import ClusterFailed, LocalCluster

    cluster = LocalCluster(
        plan.nodes, plan.directory, not plan.insecure, plan.capacity, options=plan.options, ports=ports
    )
    cluster.files = plan.files
    try:
        devfiles.check_together(cluster.config_path, plan.files)
        cluster.start()
        asyncio.run(_attend(session, plan, cluster))
    except ClusterFailed as error:
        raise CommandFailed(Failure(EXIT_UNAVAILABLE, "UNAVAILABLE", str(error), "CLUSTER_FAILED")) from error
    finally:
        devdir.remove_env(cluster.base_dir)
        cluster.stop()


async def _attend(session: Session, plan: Plan, cluster: LocalCluster) -> None:
    from coterie.node.cli import devdir
    from coterie.node.cli.live import Screen, StatusView
    from coterie.node.cli.output import console

    if not session.json:
        session.say(f"starting {plan.nodes} nodes in {plan.directory} …")
    await cluster.wait_ready(READY_S)
    tls_dir = cluster.client_tls.ca.parent if cluster.client_tls else None
    env_path = devdir.write_env(cluster.base_dir, cluster.endpoints, tls_dir)
    document = _document(cluster, env_path, plan.files)
    session.emit(document, lambda out: _banner(document))
    async with session.connect(_target(cluster)) as client:
        view = StatusView(client)
        out = console(err=session.json)  # the standard output holds the one document
        with Screen(out, view) as screen:
            await _look_after(plan, cluster, view, screen)


async def _look_after(plan: Plan, cluster: LocalCluster, view: StatusView, screen: Screen) -> None:
    from coterie.node.localcluster import ClusterFailed

    died: dict[str, float] = {}
    while True:
        await view.refresh()
        now = time.monotonic()
        for node_id in cluster.failed_nodes():
            died.setdefault(node_id, now)
        if len(died) == len(cluster.node_ids) and not plan.restart:
            raise ClusterFailed(f"every node has ended\n{cluster.log_tails()}")
        screen.draw({node_id: _process(cluster, node_id, died) for node_id in cluster.node_ids})
        for node_id in [name for name, when in died.items() if plan.restart and now - when > RESTART_AFTER_S]:
            del died[node_id]
            cluster.start_node(node_id)
        await asyncio.sleep(LOOK_EVERY_S)


def _process(cluster: LocalCluster, node_id: str, died: dict[str, float]) -> str:
    return "ended" if node_id in died or not cluster.alive(node_id) else f"pid {cluster.pid(node_id)}"


def _target(cluster: LocalCluster) -> Target:
    paths = cluster.client_tls
    tls = TlsFiles(str(paths.ca), str(paths.cert), str(paths.key)) if paths else None
    return Target(cluster.endpoints, tls, paths is None, CALL_S)


def _document(cluster: LocalCluster, env_path: Path, further: tuple[Path, ...]) -> dict[str, Any]:
    paths = cluster.client_tls
    tls = {"ca": paths.ca, "cert": paths.cert, "key": paths.key} if paths else None
    nodes = [
        {"id": node_id, "address": address, "pid": cluster.pid(node_id), "log": cluster.log_path(node_id)}
        for node_id, address in cluster.addresses.items()
    ]
    files: dict[str, Any] = {"directory": cluster.base_dir, "config": cluster.config_path, "env": env_path}
    if further:
        files["further"] = list(further)
    return {"endpoint": cluster.endpoints, "tls": tls, "nodes": nodes, **files}


def _banner(document: dict[str, Any]) -> None:
    tls = document["tls"]
    click.echo(f"endpoint  {document['endpoint']}")
    if tls:
        click.echo(f"tls       --tls-ca {tls['ca']} --tls-cert {tls['cert']} --tls-key {tls['key']}")
    click.echo(f"config    {' '.join(map(str, (document['config'], *document.get('further', ()))))}")
    click.echo(f"try       coterie {_EXAMPLE}")
    click.echo(f"          (in this directory, or after: source {document['env']})")
    click.echo("Ctrl-C stops all nodes; their data stays for the next run.\n")


@contextlib.contextmanager
def _ends_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and a closed terminal stop the nodes too; and Ctrl-C when a shell has told us to ignore it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
