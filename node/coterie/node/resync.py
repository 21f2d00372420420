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
    check_stopped(data_dir)
    aside = None
    if data_dir.exists() and any(entry.name != _MARK for entry in data_dir.iterdir()):
        aside = data_dir.with_name(f"{data_dir.name}.aside-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        data_dir.rename(aside)
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    (data_dir / _MARK).touch()
    for folder in (data_dir, data_dir.parent):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return aside
