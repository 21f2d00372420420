"""From exceptions to exit codes and the words for them.

0 done · 1 the task failed · 2 wrong usage, input or configuration · 3 unavailable, no quorum · 4 refused
5 timeout · 70 a defect of this program or of a node · 130 interrupted · 141 nobody reads the output"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from coterie.node.cli.streams import NoReader

if TYPE_CHECKING:
    from coterie.client import errors as client_errors

EXIT_TASK_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 3
EXIT_REFUSED: Final = 4
EXIT_TIMEOUT: Final = 5
EXIT_DEFECT: Final = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells say it
EXIT_NO_READER: Final = 141  # 128 + SIGPIPE

USAGE: Final = "USAGE"  # the reason of a command line that cannot be understood

_CLIENT_ERRORS: Final = "coterie.client.errors"
_CONFIG_FINDINGS: Final = "coterie.node.config.findings"
_BY_CODE: Final[Mapping[str, int]] = {
    "UNAVAILABLE": EXIT_UNAVAILABLE,
    "DATA_LOSS": EXIT_UNAVAILABLE,
    "DEADLINE_EXCEEDED": EXIT_TIMEOUT,
    "INVALID_ARGUMENT": EXIT_USAGE,
    "INTERNAL": EXIT_DEFECT,
    "UNKNOWN": EXIT_DEFECT,
    "UNIMPLEMENTED": EXIT_DEFECT,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: for the exit code, for the JSON document, and as lines for people."""

    exit_code: int
    code: str
    message: str
    reason: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    expected: bool = True

    @property
    def lines(self) -> list[str]:
        """For people; nothing when they ended it themselves."""
        if self.exit_code in (EXIT_INTERRUPTED, EXIT_NO_READER):
            return []
        if self.reason == USAGE:
            return [self.message]
        unsaid = [(name, text) for name, text in self.violations if text not in self.message]
        return [self.message, *(f"{name}: {text}" if name else text for name, text in unsaid)]

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        violations = [{"field": name, "description": text} for name, text in self.violations]
        error = {
            "code": self.code,
            "reason": self.reason,
            "message": self.message,
            "violations": violations,
            **self.facts,
        }
        return {"ok": False, "error": error}


class CommandFailed(Exception):
    """A command found by itself that it cannot do what it was asked."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def bad_input(field_name: str, text: str) -> CommandFailed:
    """A value that cannot be used: `text` holds the value and the remedy."""
    failure = Failure(
        EXIT_USAGE, "INVALID_ARGUMENT", f"{field_name}: {text}", "BAD_FIELD", ((field_name, text),)
    )
    return CommandFailed(failure)


def explain(error: BaseException, *, repeatable: bool = True) -> Failure:
    """The failure for any exception. `repeatable`: the command that ended by it takes --request-id."""
    if isinstance(error, CommandFailed):
        return error.failure
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Failure(EXIT_INTERRUPTED, "CANCELLED", "interrupted", "INTERRUPTED")
    if isinstance(error, NoReader):
        return Failure(EXIT_NO_READER, "CANCELLED", "nobody reads the output", "NO_READER")
    if isinstance(error, click.ClickException):
        return _usage(error)
    return _of_config(error) or _of_client(error, repeatable) or _of_system(error)


def _usage(error: click.ClickException) -> Failure:
    message = said = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        message = f"{message.rstrip('.')} (see `{context.command_path} --help`)"
    name = _parameter_name(error)
    violations = ((name, error.message or said),) if name else ()
    return Failure(EXIT_USAGE, "INVALID_ARGUMENT", message, USAGE, violations)


def _parameter_name(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption):
        return error.option_name
    parameter = error.param if isinstance(error, click.BadParameter) else None
    if parameter is None:
        return ""
    return parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name


def _of_config(error: BaseException) -> Failure | None:
    # An exception cannot be of a class whose module was never imported: nothing is imported to find out.
    known = sys.modules.get(_CONFIG_FINDINGS)
    if known is None or not isinstance(error, known.ConfigError):
        return None
    problems = [str(problem) for problem in error.problems]
    violations = tuple(_split(problem) for problem in problems)
    message = problems[0] if len(problems) == 1 else f"{len(problems)} problems in the configuration"
    return Failure(EXIT_USAGE, "INVALID_ARGUMENT", message, "BAD_CONFIG", violations)


def _split(problem: str) -> tuple[str, str]:
    name, colon, text = problem.partition(": ")
    return (name, text) if colon else ("", problem)


def _of_client(error: BaseException, repeatable: bool) -> Failure | None:
    known: Any = sys.modules.get(_CLIENT_ERRORS)
    if known is None or not isinstance(error, known.CoterieError):
        return None
    if isinstance(error, known.ClusterError):
        return _of_cluster(error, repeatable)
    if isinstance(error, known.TaskError):
        return of_task(error)
    if isinstance(error, known.WaitTimeout):
        return Failure(EXIT_TIMEOUT, "DEADLINE_EXCEEDED", str(error), "WAIT_TIMEOUT")
    if isinstance(error, known.ConfigError):
        return Failure(EXIT_USAGE, "INVALID_ARGUMENT", str(error), "BAD_CONFIG", (_split(str(error)),))
    return Failure(EXIT_DEFECT, "INTERNAL", str(error), type(error).__name__)


def _of_cluster(error: client_errors.ClusterError, repeatable: bool) -> Failure:
    facts: dict[str, Any] = {}
    if error.metadata:
        facts["metadata"] = error.metadata
    if error.retry_after is not None:
        facts["retry_after_s"] = error.retry_after
    message = error.message
    endpoints = getattr(error, "endpoints", None)
    if endpoints:
        facts["endpoints"] = endpoints
        message += " [" + "; ".join(f"{address}: {text}" for address, text in endpoints.items()) + "]"
    request_id = getattr(error, "request_id", "")
    if request_id:
        facts["request_id"] = request_id
        message += "; it may have been accepted: "
        message += f"ask again with --request-id {request_id}" if repeatable else "look, or give it again"
    if error.retry_after is not None and error.code == "RESOURCE_EXHAUSTED":
        message += f"; come back in {error.retry_after:g} s"
    violations = tuple(getattr(error, "violations", ()))
    exit_code = _BY_CODE.get(error.code, EXIT_REFUSED)
    return Failure(exit_code, error.code, message or error.code, error.reason, violations, facts)


def of_task(error: client_errors.TaskError, **facts: Any) -> Failure:
    """A task that ended without a result."""
    task = error.task
    reason = task.error.code if task.error else task.state
    return Failure(EXIT_TASK_FAILED, task.state, str(error), reason, facts={"task": task, **facts})


def _of_system(error: BaseException) -> Failure:
    if isinstance(error, TimeoutError):
        return Failure(EXIT_TIMEOUT, "DEADLINE_EXCEEDED", str(error) or "no answer in time", "TIMEOUT")
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return Failure(EXIT_USAGE, "INVALID_ARGUMENT", f"{place}{error.strerror}", "FILE")
    if isinstance(error, UnicodeEncodeError):  # what is printed is escaped: it is a part of what was given
        text = f"{error.object[:60]!a} is no UTF-8 text; write it anew"
        return Failure(EXIT_USAGE, "INVALID_ARGUMENT", text, "BAD_TEXT")
    message = f"{type(error).__name__}: {error}; this is a defect, --debug shows where"
    return Failure(EXIT_DEFECT, "INTERNAL", message, "DEFECT", expected=False)
