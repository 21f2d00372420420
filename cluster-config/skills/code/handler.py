"""The program of a code node. It runs in a process that has walled itself in before it read this file."""

from __future__ import annotations

from typing import Any

from coterie.skills.errors import NonRetryable


class CodeFailed(NonRetryable):
    """The program raised an exception, or is no program."""

    code = "CODE_FAILED"


def run(ctx: Any, given: dict[str, Any]) -> Any:
    """What the program leaves in `result`. Raises CodeFailed."""
    scope = {name: value for name, value in given.items() if name != "code"}
    try:
        exec(compile(given["code"], "<code>", "exec"), scope)
    except Exception as error:
        raise CodeFailed(f"{type(error).__name__}: {error}") from error
    return scope.get("result")
