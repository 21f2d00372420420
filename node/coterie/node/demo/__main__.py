"""Command line of the demo. Exit codes: 0 all promises kept, 1 one broken, 2 bad usage, 130 interrupted."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from coterie.client.errors import CoterieError
from coterie.node.demo.documents import choose_documents, default_sources, folder_source
from coterie.node.demo.drive import Demo, Options
from coterie.node.demo.scenes import SCENES, load_scene
from coterie.node.demo.stage import Asked, run_scene
from coterie.node.localcluster import ClusterFailed

DOCUMENTS_DEFAULT = 1_500
DOCUMENTS_MAX = 10_000
KILL_NODES_MIN = 3
INTERRUPTED = 130
# Of output into a file or a pipe, whose reader wraps lines as it likes.
WIDTH_ELSEWHERE = 150

Play = Callable[[], Coroutine[Any, Any, int]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--path", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Read this folder."
)
@click.option("--nodes", type=click.IntRange(1, 7), default=3, show_default=True, help="How many nodes.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-report"),
    show_default=True,
    help="Where the report is written.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, DOCUMENTS_MAX),
    default=DOCUMENTS_DEFAULT,
    show_default=True,
    help="At most this many documents.",
)
@click.option("--no-kill", is_flag=True, help="Kill no node.")
@click.option(
    "--scene",
    type=click.Choice(sorted(SCENES)),
    help="Play this instead: " + "; ".join(f"{name}: {text}" for name, text in sorted(SCENES.items())) + ".",
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Scene agents: this CSV file.",
)
@click.option(
    "--model-url",
    envvar="OPENAI_BASE_URL",
    default="",
    help="Scene agents: ask this API.",
)
@click.option("--model", envvar="OPENAI_MODEL", default="gpt-4o-mini", show_default=True, help="Its model.")
@click.option("--plain", is_flag=True, help="One line a second instead of the live view.")
def main(
    path: Path | None,
    nodes: int,
    out: Path,
    limit: int,
    no_kill: bool,
    scene: str | None,
    plain: bool,
    **asked: Any,
) -> None:
    """Let a cluster of real node processes read documents, kill nodes meanwhile, and prove what came of it.

    Without --path it reads the standard library of this Python and Coterie's own documentation.
    """
    if scene is not None:
        given = Asked(**asked)
        sys.exit(_run(lambda: run_scene(load_scene(scene), _console(), _writable(out), plain, given)))
    if not no_kill and nodes < KILL_NODES_MIN:
        raise click.UsageError(
            f"--nodes {nodes}: killing one leaves no majority; give 3 or more, or --no-kill"
        )
    sources = [folder_source(path)] if path else default_sources()
    choice = choose_documents(sources, limit)
    if not choice.documents:
        raise click.UsageError(f"--path {path}: no text or source file below 1 MiB in it")
    options = Options(nodes=nodes, out=_writable(out), kill=not no_kill, plain=plain)
    sys.exit(_run(Demo(options, choice, _console()).run))


def _writable(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"--out {out}: {error.strerror}; give a folder that can be written") from None
    return out


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_ELSEWHERE)


def _run(play: Play) -> int:
    try:
        return _run_reporting(play)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted; all nodes are stopped", err=True)
        return INTERRUPTED


def _run_reporting(play: Play) -> int:
    code = 1
    try:
        code = asyncio.run(_interruptible(play))
    except* (ClusterFailed, CoterieError) as group:
        for error in _leaves(group):
            click.echo(f"demo failed: {error}", err=True)
    except* TimeoutError:
        click.echo("demo failed: it was not finished in time", err=True)
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _interruptible(play: Play) -> int:
    # The same way out for SIGTERM as for Ctrl-C: cancel, and let the nodes be stopped on the way.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await play()


if __name__ == "__main__":
    main()
