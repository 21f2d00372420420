"""Staying with a task: its events, its progress, its end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.failures import EXIT_TIMEOUT, CommandFailed, Failure
from coterie.node.cli.session import Session
from coterie.node.cli.text import echo, value_text
from coterie.node.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.job import Job
    from coterie.client.models import Event, Progress, TaskInfo
    from coterie.client.tokens import TokenChunk


def progress_line(session: Session) -> Callable[[Progress], None]:
    """Prints each progress report on stderr."""
    return lambda progress: session.say(f"{progress.percent:.0f}% {progress.message}".rstrip())


class Words:
    """Prints the words of models. Each run of words of a step begins a line that names it, and the attempt
    where what was printed of an earlier one is void."""

    def __init__(self, to_stderr: bool) -> None:
        self._err, self._open = to_stderr, ""
        self._orders: dict[str, tuple[int, int]] = {}

    def print(self, chunk: TokenChunk) -> None:
        """Go on."""
        anew = self._orders.get(chunk.step, chunk.order) != chunk.order
        self._orders[chunk.step] = chunk.order
        if anew or self._open != chunk.step:
            self.end()
            again = f", from the beginning, attempt {chunk.attempt}.{chunk.stream}" if anew else ""
            echo(f"[{chunk.step}{again}] ", nl=False, err=self._err)
            self._open = chunk.step
        echo(chunk.text, nl=False, err=self._err)

    def end(self) -> None:
        """Something else is printed."""
        if self._open:
            click.echo(err=self._err)
        self._open = ""


async def follow(
    session: Session, job: Job, on_progress: Callable[[Progress], None] | None = None
) -> tuple[TaskInfo, Any]:
    """Wait for the task. Returns it with its result; raises the client's TaskError, WaitTimeout …"""
    if on_progress is not None:
        job.follow(on_progress)
    result = await job.wait(timeout=_written(session.timeout))
    return await job.get(include_steps=True), result


async def watch_events(
    session: Session, job: Job, events: list[Event], resume_token: str = "", tokens: bool = False
) -> None:
    """Print each event until the last one, and keep them in `events`, tokens as text. --timeout bounds it."""
    from coterie.node.cli.output import event_line

    words, token = Words(session.json), resume_token
    try:
        async with asyncio.timeout(session.timeout) as scope:
            watched = job.stream if tokens else job.watch
            async with aclosing(watched(resume_token=resume_token)) as stream:
                async for event in stream:
                    token = event.resume_token or token
                    if event.token is not None:
                        words.print(event.token)
                        continue
                    words.end()
                    events.append(event)
                    echo(event_line(event), err=session.json)
    except TimeoutError as error:
        if not scope.expired():
            raise
        text = f"task {job.id} did not end within {_written(session.timeout)}; it goes on"
        facts = {"resume_token": token}
        raise CommandFailed(
            Failure(EXIT_TIMEOUT, "DEADLINE_EXCEEDED", text, "WAIT_TIMEOUT", facts=facts)
        ) from error


def _written(seconds: float | None) -> str | None:
    # As a text, so that the error of the wait says what was asked for.
    return None if seconds is None else format_duration(round(seconds * 1000))


def print_end(session: Session, task: TaskInfo, result: Any, events: list[Event] | None = None) -> None:
    """The answer of a command that stayed to the end: the result."""
    document: dict[str, Any] = {"task": task, "result": result}
    if events is not None:
        document["events"] = events
    session.emit(document, lambda out: _print_result(out, result))


def _print_result(out: Console, result: Any) -> None:
    if isinstance(result, bytes) and not out.is_terminal:
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()
        return
    click.echo(value_text(result))
