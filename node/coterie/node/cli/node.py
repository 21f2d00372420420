"""`coterie node start`."""

from __future__ import annotations

from pathlib import Path

import click

from coterie.node.cli.failures import EXIT_DEFECT, EXIT_REFUSED, EXIT_USAGE, CommandFailed, Failure
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

EXIT_NODE_FAILED = 1  # it had started and could not go on
_EXIT_CODES = {0: 0, 1: EXIT_NODE_FAILED, 2: EXIT_USAGE, 4: EXIT_REFUSED}


@click.command(cls=LeafCommand)
@click.option(
    "--config",
    "configs",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Cluster file or directory of them; later ones overlay earlier ones.",
)
@click.option(
    "--id", "node_id", default="", envvar="COTERIE_NODE_ID", help="Which node of it. COTERIE_NODE_ID."
)
@click.option("--insecure", is_flag=True, help="Allow plain text on loopback.")
@click.option("--join", is_flag=True, help="It was added to a running cluster: wait to be taken in.")
@click.pass_obj
def start(session: Session, configs: tuple[Path, ...], node_id: str, insecure: bool, join: bool) -> int:
    """Run a node in this process until it is told to stop (SIGTERM, Ctrl-C)."""
    # Skill processes are forked from this one before gRPC exists in it: nothing is imported before this line
    # but what parsing the command line needs, and the node decides what comes next.
    from coterie.node.main import run

    code = run(configs, node_id, insecure, join)
    exit_code = _EXIT_CODES.get(code, EXIT_DEFECT)
    if code and session.json:
        # The node has said on standard error what was wrong; people need no second line.
        reason = "BAD_CONFIG" if exit_code == EXIT_USAGE else "NODE_FAILED"
        message = f"node {node_id or 'of this file'} ended with exit code {code}; its log says why"
        raise CommandFailed(Failure(exit_code, "FAILED_PRECONDITION", message, reason))
    if session.json:
        session.emit({"node": node_id}, lambda out: None)
    return exit_code
