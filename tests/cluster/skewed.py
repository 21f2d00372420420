"""Nodes whose wall clocks are wrong by a constant, each by its own; their monotonic clocks are right.

Run as a script it is a node: `skewed.py SECONDS --config … --id …`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.node.localcluster import LocalCluster


class SkewedCluster(LocalCluster):
    """`skews_s`: node to the seconds by which its clock is ahead, or behind where negative."""

    def __init__(self, skews_s: Mapping[str, float], **arguments: Any) -> None:
        super().__init__(nodes=len(skews_s), **arguments)
        self._skews_s = skews_s

    def node_command(self, node_id: str) -> list[str]:
        command = super().node_command(node_id)
        options = command[command.index("--config") :]
        return [sys.executable, str(Path(__file__).resolve()), str(self._skews_s[node_id]), *options]


def _serve(skew_s: float) -> int:
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + skew_s
    time.time_ns = lambda: right_ns() + int(skew_s * 1e9)
    from coterie.node.main import main

    return main()


if __name__ == "__main__":
    skew = float(sys.argv.pop(1))
    sys.exit(_serve(skew))
