"""`coterie config validate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.node.config import LoadedConfig


@click.command(cls=LeafCommand)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
def validate(session: Session, files: tuple[Path, ...]) -> None:
    """Check cluster FILES (or directories of them) together, as `coterie node start` would read them.

    Every error is named at once (exit code 2). Warnings and notes are printed and change nothing."""
    from coterie.node.config import load_config

    loaded = load_config(files, os.environ)
    cluster = loaded.config.cluster
    document = {
        "cluster": cluster.name,
        "nodes": list(loaded.config.node_ids),
        "warnings": list(loaded.warnings),
        "notes": list(loaded.notes),
        "not_yet": list(loaded.not_yet),
    }
    session.emit(document, lambda out: _print(out, loaded))


def _print(out: Console, loaded: LoadedConfig) -> None:
    for warning in loaded.warnings:
        out.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    for note in loaded.notes:
        out.print(f"note: {note}", soft_wrap=True)
    for late in loaded.not_yet:
        out.print(f"not yet: {late}", style="yellow", soft_wrap=True)
    ids = ", ".join(loaded.config.node_ids) or "no nodes"
    found = f"{len(loaded.warnings)} warnings, {len(loaded.notes)} notes"
    out.print(f"ok: cluster {loaded.config.cluster.name} ({ids}); {found}", soft_wrap=True)
