"""`coterie map-reduce`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.following import follow, progress_line
from coterie.node.cli.framework import LeafCommand
from coterie.node.cli.payloads import read_payload, read_text
from coterie.node.cli.session import Session
from coterie.node.cli.text import one_line

if TYPE_CHECKING:
    from coterie.client.cluster import Cluster
    from coterie.client.job import Job
    from coterie.client.map_reduce import MapReduceResult, Skip
    from coterie.client.models import TaskInfo

FAILED_SHOWN_MAX = 20


@click.command(cls=LeafCommand)
@click.argument(
    "files", metavar="[FILE]…", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--map", "map_", required=True, metavar="SKILL", help="Runs for every document.")
@click.option("--reduce", metavar="SKILL", help="Gets the results. Default: they are the result.")
@click.option(
    "--documents", metavar="@FILE|-", help="A JSON list, or one JSON value a line, instead of files."
)
@click.option(
    "--reducer",
    type=click.Choice(["list", "keyed", "tree"]),
    default="list",
    show_default=True,
    help="One reduction, one for each key, or by steps.",
)
@click.option("--skip", metavar="N|P%", help="So many maps may fail; they are listed. [0]")
@click.option("--dead-letter", is_flag=True, help="Any number may fail, and is kept as dead letters.")
@click.option("--window", type=click.IntRange(1, 1_000), default=64, show_default=True, help="Open at once.")
@click.option("--results-as", metavar="NAME", help="How the reduction's list is called. [results]")
@click.option("--fan-in", type=click.IntRange(2, 1_000), help="Of a tree. [16]")
@click.option("--reduce-input", metavar="JSON|@FILE", help="An object: what a reduction gets besides.")
@click.option("--max-attempts", type=click.IntRange(min=1), help="Of each map.")
@click.option("--request-id", default="", help="The same id and documents give the same task.")
@click.option("--wait", is_flag=True, help="Stay until it ends, and print the result.")
@click.pass_obj
def map_reduce(session: Session, /, files: tuple[Path, ...], documents: str | None, **options: Any) -> None:
    """Run one skill over many documents and another over the results, as one task. Prints its id.

    A FILE becomes the document {"path": …, "text": …}.

    \b
    coterie map-reduce --map document-map --reduce document-reduce --results-as documents --wait docs/*.md
    coterie map-reduce --map echo --documents @lines.jsonl --skip 1%
    """
    if bool(files) == bool(documents):
        raise bad_input("FILE", "give files or --documents")
    wait = options.pop("wait")
    given = _read_files(files) if documents is None else _read_documents(documents)
    asked = _asked(options)
    if not wait:
        task = session.call(lambda cluster: _start(cluster, given, asked))
        session.emit({"task": task}, lambda out: click.echo(task.id))
        return
    session.call(lambda cluster: _stay(session, cluster, given, asked), patient=True)


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """The options as the client takes them."""
    skip, dead_letter = options.pop("skip"), options.pop("dead_letter")
    if skip and dead_letter:
        raise click.UsageError("give either --skip or --dead-letter")
    attempts, reduce_input = options.pop("max_attempts"), options.pop("reduce_input")
    asked = {name: value for name, value in options.items() if value not in (None, "")}
    asked["map"] = asked.pop("map_")
    asked["on_map_failure"] = _skip(skip) if skip else "dead-letter" if dead_letter else "fail"
    if attempts:
        asked["map_options"] = {"max_attempts": attempts}
    if reduce_input:
        asked["reduce_input"] = read_payload(reduce_input, "--reduce-input")
    return asked


def _skip(text: str) -> Skip:
    from coterie.client.map_reduce import skip

    try:
        return skip(percent=float(text[:-1])) if text.endswith("%") else skip(int(text))
    except ValueError as error:
        raise bad_input(
            "--skip", f"{text!r} is no number and no percentage up to 100; write 10 or 1%"
        ) from error


def _read_files(files: tuple[Path, ...]) -> list[dict[str, str]]:
    found = []
    for path in files:
        try:
            found.append({"path": str(path), "text": path.read_text(encoding="utf-8")})
        except (OSError, UnicodeDecodeError) as error:
            raise bad_input("FILE", f"{path} cannot be read as text: {error}") from error
    return found


def _read_documents(source: str) -> list[Any]:
    if source != "-" and not source.startswith("@"):
        raise bad_input("--documents", f"{source!r}: write @FILE, or - for standard input")
    text = read_text(source, "--documents")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return [_line(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return whole if isinstance(whole, list) else [whole]


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_input(
            "--documents", f"line {number}: {one_line(line, 60)!r} is not JSON ({error})"
        ) from error


async def _begin(cluster: Cluster, documents: list[Any], asked: dict[str, Any]) -> Job:
    from coterie.client.map_reduce import start_map_reduce

    return await start_map_reduce(cluster, documents, **asked)


async def _start(cluster: Cluster, documents: list[Any], asked: dict[str, Any]) -> TaskInfo:
    job = await _begin(cluster, documents, asked)
    return job.task or await job.get()


async def _stay(session: Session, cluster: Cluster, documents: list[Any], asked: dict[str, Any]) -> None:
    from coterie.client.map_reduce import MapReduceResult

    job = await _begin(cluster, documents, asked)
    session.say(f"submitted {job.id}: {len(documents)} documents")
    task, value = await follow(session, job, progress_line(session))
    result = MapReduceResult.of(value)
    session.emit({"task": task, "result": result}, lambda out: _print(session, result))


def _print(session: Session, result: MapReduceResult) -> None:
    from coterie.node.cli.text import value_text

    click.echo(value_text(result.value))
    for failed in result.failed[:FAILED_SHOWN_MAX]:
        session.say(f"document {failed.document} has no result: {failed.code}: {failed.message}")
    if len(result.failed) > FAILED_SHOWN_MAX:
        session.say(f"and {len(result.failed) - FAILED_SHOWN_MAX} more; --json lists them")
