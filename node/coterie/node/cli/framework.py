"""What every command shares: late imports, global options in any place, one JSON document, exit codes."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from coterie.node.cli.failures import EXIT_NO_READER, explain
from coterie.node.cli.session import Session
from coterie.node.cli.streams import make_ready, nobody_need_read, noticing, silence
from coterie.node.units import parse_duration_ms

PROGRAM = "coterie"
GLOBAL_NOTE = (
    "The global options (--endpoint, --tls-…, --token, --tenant, --insecure, --json, --timeout, --debug) "
    "may also stand here."
)


class DurationType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Seconds, from `30s`, `500ms`, `1m30s` or a plain number."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration_ms(_number(value)) / 1000
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1


class WholeType(click.IntRange):
    """A whole number from `low` on that a message can carry."""

    def __init__(self, low: int = 0, most: int = INT64_MAX) -> None:
        super().__init__(min=low)
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if number > self._most:
            self.fail(f"{number} is more than {self._most}", param, ctx)
        return number


WHOLE = WholeType()


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that is imported when it is called: `target` is "module:attribute"."""

    target: str
    summary: str
    section: str = "Commands"


class LazyGroup(click.Group):
    """A group that knows its commands by name and summary only, so that help needs no imports."""

    shows_global_options = False

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **{"no_args_is_help": False, **kwargs})
        self.entries = dict(entries)
        self.params += global_options(hidden=not self.shows_global_options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.entries and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.entries, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.entries)}"
            raise click.UsageError(f"no such command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(entry.section for entry in self.entries.values()):
            rows = [(name, e.summary) for name, e in self.entries.items() if e.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)


class RootGroup(LazyGroup):
    """The program: runs a command, turns what goes wrong into one line or one document, and an exit code."""

    shows_global_options = True

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> int:
        """Run with these arguments. Exits the process, or returns the exit code without `standalone_mode`."""
        arguments = list(sys.argv[1:] if args is None else args)
        arguments = arguments or ["--help"]
        session: Session = extra.pop("obj", None) or Session()
        make_ready()
        try:
            answer = super().main(arguments, prog_name or PROGRAM, complete_var, False, obj=session, **extra)
            code = answer if isinstance(answer, int) else 0
        except (Exception, KeyboardInterrupt) as error:
            # A command line that could not be parsed has not told the session yet what it wants.
            session.json |= isinstance(error, click.UsageError) and "--json" in arguments
            session.debug |= isinstance(error, click.UsageError) and "--debug" in arguments
            failure = explain(error, repeatable=session.repeatable)
            code = failure.exit_code
            with nobody_need_read():
                session.fail(failure, error)
            if code == EXIT_NO_READER:
                silence()
        if standalone_mode:
            sys.exit(code)
        return code

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with noticing():  # help is printed here
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with noticing():
            return super().invoke(ctx)


class LeafCommand(click.Command):
    """A command that takes the global options too, except those whose names it needs itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("epilog", GLOBAL_NOTE)
        super().__init__(*args, **kwargs)
        taken = {text for parameter in self.params for text in parameter.opts}
        self.params += [option for option in global_options(hidden=True) if not taken & set(option.opts)]

    def invoke(self, ctx: click.Context) -> Any:
        ctx.ensure_object(Session).repeatable = any(one.name == "request_id" for one in self.params)
        return super().invoke(ctx)


def global_options(*, hidden: bool) -> list[click.Option]:
    """The options of every command, new objects each time."""
    path = click.Path(path_type=str)
    rows: list[tuple[str, dict[str, Any]]] = [
        ("--endpoint", {"metavar": "H:P,…", "help": "Nodes to call. COTERIE_ENDPOINT; else ./.coterie-dev."}),
        ("--tls-dir", {"type": path, "help": "Directory of `coterie tls init`. COTERIE_TLS_DIR."}),
        ("--tls-ca", {"type": path, "help": "Authority of the nodes. COTERIE_TLS_CA."}),
        ("--tls-cert", {"type": path, "help": "Certificate of this client. COTERIE_TLS_CERT."}),
        ("--tls-key", {"type": path, "help": "Its private key. COTERIE_TLS_KEY."}),
        ("--token", {"metavar": "FILE", "help": "File with a token. COTERIE_TOKEN: a token, or its file."}),
        ("--tenant", {"metavar": "NAME", "help": "Whose tasks these are. COTERIE_TENANT; else default."}),
        ("--insecure", {"is_flag": True, "help": "Plain text, also beyond loopback."}),
        ("--json", {"is_flag": True, "help": "One JSON document on stdout, on failure too."}),
        ("--timeout", {"type": DURATION, "help": "For each call (30s); when given, for waiting too."}),
        ("--debug", {"is_flag": True, "help": "Show the traceback of an error."}),
    ]
    return [
        click.Option([name], hidden=hidden, expose_value=False, callback=_record, **settings)
        for name, settings in rows
    ]


def _record(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        setattr(ctx.ensure_object(Session), str(parameter.name), value)


def _number(value: str) -> str | float:
    try:
        return float(value)
    except ValueError:
        return value
