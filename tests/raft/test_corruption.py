"""Damage to the files of a minority: found at the start, or harmless; no lost entry, no wrong state."""

from __future__ import annotations

import random

import pytest

from coterie.raft.errors import DamagedFile, FatalRaftError
from coterie.raft.journal import MARK_NAME
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.snapshot import NAME as SNAPSHOT
from tests.raft.group import Group
from tests.sim.raft.disk import SimDisk

SMALL = {"snapshot_keep_entries": 4, "snapshot_chunk_bytes": 300, "snapshot_slice_bytes": 200}
NODE = "n3"


def flip_a_bit(raw: bytearray, dice: random.Random) -> bytes:
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    return bytes(raw)


def cut_short(raw: bytearray, dice: random.Random) -> bytes:
    return bytes(raw[: dice.randrange(len(raw))])


def lose_a_stretch(raw: bytearray, dice: random.Random) -> bytes:
    at = dice.randrange(len(raw))
    length = min(dice.randint(1, 600), len(raw) - at)
    raw[at : at + length] = dice.choice([bytes(length), dice.randbytes(length)])
    return bytes(raw)


def grow_a_tail(raw: bytearray, dice: random.Random) -> bytes:
    return bytes(raw) + dice.randbytes(dice.randint(1, 300))


def damage(disk: SimDisk, dice: random.Random) -> str:
    """One file of the node, in one way. Returns what was done."""
    name = dice.choice([JOURNAL, JOURNAL, JOURNAL, SNAPSHOT, SNAPSHOT, MARK_NAME])
    how = dice.choice([flip_a_bit, flip_a_bit, flip_a_bit, cut_short, lose_a_stretch, grow_a_tail, None])
    if how is None:
        disk.remove(name)
        disk.sync_dir()
        return f"{name} is gone"
    raw = how(bytearray(disk.read(name)), dice)
    inode = disk._names[name]
    inode.data, inode.durable = bytearray(raw), raw
    return f"{name}: {how.__name__}"


def working_group(dice: random.Random) -> tuple[Group, list[bytes]]:
    """n1 and n3 have everything that was acknowledged, n2 lacks the end: all depends on the disk of n3."""
    group = Group(3, **SMALL)
    group.elect("n1")
    acked = [b"%d " % number + bytes(dice.randint(0, 90)) for number in range(dice.randint(24, 40))]
    snapshots = set(dice.sample(range(5, 20), 2))
    end = len(acked) - dice.randint(1, 4)
    for number, body in enumerate(acked):
        if number == end:
            group.pass_ms(30)
            group.crash("n2")
        group.committed("n1", body)
        if number in snapshots:
            for member_id in ("n1", NODE):
                member = group.members[member_id]
                member.want_snapshot()
                group.run(member_id)
                member.cut_log(member.ready_to_cut)
                group.run(member_id)
    group.pass_ms(30)
    return group, acked


def outcome_of(seed: int) -> str:
    dice = random.Random(seed)
    group, acked = working_group(dice)
    group.crash(NODE)
    what = damage(group.disks[NODE], dice)
    try:
        group.start(NODE)
    except FatalRaftError as error:
        assert "sim:raft." in str(error) and "Remedy" in str(error), f"{what}: {error}"
        if isinstance(error, DamagedFile):
            assert f"at byte {error.offset}" in str(error)
        group.start("n2")  # the others go on
        group.pass_ms(400)
        assert group.machines["n1"].entries == acked, what
        return "refused"
    group.crash("n1")
    group.start("n2")
    group.pass_ms(2_000)
    leader = group.leaders()[0]
    group.committed(leader, b"after")
    group.pass_ms(100)
    for node in ("n2", NODE):
        assert group.machines[node].entries == [*acked, b"after"], f"{what}: {node} lost or changed something"
    return "harmless"


def outcomes(seeds: range) -> dict[str, int]:
    found = [outcome_of(seed) for seed in seeds]
    return {name: found.count(name) for name in ("refused", "harmless")}


def test_damage_to_a_minority_is_found_or_harmless() -> None:
    found = outcomes(range(40))
    assert min(found.values()) >= 3, found  # both really happen


@pytest.mark.chaos
def test_300_corruptions_of_a_minority_none_silently_wrong() -> None:
    found = outcomes(range(1_000, 1_300))
    print(f"300 corruptions: {found}, silently wrong 0")
    assert sum(found.values()) == 300 and min(found.values()) >= 20
