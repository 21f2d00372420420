"""`coterie skills …`: from a folder to a skill of the cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.skills import PublishedSkill
    from coterie.node.skill_registry import Registered
    from coterie.skills.validation import Report

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SHORT = 12  # hex digits of a hash that people see


@click.command(cls=LeafCommand)
@click.argument("folders", metavar="FOLDER…", nargs=-1, required=True, type=FOLDER)
@click.pass_obj
def validate(session: Session, folders: tuple[Path, ...]) -> None:
    """Check FOLDERs with a SKILL.md, strictly: all faults at once, and nothing is run.

    \b
    coterie skills validate ./skills/web-search
    """
    found = [_report(folder) for folder in folders]
    wrong = [
        (f"{folder}: {field}", text)
        for folder, (report, _) in zip(folders, found, strict=True)
        for field, text in report.faults
    ]
    if wrong:
        raise _faulty(wrong)
    rows = [
        {
            "folder": str(folder),
            "name": report.name,
            "version": report.described.version,
            "revision": revision,
            "advice": [f"{field}: {text}" for field, text in report.advice],
        }
        for folder, (report, revision) in zip(folders, found, strict=True)
    ]
    session.emit({"skills": rows}, lambda out: _print_reports(out, rows))


@click.command(cls=LeafCommand)
@click.argument("folder", type=FOLDER)
@click.option("--id", "skill_id", default="", help="Name in the cluster. Default: the name in SKILL.md.")
@click.option("--approve", is_flag=True, help="Approve it at once, and make it live.")
@click.option("--canary", type=click.IntRange(1, 99), help="Approve it, and give it this share of new tasks.")
@click.pass_obj
def publish(session: Session, folder: Path, skill_id: str, approve: bool, canary: int | None) -> None:
    """Bring FOLDER to the cluster. It is quarantined until somebody approves it.

    \b
    coterie skills publish ./skills/shared/web-search --id shared/web-search
    """
    report, revision = _report(folder)
    if report.faults:
        raise _faulty([(f"{folder}: {field}", text) for field, text in report.faults])
    content = _bundle(folder)

    async def work(cluster: Cluster) -> PublishedSkill:
        name = skill_id or report.name
        skill = await cluster.skills.publish(name, content)
        if approve or canary is not None:
            await cluster.skills.approve(name, revision)
            skill = await cluster.skills.route(name, revision, 100 if canary is None else canary)
        return skill

    _show(session, session.call(work))


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_skills(session: Session) -> None:
    """List what was published, or is said of skills."""

    async def work(cluster: Cluster) -> list[PublishedSkill]:
        return await cluster.skills.list()

    found = session.call(work)
    session.emit({"skills": found}, lambda out: _print_skills(out, found))


@click.command(cls=LeafCommand)
@click.argument("skill_id", metavar="ID")
@click.pass_obj
def show(session: Session, skill_id: str) -> None:
    """Show the skill ID with its revisions."""

    async def work(cluster: Cluster) -> PublishedSkill:
        return await cluster.skills.get(skill_id)

    _show(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("skill_id", metavar="ID")
@click.argument("revision")
@click.option("--only", is_flag=True, help="Approve it, but leave live what is.")
@click.pass_obj
def approve(session: Session, skill_id: str, revision: str, only: bool) -> None:
    """Approve REVISION of the skill ID: new tasks get it. A canary keeps its share of them."""

    async def work(cluster: Cluster) -> PublishedSkill:
        skill = await cluster.skills.approve(skill_id, revision)
        if only or _is_canary(skill, revision):
            return skill
        return await cluster.skills.route(skill_id, revision, 100)

    skill = session.call(work)
    if not only and _is_canary(skill, revision):
        more = f"coterie skills canary {skill_id} {revision} 100"
        session.say(f"{revision} keeps its {skill.canary_percent}% of the new tasks; `{more}` makes it live")
    _show(session, skill)


def _is_canary(skill: PublishedSkill, revision: str) -> bool:
    """By its hash or the beginning of it, or by its version."""
    names = {one.revision: one.version for one in skill.revisions}
    return bool(skill.canary) and (skill.canary.startswith(revision) or names.get(skill.canary) == revision)


@click.command(cls=LeafCommand)
@click.argument("skill_id", metavar="ID")
@click.argument("revision")
@click.argument("percent", type=click.IntRange(0, 100))
@click.pass_obj
def canary(session: Session, skill_id: str, revision: str, percent: int) -> None:
    """Give the approved REVISION PERCENT of the new tasks. 100 makes it live, 0 ends the canary.

    Which tasks get it depends on their ids alone. Those that have a revision keep it.
    """

    async def work(cluster: Cluster) -> PublishedSkill:
        return await cluster.skills.route(skill_id, revision, percent)

    _show(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("skill_id", metavar="ID")
@click.pass_obj
def rollback(session: Session, skill_id: str) -> None:
    """End the canary of ID; without one, what was live before is live again."""

    async def work(cluster: Cluster) -> PublishedSkill:
        return await cluster.skills.roll_back(skill_id)

    _show(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("skill_id", metavar="ID")
@click.argument("revision")
@click.pass_obj
def revoke(session: Session, skill_id: str, revision: str) -> None:
    """Never run REVISION of ID again, also not for tasks that are bound to it."""

    async def work(cluster: Cluster) -> PublishedSkill:
        return await cluster.skills.revoke(skill_id, revision)

    _show(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("skill_id", metavar="ID")
@click.argument("revision", default="")
@click.pass_obj
def remove(session: Session, skill_id: str, revision: str) -> None:
    """Forget REVISION of ID, or all of it. Refused while unfinished tasks are bound to it."""

    async def work(cluster: Cluster) -> None:
        await cluster.skills.remove(skill_id, revision)

    session.call(work)
    gone = {"skill": skill_id, "revision": revision}
    session.emit({"removed": gone}, lambda out: out.print(f"{f'{skill_id} {revision}'.strip()} is forgotten"))


@click.command("apply", cls=LeafCommand)
@click.argument("file", type=FILE)
@click.option("--publish", "publishes", is_flag=True, help="Publish the folders at `location`, too.")
@click.option("--approve", is_flag=True, help="And approve them.")
@click.pass_obj
def apply_registry(session: Session, file: Path, publishes: bool, approve: bool) -> None:
    """Take over what a skill-registry.yaml says: owners, visibility, resources, rates, retries."""
    from coterie.node.skill_registry import RegistryError, read_registry

    try:
        entries = read_registry(file)
    except RegistryError as error:
        raise _faulty([(str(file), problem) for problem in error.problems]) from error
    bundles = {one.skill_id: _bundle(one.location) for one in entries if publishes and one.location}

    async def work(cluster: Cluster) -> list[PublishedSkill]:
        return [await _apply(cluster, one, bundles.get(one.skill_id), approve) for one in entries]

    found = session.call(work)
    session.emit({"skills": found}, lambda out: _print_skills(out, found))


async def _apply(cluster: Cluster, entry: Registered, content: bytes | None, approve: bool) -> PublishedSkill:
    from coterie.skills.bundle import revision_of

    skill = await cluster.skills.set_policy(entry.skill_id, entry.policy)
    if content is not None:
        skill = await cluster.skills.publish(entry.skill_id, content)
        if approve:
            await cluster.skills.approve(entry.skill_id, revision_of(content))
            skill = await cluster.skills.route(entry.skill_id, revision_of(content))
    return skill


def _report(folder: Path) -> tuple[Report, str]:
    from coterie.node.schemas import schema_faults
    from coterie.skills.bundle import BundleError, collect, pack, revision_of
    from coterie.skills.validation import validate as checked

    try:
        files = collect(folder)
        report = checked(folder.resolve().name, {path: file.content for path, file in files.items()})
        report = replace(report, faults=(*report.faults, *schema_faults(report.described)))
        return report, revision_of(pack(files)) if not report.faults else ""
    except BundleError as error:
        raise _faulty([(str(folder), str(error))]) from error


def _bundle(folder: Path) -> bytes:
    from coterie.skills.bundle import BundleError, collect, pack

    try:
        return pack(collect(folder))
    except BundleError as error:
        raise _faulty([(str(folder), str(error))]) from error


def _faulty(wrong: list[tuple[str, str]]) -> Exception:
    from coterie.node.cli.failures import EXIT_USAGE, CommandFailed, Failure

    told = "\n".join(f"{field}: {text}" for field, text in wrong)
    return CommandFailed(Failure(EXIT_USAGE, "INVALID_ARGUMENT", told, "BAD_SKILL", tuple(wrong)))


def _show(session: Session, skill: PublishedSkill) -> None:
    session.emit({"skill": skill}, lambda out: _print_one(out, skill))


def _print_reports(out: Console, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        version = f" {row['version']}" if row["version"] else ""
        out.print(f"{row['name']}{version} is sound: revision {row['revision'][:SHORT]}")
        for line in row["advice"]:
            out.print(f"  advice: {line}")


def _print_skills(out: Console, skills: list[PublishedSkill]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (
            one.id,
            one.live[:SHORT] or "-",
            f"{one.canary[:SHORT]} {one.canary_percent}%" if one.canary else "-",
            str(len(one.revisions)),
            one.policy.owner or "-",
            "private" if one.policy.private else "public",
        )
        for one in skills
    ]
    columns = ("SKILL", "LIVE", "CANARY", "REVISIONS", "OWNER", "VISIBLE")
    out.print(table(columns, rows, right=("REVISIONS",)) if rows else "nothing was published")


def _print_one(out: Console, skill: PublishedSkill) -> None:
    from coterie.node.cli.output import table

    _print_skills(out, [skill])
    rows = [
        (
            one.revision[:SHORT],
            one.version or "-",
            one.state.lower() + (f" by {one.decided_by}" if one.decided_by else ""),
            f"{one.published:%Y-%m-%d %H:%M:%S}",
            one.published_by,
        )
        for one in skill.revisions
    ]
    if rows:
        out.print(table(("REVISION", "VERSION", "STATE", "PUBLISHED", "BY"), rows))
