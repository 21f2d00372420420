"""What /proc says about processes: memory, CPU time, descendants."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def rss_mib(pid: int) -> float:
    """Resident memory, pages shared with other processes counted in full."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES / MIB


def pss_mib(pid: int) -> float:
    """Resident memory, shared pages divided among those who share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pids: Iterable[int], *, with_reaped: bool = False) -> float:
    """CPU time used so far by those processes that still live; `with_reaped` adds that of their children that
    ended."""
    return sum(_cpu_s(pid, with_reaped) for pid in pids)


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    found: list[int] = []
    for child in _children(pid):
        found += [child, *descendants(child)]
    return found


def _children(pid: int) -> list[int]:
    try:
        threads = [entry.name for entry in Path(f"/proc/{pid}/task").iterdir()]
        lists = [
            Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii") for thread in threads
        ]
    except OSError:  # it has ended
        return []
    return [int(child) for line in lists for child in line.split()]


def _cpu_s(pid: int, with_reaped: bool) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()  # the name may hold spaces and brackets
    times = fields[11:15] if with_reaped else fields[11:13]  # user and system, its own and of reaped children
    return sum(map(int, times)) / _TICKS_PER_S
