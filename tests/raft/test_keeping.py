"""How much of the log stays beside a snapshot, and when a large one is made anew."""

from __future__ import annotations

from coterie.raft.entry import HEADER_BYTES
from coterie.raft.keeping import LARGE_STATE
from tests.raft.group import Group
from tests.raft.test_snapshots import SMALL, body, filled, snapshot


def test_a_follower_that_is_slow_but_in_touch_gets_entries_and_no_snapshot() -> None:
    """A snapshot of a large state costs it much more, and twice the memory while it is installed."""
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 3)
    has = group.members["n3"].applied_index
    group.hold_disk.add("n3")
    filled(group, "n1", 30, first=3)
    snapshot(group, "n1")
    assert group.members["n1"]._log.base.index <= has
    group.hold_disk.clear()
    group.run_jobs("n3")
    group.settle()
    group.pass_ms(50)
    assert group.machines["n3"].entries == [body(n) for n in range(33)]
    assert group.machines["n3"].restored_at == []
    filled(group, "n1", 30, first=33)
    index = snapshot(group, "n1")
    assert group.members["n1"]._log.base.index == index - 2


def test_a_large_snapshot_is_made_again_when_the_log_is_a_part_of_it() -> None:
    group = Group(1, snapshot_every_entries=10, snapshot_keep_bytes=1)
    group.pass_ms(300)
    member, first = group.members["n1"], b"x" * 100_000
    group.committed("n1", first)
    snapshot(group, "n1")
    size = 0
    while not member.ready_to_cut:
        group.committed("n1", b"y" * 1_000)
        size += 1_000 + HEADER_BYTES
        assert size < 2 * len(first)
    assert size >= len(first) // LARGE_STATE
    assert size > 11_000
