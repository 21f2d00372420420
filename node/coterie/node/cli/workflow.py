"""`coterie workflow plan`: what a file says, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import EXIT_USAGE, CommandFailed, Failure
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from coterie.core.graph.plan import Plan
    from coterie.node.workflows import Loaded

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=LeafCommand)
@click.argument("file", type=FILE)
@click.option("--format", "form", type=click.Choice(["text", "mermaid"]), default="text", show_default=True)
@click.option("--rule", default="", help="Which routing rule of the file, when several have a workflow.")
@click.pass_obj
def plan(session: Session, file: Path, form: str, rule: str) -> None:
    """Show how the workflow in FILE would run: stages, critical path; or everything that is wrong with it.

    \b
    coterie workflow plan delivery.yaml
    coterie workflow plan delivery.yaml --format mermaid
    """
    from coterie.core.graph.plan import mermaid_of, plan_of, text_of

    loaded = read(file, rule)
    found = plan_of(loaded.graph)
    text = mermaid_of(loaded.graph) if form == "mermaid" else text_of(loaded.graph, found)
    needs = f"\nneeds inputs: {', '.join(loaded.needs)}" if loaded.needs and form == "text" else ""
    session.emit(
        _document(loaded, found),
        lambda out: out.print(text + needs, soft_wrap=True, markup=False, highlight=False),
    )


def read(file: Path, rule: str) -> Loaded:
    """The workflow in a file. Raises CommandFailed with all its problems."""
    from coterie.node.workflows import load

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(Failure(EXIT_USAGE, "INVALID_ARGUMENT", f"{file}: {error}")) from error
    loaded = load(text, name=file.stem, rule=rule)
    if not loaded.problems:
        return loaded
    count = len(loaded.problems)
    raise CommandFailed(
        Failure(
            EXIT_USAGE,
            "INVALID_ARGUMENT",
            f"{file}: {count} problem{'s' if count > 1 else ''}",
            reason=loaded.problems[0].code,
            violations=tuple((one.where, one.text) for one in loaded.problems),
            facts={"cycles": [list(one.cycle) for one in loaded.problems if one.cycle]},
        )
    )


def _document(loaded: Loaded, plan: Plan) -> dict[str, Any]:
    from coterie.core.graph.plan import mermaid_of
    from coterie.core.graph.reading import write_graph

    return {
        "workflow": write_graph(loaded.graph),
        "stages": plan.stages,
        "critical_path": plan.critical_path,
        "critical_ms": plan.critical_ms,
        "needs": loaded.needs,
        "mermaid": mermaid_of(loaded.graph),
    }
