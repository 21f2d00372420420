"""Kills the process groups of a local cluster when the program that started it is gone, however it went.

Run as a script by `LocalCluster`: lines `+PID` and `-PID` on standard input keep the list of groups; the end
of the input means that the owner has died (the kernel closes the pipe even after kill -9), and every group
still on the list gets SIGKILL. It is a process of its own because a parent-death signal would follow the
*thread* that started a node, and because exit handlers do not run on kill -9.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable


def groups_left(lines: Iterable[str]) -> set[int]:
    """Process groups that were added and not dropped. Lines that are no command are ignored."""
    groups: set[int] = set()
    for line in lines:
        sign, digits = line[:1], line[1:].strip()
        if not digits.isdigit():
            continue
        if sign == "+":
            groups.add(int(digits))
        elif sign == "-":
            groups.discard(int(digits))
    return groups


def main() -> None:
    """Read until the owner is gone, then kill what it left."""
    # Ctrl-C goes to the owner, which stops its nodes in order; this process only has to outlive it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for group in groups_left(sys.stdin):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
