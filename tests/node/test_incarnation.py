"""The incarnation grows with every start, also when the disk is full."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from coterie.node.incarnation import FILE_NAME, next_incarnation

NOW_MS = 1_700_000_000_000


def test_it_grows_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    assert [next_incarnation(tmp_path, now_ms) for now_ms in (NOW_MS, NOW_MS, NOW_MS - 9)] == [
        NOW_MS,
        NOW_MS + 1,
        NOW_MS + 2,
    ]


def test_a_full_disk_does_not_keep_a_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_open = Path.open

    def full(path: Path, mode: str = "r", **settings: Any) -> Any:
        if path.name != FILE_NAME:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole_open(path, mode, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            next_incarnation(tmp_path, NOW_MS)  # a new node has nothing to write over
    next_incarnation(tmp_path, NOW_MS)
    monkeypatch.setattr(Path, "open", full)
    assert next_incarnation(tmp_path, NOW_MS + 5) == NOW_MS + 5
    assert (tmp_path / FILE_NAME).read_text("ascii") == str(NOW_MS + 5)
