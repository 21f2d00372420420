"""The number of this process among all processes this node ever had."""

from __future__ import annotations

import errno
import os
from pathlib import Path

FILE_NAME = "incarnation"


def next_incarnation(data_dir: Path, now_ms: int) -> int:
    """A number above every earlier one of this data directory, durable before it is used. It follows the
    wall clock, so that it also grows when the directory was lost."""
    path = data_dir / FILE_NAME
    try:
        before = int(path.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        before = 0
    number = max(before + 1, now_ms)
    try:
        _replace(path, number)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or len(str(before)) != len(str(number)):
            raise
        _overwrite(path, number)
    return number


def _replace(path: Path, number: int) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="ascii") as file:
        file.write(str(number))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _overwrite(path: Path, number: int) -> None:
    """On a full disk: the few bytes of the old number are room enough, and lie in one sector."""
    with path.open("r+", encoding="ascii") as file:
        file.write(str(number))
        file.flush()
        os.fsync(file.fileno())
