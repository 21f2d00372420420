"""`coterie workflow plan`: what a file says, without a cluster unless it is to be asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import EXIT_USAGE, CommandFailed, Failure
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coterie.client.cluster import Cluster
    from coterie.client.workflows import Plan as Answer
    from coterie.client.workflows import Problem as Told
    from coterie.core.graph.model import Problem as Found
    from coterie.core.graph.plan import Plan
    from coterie.node.workflows import Loaded

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=LeafCommand)
@click.argument("file", type=FILE)
@click.option("--format", "form", type=click.Choice(["text", "mermaid"]), default="text", show_default=True)
@click.option("--rule", default="", help="Which routing rule of the file, when several have a workflow.")
@click.option("--check", is_flag=True, help="Ask the cluster too: for skills, agents, kept workflows.")
@click.pass_obj
def plan(session: Session, file: Path, form: str, rule: str, check: bool) -> None:
    """Show how the workflow in FILE would run: stages, critical path; or everything that is wrong with it.

    \b
    coterie workflow plan delivery.yaml
    coterie workflow plan delivery.yaml --format mermaid
    coterie workflow plan delivery.yaml --check       whether this cluster could run it
    """
    if check:
        _ask(session, file, form, rule)
    else:
        _show(session, file, form, rule)


def _show(session: Session, file: Path, form: str, rule: str) -> None:
    from coterie.core.graph.plan import mermaid_of, plan_of, text_of

    loaded = read(file, rule)
    found = plan_of(loaded.graph)
    drawn = form == "mermaid"
    text = mermaid_of(loaded.graph) if drawn else text_of(loaded.graph, found) + _needs(loaded.needs)
    session.emit(
        _document(loaded, found),
        lambda out: out.print(text, soft_wrap=True, markup=False, highlight=False),
    )


def _ask(session: Session, file: Path, form: str, rule: str) -> None:
    from coterie.client.workflow import Workflow

    try:
        flow = Workflow.from_file(file, rule=rule)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(Failure(EXIT_USAGE, "INVALID_ARGUMENT", f"{file}: {error}")) from error

    async def work(cluster: Cluster) -> Answer:
        return await cluster.workflows.plan(flow)

    found = session.call(work)
    if found.problems:
        raise _wrong(file, found.problems)
    document = {
        "workflow": found.graph,
        "stages": found.stages,
        "critical_path": found.critical_path,
        "critical_ms": found.critical_ms,
        "needs": found.needs,
        "mermaid": found.mermaid,
    }
    text = found.mermaid if form == "mermaid" else found.text + _needs(found.needs)
    session.emit(document, lambda out: out.print(text, soft_wrap=True, markup=False, highlight=False))


def _needs(names: Sequence[str]) -> str:
    return f"\nneeds inputs: {', '.join(names)}" if names else ""


def _wrong(file: Path, problems: Sequence[Found | Told]) -> CommandFailed:
    count = len(problems)
    return CommandFailed(
        Failure(
            EXIT_USAGE,
            "INVALID_ARGUMENT",
            f"{file}: {count} problem{'s' if count > 1 else ''}",
            reason=problems[0].code,
            violations=tuple((one.where, one.text) for one in problems),
            facts={"cycles": [list(one.cycle) for one in problems if one.cycle]},
        )
    )


def read(file: Path, rule: str) -> Loaded:
    """The workflow in a file. Raises CommandFailed with all its problems."""
    from coterie.node.workflows import load

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(Failure(EXIT_USAGE, "INVALID_ARGUMENT", f"{file}: {error}")) from error
    loaded = load(text, name=file.stem, rule=rule)
    if loaded.problems:
        raise _wrong(file, loaded.problems)
    return loaded


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
