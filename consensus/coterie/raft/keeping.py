"""How much of the log stays behind a snapshot, and how much of it makes a large snapshot due."""

from __future__ import annotations

from collections.abc import Iterable

from coterie.raft.journal import Base, Journal
from coterie.raft.options import RaftOptions
from coterie.raft.progress import Progress

LARGE_STATE = 8  # a large snapshot is made anew when the log has this part of its size


def large_part(snapshot_bytes: int, options: RaftOptions) -> int:
    """What the log shall have in bytes before a large snapshot is made anew; 0: it is not large."""
    part = snapshot_bytes // LARGE_STATE
    return part if part > options.snapshot_keep_bytes else 0


def base_to_keep(
    log: Journal,
    index: int,
    followers: Iterable[Progress],
    in_touch_since: float,
    options: RaftOptions,
) -> Base:
    """Where the log shall begin when a snapshot of `index` is there. What a follower needs that has been in
    touch since then is cheaper than a snapshot; more is not kept, as the member stands still while the file
    with it is written."""
    lowest = log.index_with_bytes_behind(index, options.snapshot_keep_bytes)
    lowest = max(lowest, index - options.snapshot_keep_entries)
    lowest = max(lowest, log.base.index)
    for progress in followers:
        at = _has_through(progress, in_touch_since)
        if log.holds(at) and log.bytes_between(at, index) <= options.snapshot_every_bytes:
            lowest = min(lowest, at)
    return Base(lowest, log.term_at(lowest), log.last_at_ms)


def _has_through(progress: Progress, in_touch_since: float) -> int:
    """What a follower has, or will have: it needs the entries behind that next."""
    if progress.snapshot is not None:
        return progress.snapshot.meta.index
    return progress.match_index if progress.contact_at > in_touch_since else 0
