"""Files that hold one secret: read and made so that nobody but their owner can read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SECRET_BYTES_MAX: Final = 4_096
BOOTSTRAP_FILE: Final = "bootstrap.token"  # in a node's data directory


class SecretFileError(Exception):
    """The file cannot be used: one line, naming it and the remedy."""


def read_secret(path: Path) -> str:
    """The one line of the file. Raises SecretFileError, also when others may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise SecretFileError(f"{path}: cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise SecretFileError(f"{path}: others may read it; chmod 600 {path}")
    try:
        text = raw.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(raw) > SECRET_BYTES_MAX or len(text.splitlines()) != 1:
        raise SecretFileError(f"{path}: holds no secret: one line of printable ASCII")
    return text


def write_secret(path: Path, secret: str) -> None:
    """A new file. Raises SecretFileError when there is one already: nothing is overwritten."""
    with secret_file(path) as write:
        write(secret)


@contextmanager
def secret_file(path: Path) -> Iterator[Callable[[str], object]]:
    """A new file for a secret that is yet to be made, so that none is made that cannot be kept; gone again
    when it was not. Raises SecretFileError as `write_secret` does."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        if os.path.lexists(path):
            raise SecretFileError(f"{path}: is there already; delete it first, or use it") from error
        raise SecretFileError(f"{path}: cannot be made: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            yield lambda secret: file.write(secret + "\n")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
