"""Earlier states: what a member still has of the log, and the snapshot that it stands on."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.raft.entry import REGULAR, at_ms_of, body_of
from coterie.raft.journal import FIRST_INDEX, Journal
from coterie.raft.snapshot import OpenSnapshot, SnapshotStore


class NotKept(Exception):
    """An index that this member cannot go back to, with those that it can."""

    def __init__(self, index: int, oldest: int, newest: int) -> None:
        super().__init__(f"index {index} is not in {oldest}..{newest}, which this node still has")
        self.oldest, self.newest = oldest, newest


@dataclass(frozen=True, slots=True)
class Past:
    """The state at `index`: the snapshot, if there is one, and these entries (index, time in ms, body) on it.
    Whoever gets it closes it."""

    index: int
    oldest: int  # the state right behind the snapshot; 0: the empty one, before the first entry
    newest: int
    at_ms: int  # time of the last entry that has one; 0: none of these has
    snapshot: OpenSnapshot | None
    entries: tuple[tuple[int, int, bytes], ...]

    def close(self) -> None:
        if self.snapshot is not None:
            self.snapshot.close()


def past_of(log: Journal, store: SnapshotStore, applied: int, index: int) -> Past:
    """What leads to the state at `index`; 0: to the present one. Raises NotKept.

    The snapshot's own file says where it stands: another one may be taking its place just now."""
    snapshot = store.opened()
    oldest, wanted = snapshot.meta.index if snapshot is not None else 0, index or applied
    # The log is cut before the snapshot that covers what goes is in its place: entries between are nowhere.
    oldest = max(oldest, log.base.index) if log.base.index > max(oldest, FIRST_INDEX) else oldest
    if (snapshot is not None and snapshot.meta.index < oldest) or not oldest <= wanted <= applied:
        if snapshot is not None:
            snapshot.close()
        raise NotKept(index, oldest, applied)
    first, last = max(oldest + 1 - log.base.index, 0), wanted + 1 - log.base.index
    entries = tuple(
        (number, at_ms_of(command), body_of(command))
        for command, number, _ in log[first:last]
        if command[0] == REGULAR
    )
    at_ms = entries[-1][1] if entries else snapshot.meta.at_ms if snapshot is not None else 0
    return Past(wanted, oldest, applied, at_ms, snapshot, entries)
