"""One run of the program: the global options, the way to the cluster, and what is written where."""

from __future__ import annotations

import asyncio
import json
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coterie.node.cli.options import GlobalOptions

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.node.cli.connect import Target
    from coterie.node.cli.failures import Failure

T = TypeVar("T")
Connect = Callable[["Target"], AbstractAsyncContextManager["Cluster"]]
PATIENCE_S = 2.0


def open_cluster(target: Target) -> AbstractAsyncContextManager[Cluster]:
    """A client for the target. The one place where the command line reaches for the cluster."""
    from coterie.node.cli.connect import cluster_for

    return cluster_for(target)


@dataclass(slots=True)
class Session(GlobalOptions):
    """The global options by their names, and what the commands do with them."""

    connect: Connect = open_cluster
    json: bool = False
    debug: bool = False
    emitted: bool = False
    repeatable: bool = False
    """The command that runs takes --request-id."""

    def target(self) -> Target:
        """Whom to call and how. Raises CommandFailed when nobody was named."""
        from coterie.node.cli.connect import resolve_target

        return resolve_target(self, os.environ, Path.cwd())

    def call(self, work: Callable[[Cluster], Awaitable[T]], *, patient: bool = False) -> T:
        """Run `work` with an open cluster. `patient`: it may take long, so say nothing when it does."""
        target = self.target()

        async def run() -> T:
            notice = f"no answer yet from {target.endpoints}; trying for {target.call_s:g} s"
            timer = None
            if not patient:
                timer = asyncio.get_running_loop().call_later(PATIENCE_S, self.say, notice)
            try:
                async with self.connect(target) as cluster:
                    return await work(cluster)
            finally:
                if timer is not None:
                    timer.cancel()

        return asyncio.run(run())

    def emit(self, document: Mapping[str, Any], human: Callable[[Console], None]) -> None:
        """Write the answer: the document with --json, else what `human` prints."""
        self.emitted = True
        if self.json:
            _write_document({"ok": True, **document})
        else:
            from coterie.node.cli.output import console

            human(console())

    def say(self, text: str) -> None:
        """A line about progress, on stderr."""
        from coterie.node.cli.text import clean

        click.echo(f"coterie: {clean(text)}", err=True)

    def fail(self, failure: Failure, error: BaseException | None = None) -> None:
        """Write what went wrong."""
        if self.debug and error is not None:
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        for line in failure.lines:
            self.say(line)
        if self.json and not self.emitted:
            self.emitted = True
            _write_document(failure.document())


def _write_document(document: Mapping[str, Any]) -> None:
    from coterie.node.cli.documents import plain

    click.echo(json.dumps(plain(document), indent=2))
