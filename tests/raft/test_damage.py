"""Damage on the own disk is never taken for an empty start."""

from __future__ import annotations

import pytest

from coterie.raft.errors import DamagedFile
from coterie.raft.snapshot import NAME
from tests.raft.group import Group
from tests.raft.test_snapshots import SMALL, filled, snapshot


def test_a_damaged_snapshot_is_refused_at_the_start() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 20)
    snapshot(group, "n1")
    group.crash("n1")
    group.disks["n1"].flip_bit(NAME, group.disks["n1"].size(NAME) // 2, 3)
    with pytest.raises(DamagedFile, match="wrong checksum"):
        group.start("n1")
