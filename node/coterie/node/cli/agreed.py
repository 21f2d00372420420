"""`coterie config show|diff|apply|history|rollback`: what the cluster has agreed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import LeafCommand, WholeType
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.cluster_config import AppliedConfig, ConfigRevision

_FILES = click.argument("files", nargs=-1, type=click.Path(path_type=Path))
_RESET = click.option(
    "--reset", multiple=True, metavar="KEY", help="Give this key or section its default again; repeatable."
)
_EXPECTED = click.option(
    "--expected", type=WholeType(1), default=None, help="Refuse when this revision does not hold."
)
_NOTE = click.option("--note", default="", help="Why, for the history.")


@click.command(cls=LeafCommand)
@click.option("--revision", type=WholeType(1), default=None, help="An earlier one that is kept.")
@click.option("--given", is_flag=True, help="Only what was set, without defaults.")
@click.pass_obj
def show(session: Session, revision: int | None, given: bool) -> None:
    """Show what the cluster has agreed on: limits, queue, retry, routing, breakers."""

    async def work(cluster: Cluster) -> ConfigRevision:
        return await cluster.config.get(revision or 0)

    found = session.call(work)
    values = found.given if given else found.full
    document = {**_head(found), "values": values, "given": sorted(found.given)}
    session.emit(document, lambda out: _print_values(out, found, values))


@click.command(cls=LeafCommand)
@_FILES
@_RESET
@click.pass_obj
def diff(session: Session, files: tuple[Path, ...], reset: tuple[str, ...]) -> None:
    """Say what applying FILES (or directories of them) would change. Nothing is changed."""
    _put(session, files, {"reset": reset, "validate_only": True})


@click.command(cls=LeafCommand)
@_FILES
@_RESET
@_EXPECTED
@_NOTE
@click.pass_obj
def apply(
    session: Session, files: tuple[Path, ...], reset: tuple[str, ...], expected: int | None, note: str
) -> None:
    """Set what FILES (or directories of them) say of what the cluster agrees on, on all nodes at once.

    Keys that the files do not give stay as they are. Keys that are of each node's own file are named and left
    alone: they take effect when a node starts."""
    _put(session, files, {"reset": reset, "expected_revision": expected or 0, "note": note})


@click.command(cls=LeafCommand)
@click.pass_obj
def history(session: Session) -> None:
    """List the revisions that are kept: who put each in force, when, and why."""

    async def work(cluster: Cluster) -> list[ConfigRevision]:
        return await cluster.config.history()

    found = session.call(work)
    session.emit({"revisions": [_head(one) for one in found]}, lambda out: _print_history(out, found))


@click.command(cls=LeafCommand)
@click.argument("revision", type=WholeType(1))
@_EXPECTED
@_NOTE
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.pass_obj
def rollback(session: Session, revision: int, expected: int | None, note: str, dry_run: bool) -> None:
    """Put in force again what REVISION said, as a new revision."""

    async def work(cluster: Cluster) -> AppliedConfig:
        return await cluster.config.roll_back(
            revision, expected_revision=expected or 0, note=note, validate_only=dry_run
        )

    _emit(session, session.call(work), (), done=not dry_run)


def _put(session: Session, files: Sequence[Path], options: dict[str, Any]) -> None:
    from coterie.node.cli.failures import bad_input
    from coterie.node.config.replicated import split

    if not files and not options["reset"]:
        raise bad_input("FILES", "name files with keys to set, or keys with --reset")
    text, others = split(list(files)) if files else ("{}", ())

    async def work(cluster: Cluster) -> AppliedConfig:
        return await cluster.config.apply(text, **options)

    _emit(session, session.call(work), others, done="validate_only" not in options)


def _emit(session: Session, applied: AppliedConfig, others: tuple[str, ...], *, done: bool) -> None:
    changes = {key: {"before": old, "after": new} for key, (old, new) in applied.changes.items()}
    document = {
        "revision": applied.config.revision,
        "changes": changes,
        "of_each_node": others,
        "applied": done,
    }
    session.emit(document, lambda out: _print_applied(out, applied, others, done))


def _head(revision: ConfigRevision) -> dict[str, Any]:
    return {"revision": revision.revision, "by": revision.by, "note": revision.note, "at": revision.at}


def _print_values(out: Console, revision: ConfigRevision, values: Mapping[str, Any]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (key, _shown(value), "set" if key in revision.given else "default") for key, value in values.items()
    ]
    out.print(table(("KEY", "VALUE", ""), rows))
    out.print(f"revision {revision.revision}, by {revision.by} at {_when(revision)}", soft_wrap=True)


def _print_applied(out: Console, applied: AppliedConfig, others: tuple[str, ...], done: bool) -> None:
    for key, (old, new) in applied.changes.items():
        out.print(f"{key}: {_shown(old)} -> {_shown(new)}", soft_wrap=True)
    if others:
        out.print(f"of each node's own file, left alone: {', '.join(others)}", soft_wrap=True)
    if not applied.changes:
        out.print(f"nothing changes; revision {applied.config.revision} holds")
    elif done:
        out.print(f"revision {applied.config.revision} is in force")


def _print_history(out: Console, revisions: list[ConfigRevision]) -> None:
    from coterie.node.cli.output import table

    rows = [(str(one.revision), _when(one), one.by, one.note) for one in revisions]
    out.print(table(("REVISION", "SINCE", "BY", "NOTE"), rows, right=("REVISION",)))


def _when(revision: ConfigRevision) -> str:
    return revision.at.strftime("%Y-%m-%d %H:%M:%S") if revision.at else "-"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
