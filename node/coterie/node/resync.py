"""A data directory that is damaged, wiped or refused is put aside; the node comes back with a new one."""

from __future__ import annotations

import os
import time
from pathlib import Path

from coterie.raft.disk import RealDisk

RAFT_DIR = "raft"
_MARK = "joins"  # in the fresh directory: the node waits for the others instead of forming a cluster


def is_resynced(data_dir: Path) -> bool:
    """Whether the node that starts on this directory waits to be taken in."""
    return (data_dir / _MARK).exists()


def resync_hint(node_id: str) -> str:
    """The command, for error messages."""
    return f"`coterie node resync --config FILE --id {node_id}`, then start it again"


def check_stopped(data_dir: Path) -> None:
    """Raises WrongDataDir while the node runs on the directory."""
    if not (data_dir / RAFT_DIR).exists():
        return
    disk = RealDisk(data_dir / RAFT_DIR)
    disk.lock()
    disk.close()


def put_aside(data_dir: Path) -> Path | None:
    """Make room for a fresh directory, durably. Returns where the old one is now; None: there was nothing in
    it. Raises WrongDataDir when the node runs, OSError when the directory cannot be moved."""
    if not (data_dir.exists() and any(entry.name != _MARK for entry in data_dir.iterdir())):
        _make_fresh(data_dir)
        _sync(data_dir.parent)
        return None
    aside = data_dir.with_name(f"{data_dir.name}.aside-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    fresh = data_dir.with_name(f"{data_dir.name}.fresh")
    disk = RealDisk(data_dir / RAFT_DIR)
    disk.lock()  # a node that starts meanwhile is refused, or finds the fresh directory with its mark
    try:
        _make_fresh(fresh)
        data_dir.rename(aside)
        fresh.rename(data_dir)
        _sync(data_dir.parent)
    finally:
        disk.close()
    return aside


def _make_fresh(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    (directory / _MARK).touch()
    _sync(directory)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
