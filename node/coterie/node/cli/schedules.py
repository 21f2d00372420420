"""`coterie schedule add|list|show|pause|resume|trigger|backfill|rm`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.framework import DURATION, LeafCommand
from coterie.node.cli.payloads import read_payload
from coterie.node.cli.session import Session
from coterie.node.cli.submit import PRIORITIES, LabelType

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.schedules import ScheduleInfo

_NO_TIMES = (
    "no times: none lie there; those of --every count from --begins, else from when the schedule was made"
)
_TASK_OPTIONS = ("priority", "timeout", "deadline", "key", "agent")


class MomentType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time, from `2026-03-29T02:30` (UTC unless it says otherwise)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time: write 2026-03-29T02:30, with +02:00 if not UTC", param, ctx)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


MOMENT = MomentType()


@click.command(cls=LeafCommand)
@click.argument("schedule_id", metavar="ID")
@click.argument("type_", metavar="TYPE")
@click.option("--cron", default="", help="Five fields, or six with seconds first: '30 7 * * MON-FRI'.")
@click.option("--every", type=DURATION, help="An interval instead of --cron.")
@click.option("--time-zone", default="UTC", show_default=True, help="E.g. Europe/Berlin.")
@click.option("--begins", type=MOMENT, help="Not before; intervals count from here.")
@click.option("--ends", type=MOMENT, help="Not after.")
@click.option(
    "--overlap",
    type=click.Choice(["skip", "queue", "allow", "cancel-previous"]),
    default="skip",
    show_default=True,
    help="When an earlier run is not over.",
)
@click.option(
    "--misfire",
    type=click.Choice(["skip", "fire-once", "fire-all"]),
    default="fire-once",
    show_default=True,
    help="What becomes of times at which nothing could fire.",
)
@click.option("--catch-up", type=DURATION, default=3600.0, help="Older times are never made up for. [1h]")
@click.option("--payload", default=None, metavar="JSON|@FILE|-", help="Input: JSON, a file of it, or stdin.")
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False), default="normal")
@click.option("--timeout", type=DURATION, help="For one attempt.")
@click.option("--deadline", type=DURATION, help="For the whole task.")
@click.option("--key", default="", help="What limits per key count by.")
@click.option("--agent", default="", help="On whose behalf it runs.")
@click.option("--label", "labels", type=LabelType(), multiple=True, help="For lists. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Only check it, and show when it would fire.")
@click.pass_obj
def add(session: Session, /, schedule_id: str, type_: str, dry_run: bool, **options: Any) -> None:
    """Submit a task of TYPE by the clock, under the name ID; or change the schedule ID.

    \b
    coterie schedule add report summarize --cron '30 7 * * MON-FRI' --time-zone Europe/Berlin
    coterie schedule add poll fetch --every 5m --overlap queue
    """
    from coterie.client.schedules import Timing

    if bool(options["cron"]) == bool(options["every"]):
        raise bad_input("--cron", "give either --cron or --every")
    timing = Timing(
        cron=options["cron"],
        interval=options["every"],
        time_zone=options["time_zone"],
        begins=options["begins"],
        ends=options["ends"],
        overlap=options["overlap"],
        misfire=options["misfire"],
        catch_up=options["catch_up"],
    )
    task = {name: options[name] for name in _TASK_OPTIONS}
    task |= {"payload": read_payload(options["payload"]), "labels": dict(options["labels"]) or None}

    async def work(cluster: Cluster) -> ScheduleInfo:
        return await cluster.schedules.apply(schedule_id, timing, type=type_, validate_only=dry_run, **task)

    _show(session, session.call(work))


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_schedules(session: Session) -> None:
    """List the schedules."""

    async def work(cluster: Cluster) -> list[ScheduleInfo]:
        return await cluster.schedules.list()

    found = session.call(work)
    session.emit({"schedules": found}, lambda out: _print_list(out, found))


@click.command(cls=LeafCommand)
@click.argument("schedule_id", metavar="ID")
@click.pass_obj
def show(session: Session, schedule_id: str) -> None:
    """Show the schedule ID, and when it fires next."""

    async def work(cluster: Cluster) -> ScheduleInfo:
        return await cluster.schedules.get(schedule_id)

    _show(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("schedule_id", metavar="ID")
@click.option("--reason", default="", help="For those who wonder.")
@click.pass_obj
def pause(session: Session, schedule_id: str, reason: str) -> None:
    """Stop firing the schedule ID. Times in between are not made up for."""

    async def work(cluster: Cluster) -> ScheduleInfo:
        return await cluster.schedules.pause(schedule_id, reason)

    _show(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("schedule_id", metavar="ID")
@click.pass_obj
def resume(session: Session, schedule_id: str) -> None:
    """Let the schedule ID fire again."""

    async def work(cluster: Cluster) -> ScheduleInfo:
        return await cluster.schedules.resume(schedule_id)

    _show(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("schedule_id", metavar="ID")
@click.option("--request-id", default="", help="The same id runs it once.")
@click.pass_obj
def trigger(session: Session, schedule_id: str, request_id: str) -> None:
    """Run the schedule ID now, beside its times. Prints the id of the task."""

    async def work(cluster: Cluster) -> list[str]:
        return [(await cluster.schedules.trigger(schedule_id, request_id=request_id)).id]

    _tasks(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("schedule_id", metavar="ID")
@click.option("--from", "begin", type=MOMENT, required=True, help="The first time, e.g. 2026-03-29T00:00.")
@click.option("--to", "end", type=MOMENT, required=True, help="Before this time.")
@click.option("--request-id", default="", help="The same id runs each time once.")
@click.pass_obj
def backfill(session: Session, schedule_id: str, begin: datetime, end: datetime, request_id: str) -> None:
    """Run the schedule ID for times of the past. Prints the ids of the tasks."""
    if end <= begin:
        raise bad_input(
            "--to", f"{end.isoformat()} is not after --from {begin.isoformat()}; give a later time"
        )

    async def work(cluster: Cluster) -> list[str]:
        jobs = await cluster.schedules.backfill(schedule_id, begin, end, request_id=request_id)
        return [job.id for job in jobs]

    _tasks(session, session.call(work))


@click.command(cls=LeafCommand)
@click.argument("schedule_id", metavar="ID")
@click.pass_obj
def remove(session: Session, schedule_id: str) -> None:
    """Forget the schedule ID. Runs that have begun go on."""

    async def work(cluster: Cluster) -> None:
        await cluster.schedules.remove(schedule_id)

    session.call(work)
    session.emit({"removed": schedule_id}, lambda out: out.print(f"{schedule_id} is removed"))


def _tasks(session: Session, ids: list[str]) -> None:
    session.emit({"tasks": ids}, lambda out: click.echo("\n".join(ids) or _NO_TIMES))


def _show(session: Session, found: ScheduleInfo) -> None:
    session.emit({"schedule": found}, lambda out: _print_one(out, found))


def _print_one(out: Console, found: ScheduleInfo) -> None:
    from coterie.node.cli.output import facts

    rows = [
        ("schedule", found.id),
        ("task", found.type),
        ("when", _when(found)),
        ("overlap, misfire", f"{found.timing.overlap}, {found.timing.misfire}"),
        ("next", ", ".join(_local(at, found) for at in found.next) or _paused(found)),
        ("last", f"{_local(found.last, found)} {found.last_task}" if found.last and found.last_task else "-"),
        ("fired, skipped, missed", f"{found.fired}, {found.skipped}, {found.missed}"),
        ("running, queued", f"{len(found.running)}, {found.queued}"),
    ]
    out.print(facts(rows))


def _print_list(out: Console, found: list[ScheduleInfo]) -> None:
    from coterie.node.cli.output import table

    columns = ("SCHEDULE", "TASK", "WHEN", "NEXT", "FIRED", "SKIPPED", "MISSED")
    rows = [
        (
            one.id,
            one.type,
            _when(one),
            _local(one.next[0], one) if one.next else _paused(one),
            str(one.fired),
            str(one.skipped),
            str(one.missed),
        )
        for one in found
    ]
    out.print(table(columns, rows, right=("FIRED", "SKIPPED", "MISSED")) if rows else "no schedules")


def _when(found: ScheduleInfo) -> str:
    if found.timing.cron:
        return f"{found.timing.cron} ({found.timing.time_zone})"
    return f"every {found.timing.interval:g} s"  # type: ignore[str-format,unused-ignore]


def _paused(found: ScheduleInfo) -> str:
    return f"paused {found.pause_reason}".rstrip() if found.paused else "never"


def _local(at: datetime, found: ScheduleInfo) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return at.astimezone(ZoneInfo(found.timing.time_zone)).isoformat(" ", "seconds")
    except (ZoneInfoNotFoundError, ValueError):
        return at.isoformat(" ", "seconds")
