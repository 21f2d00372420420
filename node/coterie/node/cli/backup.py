"""`coterie backup create|verify|restore`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import EXIT_REFUSED, EXIT_TASK_FAILED, CommandFailed, Failure, bad_input
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.backup import BackupFile
    from coterie.client.cluster import Cluster
    from coterie.node.backup.archive import Archive
    from coterie.node.backup.manifest import Head
    from coterie.node.backup.restoring import Plan

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=LeafCommand)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="New file, or the directory for one."
)
@click.option("--no-history", is_flag=True, help="Without tasks that have ended, events and audit records.")
@click.pass_obj
def create(session: Session, out: Path, no_history: bool) -> None:
    """Write everything that was acknowledged before this moment into one file. Needs the role admin.

    The cluster goes on meanwhile. The file holds payloads, results and values as they are, and nobody but you
    can read it: keep it so. In a directory it is called coterie-CLUSTER-TIME.tar."""
    if out.is_file():
        raise bad_input("--out", f"{out}: is there already; choose another file, or a directory")
    if not out.is_dir() and not out.parent.is_dir():
        raise bad_input("--out", f"{out.parent}: is no directory; make it first")

    within = out.is_dir()

    async def work(cluster: Cluster) -> BackupFile:
        path = out
        if within:
            name = (await cluster.get_status(stale=True)).cluster_name
            path = out / _name(name, time.time())
        return await cluster.create_backup(path, history=not no_history)

    made = session.call(work, patient=True)
    for warning in _lacking(made.history_gaps):
        session.say(f"warning: {warning}")
    document = {
        "file": made.path,
        "size_bytes": made.size_bytes,
        "sha256": made.sha256,
        "history_gaps": made.history_gaps,
    }
    text = f"{made.path}: {made.size_bytes} bytes, sha256 {made.sha256}"
    session.emit(document, lambda console: console.print(text, soft_wrap=True))


def _name(cluster: str, now_s: float) -> str:
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in cluster)
    return f"coterie-{safe}-{datetime.fromtimestamp(now_s, UTC):%Y%m%dT%H%M%SZ}.tar"


@click.command(cls=LeafCommand)
@click.argument("file", type=_FILE)
@click.pass_obj
def verify(session: Session, file: Path) -> None:
    """Check that FILE is whole: every byte, every record, every blob that is referred to.

    Names the place of the first damage; exit code 1 then."""
    archive = _opened(file)
    from coterie.node.backup.manifest import BLOBS, BadBackup
    from coterie.node.backup.restoring import check_contents

    try:
        state = check_contents(archive)
    except BadBackup as error:
        raise _bad(error) from error
    facts = {
        **_facts(archive.head),
        "tasks": len(state.tasks),
        "finished": state.meta.finished_total,
        "blobs": len(archive.names(BLOBS)),
        "lost_blobs": archive.manifest.absent,
        "history_through": archive.manifest.history_through,
        "history_gaps": archive.manifest.history_gaps,
    }

    def human(console: Console) -> None:
        head = archive.head
        console.print(
            f"{file}: whole; cluster {head.cluster_name} ({head.cluster_id}) at index {head.index}, "
            f"{facts['made_at']}; {facts['tasks']} live tasks, {facts['blobs']} blobs",
            soft_wrap=True,
        )
        for warning in _warnings(archive):
            console.print(f"warning: {warning}", soft_wrap=True)

    session.emit(facts, human)


def _warnings(archive: Archive) -> list[str]:
    found = []
    if archive.manifest.absent:
        found.append(f"{len(archive.manifest.absent)} blobs were lost before the backup was made")
    return found + _lacking(archive.manifest.history_gaps)


def _lacking(gaps: Sequence[tuple[int, int]]) -> list[str]:
    return [
        f"the history lacks what happened from index {after + 1} to {up_to}, at least in part: the ledger of "
        "the node that made the backup had a gap there; another node may have it"
        for after, up_to in gaps
    ]


def _facts(head: Head) -> dict[str, Any]:
    return {
        "cluster_id": head.cluster_id,
        "cluster_name": head.cluster_name,
        "index": head.index,
        "term": head.term,
        "made_at": datetime.fromtimestamp(head.made_at_ms / 1000, UTC).isoformat(timespec="seconds"),
        "node": head.node,
        "version": head.version,
        "history": head.with_history,
    }


@click.command(cls=LeafCommand)
@click.argument("file", type=_FILE)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="New directory; `storage.dir` of the nodes. Each gets DATA/ID.",
)
@click.option(
    "--config",
    "configs",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Cluster file of the new cluster; its `cluster.name` must be new.",
)
@click.option("--only", metavar="ID", default="", help="One node begins alone; the others are added to it.")
@click.pass_obj
def restore(session: Session, file: Path, data: Path, configs: tuple[Path, ...], only: str) -> None:
    """Make a NEW cluster of FILE: a data directory for each founder that the cluster file names.

    Bring DATA/ID to the host of each node, then start them as always. Nodes and clients of the old cluster
    are not taken for those of the new one. Nothing is overwritten."""
    plan = _plan(data, configs, only)
    archive = _opened(file)
    from coterie.node.backup import restoring
    from coterie.node.backup.manifest import BadBackup

    try:
        made = restoring.restore(archive, plan)
    except BadBackup as error:
        raise _bad(error) from error
    except restoring.RestoreRefused as error:
        failure = Failure(EXIT_REFUSED, "FAILED_PRECONDITION", str(error), "RESTORE_REFUSED")
        raise CommandFailed(failure) from error
    for warning in _warnings(archive):
        session.say(f"warning: {warning}")
    document = {
        **_facts(archive.head),
        "new_cluster_id": made.cluster_id,
        "new_cluster_name": plan.cluster_name,
        "epoch": made.epoch,
        "directories": made.directories,
        "tasks": made.tasks,
        "finished": made.finished,
        "blobs": made.blobs,
    }

    def human(console: Console) -> None:
        where = ", ".join(str(path) for path in made.directories.values())
        console.print(f"{plan.cluster_name}: {made.tasks} live tasks, {made.blobs} blobs in {where}")
        console.print("start the nodes with the same cluster file: coterie node start --config … --id …")

    session.emit(document, human)


def _plan(data: Path, configs: tuple[Path, ...], only: str) -> Plan:
    from coterie.node.backup.restoring import Plan
    from coterie.node.config import load_config, node_settings

    config = load_config(configs, os.environ).config
    founders = [entry.id for entry in config.cluster.nodes if not entry.join]
    if not founders:
        raise bad_input("--config", "the file names no nodes; add cluster.nodes")
    if only and only not in founders:
        raise bad_input("--only", f"{only!r} is no founder in the file; there are {', '.join(founders)}")
    settings = node_settings(config, founders[0], insecure=True, secrets=False)
    chosen = [only] if only else settings.founders
    addresses = {name: settings.members[name] for name in chosen}
    return Plan(data.absolute(), settings.cluster_name, addresses)


def _opened(file: Path) -> Archive:
    from coterie.node.backup.archive import open_archive
    from coterie.node.backup.manifest import BadBackup

    try:
        return open_archive(file)
    except BadBackup as error:
        raise _bad(error) from error


def _bad(error: Exception) -> CommandFailed:
    return CommandFailed(Failure(EXIT_TASK_FAILED, "DATA_LOSS", str(error), "BAD_BACKUP"))
