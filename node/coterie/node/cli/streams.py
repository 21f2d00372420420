"""The standard streams of the program, whatever they are: closed, of another encoding, or read by nobody."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator


def make_ready() -> None:
    """What an encoding cannot show is escaped; what is closed leads nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (until the program ends)
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                stream.reconfigure(errors="backslashreplace")


class NoReader(Exception):
    """Whoever read the output has gone."""


@contextlib.contextmanager
def noticing() -> Iterator[None]:
    """Raises NoReader, before click ends the program with the code of a task that failed; as rich does."""
    try:
        yield
    except BrokenPipeError as error:
        raise NoReader from error
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        raise NoReader from end


@contextlib.contextmanager
def nobody_need_read() -> Iterator[None]:
    """For what is said last: when it cannot be, the exit code says it all."""
    try:
        yield
    except BrokenPipeError:
        silence()


def silence() -> None:
    """Else the interpreter tries once more when it ends, and changes the exit code."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
