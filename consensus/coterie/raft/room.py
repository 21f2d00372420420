"""How much room there is for the log, and what follows from that.

The journal keeps blocks allocated behind its end which no other file can take. What the cluster must be able
to write when a disk is full, ends of tasks, terms and votes, goes there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from coterie.raft.options import RaftOptions

SHARE_MAX = 20  # neither the reserve nor the low-water mark is more than 1/20 of the disk


class Room(IntEnum):
    """OK: for everything. LOW: only for what ends work. FULL: only for terms and votes."""

    OK = 0
    LOW = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the disk. `reserved_bytes` is None where the file system cannot reserve."""

    free_bytes: int
    total_bytes: int
    reserved_bytes: int | None


def reserve_wanted(options: RaftOptions, total_bytes: int) -> int:
    return min(options.disk_reserve_bytes, total_bytes // SHARE_MAX)


def judge(reading: Reading, options: RaftOptions, before: Room) -> Room:
    """What a reading means. Coming back takes a quarter more than staying, so that it does not flap."""
    low = min(options.disk_low_bytes, reading.total_bytes // SHARE_MAX)
    wanted = reserve_wanted(options, reading.total_bytes)
    reserved = reading.reserved_bytes
    whole = wanted if reserved is None else reserved
    left = reading.free_bytes + (reserved or 0)
    if before is not Room.OK:
        low += low // 4
    if before is Room.FULL:
        left -= wanted // 4
    if left < wanted // 4:
        return Room.FULL
    if reading.free_bytes < low or whole < wanted // 2:
        return Room.LOW
    return Room.OK
