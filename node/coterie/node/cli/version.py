"""`coterie version`."""

from __future__ import annotations

import platform

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session
from coterie.node.version import VERSION


@click.command(cls=LeafCommand)
@click.pass_obj
def version(session: Session) -> None:
    """Print the version of this program (the nodes' versions are in `coterie nodes --json`)."""
    python, system = platform.python_version(), platform.platform(terse=True)
    document = {"version": VERSION, "python": python, "platform": system}
    if session.json:
        session.emit(document, lambda out: None)
    else:  # without rich, so that it answers at once
        click.echo(f"coterie {VERSION} (Python {python}, {system})")
