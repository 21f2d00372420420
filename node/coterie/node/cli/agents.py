"""`coterie agents apply|list|show|rollback|rm`; `status` has a file of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.agents import Agent, AgentStatus
    from coterie.client.cluster import Cluster

SHORT = 12


@click.command(cls=LeafCommand)
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--canary", default=100, type=click.IntRange(1, 100), help="Percent of new runs that get it.")
@click.option(
    "--registry", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its entries too."
)
@click.option("--check", is_flag=True, help="Say what is wrong, and change nothing.")
@click.pass_obj
def apply(
    session: Session, directories: tuple[Path, ...], canary: int, registry: Path | None, check: bool
) -> None:
    """Make the files of each DIRECTORY what new runs of that agent get."""
    entries = _entries(registry) if registry else {}

    async def work(cluster: Cluster) -> list[Agent]:
        from coterie.client.agents import read_agent_files

        applied = []
        for directory in directories:
            files = read_agent_files(directory)
            entry = next((entries[name] for name in _ids(files) if name in entries), None)
            if entry is not None:
                files["registry.json"] = json.dumps(entry, sort_keys=True)
            elif registry is not None:
                session.say(
                    f"{directory}: no entry of {registry} is its own, by id or alias; it has none now"
                )
            applied.append(await cluster.agents.apply(files, percent=canary, validate_only=check))
        return applied

    found = session.call(work)
    session.emit({"agents": found}, lambda out: _print(out, found))


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_agents(session: Session) -> None:
    """List the agents, with the revisions that new runs get."""

    async def work(cluster: Cluster) -> list[Agent]:
        return await cluster.agents.list()

    found = session.call(work)
    session.emit({"agents": found}, lambda out: _print(out, found))


@click.command(cls=LeafCommand)
@click.argument("agent_id")
@click.option("--revision", default="", help="Of another revision than the live one.")
@click.pass_obj
def show(session: Session, agent_id: str, revision: str) -> None:
    """Show an agent: its revisions, how its runs went, and the files of one revision."""

    async def work(cluster: Cluster) -> tuple[Agent, list[AgentStatus]]:
        return await cluster.agents.get(agent_id, revision), await cluster.agents.status(agent_id)

    found, standing = session.call(work)
    session.emit({"agent": found, "status": standing[0]}, lambda out: _show(out, found, standing))


@click.command(cls=LeafCommand)
@click.argument("agent_id")
@click.pass_obj
def rollback(session: Session, agent_id: str) -> None:
    """End a canary; without one, go back to what was live before."""

    async def work(cluster: Cluster) -> Agent:
        return await cluster.agents.roll_back(agent_id)

    found = session.call(work)
    session.emit({"agent": found}, lambda out: _print(out, [found]))


@click.command(cls=LeafCommand)
@click.argument("agent_id")
@click.pass_obj
def remove(session: Session, agent_id: str) -> None:
    """Forget an agent."""

    async def work(cluster: Cluster) -> None:
        await cluster.agents.remove(agent_id)

    session.call(work)
    session.emit({"removed": agent_id}, lambda out: out.print(f"{agent_id} is removed"))


def _entries(registry: Path) -> dict[str, dict[str, Any]]:
    from coterie.node.agents.definition import read_registry
    from coterie.node.agents.files import AgentProblems
    from coterie.node.cli.failures import bad_input

    try:
        return read_registry(registry.read_text(encoding="utf-8"))
    except (AgentProblems, OSError, UnicodeDecodeError) as error:
        raise bad_input("--registry", str(error)) from None


def _ids(files: dict[str, str]) -> list[str]:
    """The id in config.yaml, and its aliases; empty where it is not to be read: the server says why."""
    from coterie.node.agents.definition import read_definition
    from coterie.node.agents.files import AgentProblems

    try:
        config = read_definition(files).config
    except AgentProblems:
        return []
    return [config.id, *config.aliases]


def _print(out: Console, agents: list[Agent]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (one.id, one.name, _live(one), _canary(one), str(len(one.revisions)), ", ".join(one.domains))
        for one in agents
    ]
    columns = ("AGENT", "NAME", "LIVE", "CANARY", "REVISIONS", "DOMAINS")
    out.print(table(columns, rows, right=("REVISIONS",)) if rows else "there is no agent")
    for one in agents:
        for note in one.notes:
            out.print(f"{one.id}: note: {note}", markup=False, highlight=False)


def _show(out: Console, agent: Agent, standing: list[AgentStatus]) -> None:
    from coterie.node.cli.agent_status import print_status

    _print(out, [agent])
    for one in agent.revisions:
        at = one.applied.isoformat(timespec="seconds") if one.applied else ""
        out.print(f"  {one.revision[:SHORT]}  {one.version:<10} {at}", markup=False, highlight=False)
    out.print()
    print_status(out, standing)
    for name, text in sorted(agent.files.items()):
        out.print(f"\n--- {name}\n{text.rstrip()}", markup=False, highlight=False)


def _live(agent: Agent) -> str:
    """With the version that its author gave it."""
    version = next((one.version for one in agent.revisions if one.revision == agent.live), "")
    return f"{_short(agent.live)} {version}".strip()


def _short(revision: str) -> str:
    return revision[:SHORT] or "-"


def _canary(agent: Agent) -> str:
    return f"{_short(agent.canary)} ({agent.canary_percent} %)" if agent.canary else "-"
