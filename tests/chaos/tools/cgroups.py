"""A share of the processor for a node and all that comes of it, by Linux control groups of either version."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
EMPTY_S = 5.0


def _version() -> int:
    """Of the groups that can limit processor time; 0: there are none to be written to."""
    if os.access(ROOT / "cpu", os.W_OK) and (ROOT / "cpu" / "cpu.cfs_quota_us").parent.is_dir():
        return 1
    controllers = ROOT / "cgroup.subtree_control"
    if os.access(controllers, os.W_OK) and "cpu" in controllers.read_text().split():
        return 2
    return 0


def processor_groups() -> str:
    """See tests.chaos.tools.needs."""
    return "" if _version() else "control groups that limit processor time (/sys/fs/cgroup)"


class Squeeze:
    """A group of processes with `percent` of one processor, until `release`."""

    def __init__(self, name: str, percent: int) -> None:
        self._version = _version()
        self._parent = ROOT / "cpu" if self._version == 1 else ROOT
        self._group = self._parent / f"coterie-{os.getpid()}-{name}"
        self._group.mkdir()
        quota_us = PERIOD_US * percent // 100
        if self._version == 1:
            (self._group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (self._group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")

    def take(self, pids: Iterable[int]) -> None:
        """These processes, and whatever they fork from now on."""
        _move(self._group, pids)

    def release(self) -> None:
        """Everybody leaves; the group is removed."""
        deadline = time.monotonic() + EMPTY_S
        while time.monotonic() < deadline:
            _move(self._parent, [int(pid) for pid in (self._group / "cgroup.procs").read_text().split()])
            with contextlib.suppress(OSError):
                self._group.rmdir()
                return
            time.sleep(0.05)
        raise TimeoutError(f"{self._group} does not become empty")


def _move(group: Path, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(pid))
