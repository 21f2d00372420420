"""Planted bugs of the log: durability, replication, commitment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from coterie.raft import journal_format as form
from coterie.raft import messages as m
from coterie.raft.disk import DiskFile, RealFile
from coterie.raft.entry import Logged
from coterie.raft.journal import NAME as JOURNAL_NAME
from coterie.raft.journal import Journal
from coterie.raft.journal_next import NEW_NAME, NextFile
from coterie.raft.member import Member
from coterie.raft.progress import Progress
from coterie.raft.seam import LEADER, Node
from tests.sim.raft.disk import SimDisk
from tests.sim.raft.plant import Plant

TakeRest = Callable[[NextFile, Sequence[Logged], bytes], Callable[[], DiskFile]]


def _hasty_sender() -> type[Member]:
    class SyncObj(Member):
        """Does not wait for the disk before it answers."""

        def _take_messages(self) -> dict[str, list[m.Message]]:
            return self._outbox.take(1, 0, ())

    return SyncObj


def _early_promise() -> type[Member]:
    class SyncObj(Member):
        """Answers early to entries that its disk does not have yet."""

        def _answer(self, node: Node, message: m.Append, *, matched: bool, next_index: int) -> None:
            super()._answer(node, message, matched=matched, next_index=next_index)
            if self._is_writing and matched and message.sequence:
                reply = m.AppendReply(
                    self.term, message.sequence, message.sent_at_us, matched, next_index, 0, 0, early=True
                )
                self._post(node, reply)

        def _on_append_reply(self, node: Node, message: m.AppendReply) -> None:
            super()._on_append_reply(node, replace(message, early=False))

    return SyncObj


def _own_copy_at_once() -> type[Member]:
    class SyncObj(Member):
        """Counts its own copy of an entry while its disk still writes it."""

        def _count_majority(self) -> None:
            self._log.durable_index = self._log.last_index
            super()._count_majority()

    return SyncObj


def _cut_while_writing() -> type[Member]:
    class SyncObj(Member):
        """Replaces the journal's file while there is something that was never in it."""

        @property
        def _is_settled_on_disk(self) -> bool:
            return True

    return SyncObj


def _block_written_behind_a_cut(journal: Journal) -> None:
    """Believes that what was given to the disk is still what the log holds."""
    journal.durable_index = journal.last_index


def _ignore_failed_sync(file: RealFile) -> None:
    """Hopes that the next one will do."""
    with suppress(OSError):
        os.fdatasync(file._fd)


def _append_unsynced(journal: Journal, block: bytes) -> None:
    """Trusts the operating system with it."""
    journal._file.append(block)


def _ack_without_term() -> type[Member]:
    class SyncObj(Member):
        """Takes every answer for one to its present leadership."""

        def _note_answer(self, node: Node, message: m.AppendReply | m.SnapshotReply) -> Progress | None:
            return super()._note_answer(node, replace(message, term=max(message.term, self.term)))

    return SyncObj


def _deaf_to_higher_terms() -> type[Member]:
    class SyncObj(Member):
        """Leads on when an answer shows that there is a higher term."""

        def _note_contact(self, node: Node, message: m.AppendReply | m.SnapshotReply) -> Progress | None:
            return super()._note_contact(node, message) if message.term <= self.term else None

    return SyncObj


def _cut_below_commit() -> type[Member]:
    class SyncObj(Member):
        """Lets its leader have what is committed here replaced."""

        def _on_append(self, node: Node, message: m.Append) -> None:
            commit, self.__raftCommitIndex = self.__raftCommitIndex, self._log.base.index
            super()._on_append(node, message)
            self.__raftCommitIndex = max(commit, self.__raftCommitIndex)

    return SyncObj


def _truncate_matching() -> type[Member]:
    class SyncObj(Member):
        """Cuts its log behind the entry before the new ones, whether they differ or not."""

        def _store_entries(self, message: m.Append) -> int:
            first = message.prev_index + 1
            if self._log.base.index < first <= self._log.last_index:
                self._log.deleteEntriesFrom(first - self._log.base.index)
            return super()._store_entries(message)

    return SyncObj


def _unverified_commit() -> type[Member]:
    class SyncObj(Member):
        """Believes the leader's commit index for entries it never compared."""

        def _commit_to(self, index: int) -> None:
            super()._commit_to(max(index, min(self.__leaderCommitIndex, self._log.last_index)))

    return SyncObj


def _old_term_commit() -> type[Member]:
    class SyncObj(Member):
        """Commits what a majority has, of whatever term (Raft, figure 8)."""

        def _count_majority(self) -> None:
            super()._count_majority()
            if self.__raftState == LEADER:
                matched = self._agreed(self._log.durable_index, lambda progress: progress.match_index)
                self._commit_to(int(max(matched, 0)))

    return SyncObj


def _optimist() -> type[Member]:
    class SyncObj(Member):
        """Streams before it knows where the logs agree, and believes the last of many refusals."""

        def _restart_progress(self, node: Node) -> None:
            super()._restart_progress(node)
            if node in self._progress:
                self._progress[node].probing = False

        def __onBecomeLeader(self) -> None:
            super().__onBecomeLeader()
            for progress in self._progress.values():
                progress.probing = False

        def _note_mismatch(self, progress: Progress, message: m.AppendReply) -> None:
            progress.next_index = max(2, message.next_index)

    return SyncObj


def _take_rest_in_place(
    next_file: NextFile, entries: Sequence[Logged], vote: bytes
) -> Callable[[], DiskFile]:
    """Compaction as the library does it: clear, and add again."""
    records = next_file._taken(entries)

    def work() -> DiskFile:
        disk = next_file._disk
        next_file._write([*records, vote], entries)
        data = disk.read(NEW_NAME)
        if disk.exists(JOURNAL_NAME):
            disk.truncate(JOURNAL_NAME, 0)
            file = disk.open(JOURNAL_NAME)
        else:
            file = disk.create(JOURNAL_NAME)
        file.append(data)
        file.sync()
        disk.sync_dir()
        return file

    return work


def _forgetful_end(
    next_file: NextFile, entries: Sequence[Logged], vote: bytes, take_rest: TakeRest = NextFile.take_rest
) -> Callable[[], DiskFile]:
    """Takes a log that was copied in slices for one that stood still meanwhile."""
    was_copied = next_file.copied > next_file.base.index
    return take_rest(next_file, [] if was_copied else entries, vote)


def _copy_keeps_all(next_file: NextFile, index: int) -> None:
    """What the log has cut off since it was copied stays in the copy."""
    next_file.copied = min(next_file.copied, index - 1)


def _cut_at_damage(
    raw: bytes, path: str, salt: int, start: int, synced: int = 0
) -> tuple[list[form.Record], int]:
    """Takes whatever is broken for a torn write at the end."""
    records: list[form.Record] = []
    position = start
    while (size := form._block_size(raw, salt, position)) is not None:
        records.extend(form._records(raw, position + form._BLOCK.size, position + size, path))
        position += size
    return records, position


def _no_checksum(*args: Any) -> int:
    return 0


def _forget_to_sync_dir(disk: SimDisk) -> None:
    disk.operate()


PLANTS: dict[str, Plant] = {
    "ack-before-durable": Plant(_hasty_sender()),
    "ack-without-term": Plant(
        _ack_without_term(),
        found_by="test_replication.py::test_an_acknowledgement_for_an_old_leadership_does_not_count",
    ),
    "commit-beyond-match": Plant(_unverified_commit()),
    "commit-of-old-term": Plant(
        _old_term_commit(),
        found_by="test_replication.py::test_entries_of_an_older_term_are_not_committed_by_counting",
    ),
    "compaction-in-place": Plant(
        patches=(("coterie.raft.journal_next:NextFile", "take_rest", _take_rest_in_place),)
    ),
    "copy-forgets-what-came": Plant(
        patches=(("coterie.raft.journal_next:NextFile", "take_rest", _forgetful_end),)
    ),
    "copy-keeps-what-was-cut": Plant(
        patches=(("coterie.raft.journal_next:NextFile", "forget_from", _copy_keeps_all),),
        found_by="test_cutting.py::test_a_copy_follows_the_log_where_it_is_cut_off_and_grows_again",
    ),
    "cut-at-damage": Plant(
        patches=(("coterie.raft.journal_format", "read_blocks", _cut_at_damage),),
        found_by="test_journal.py::test_a_flipped_bit_before_the_last_block_is_refused_with_file_and_place",
    ),
    "cut-below-commit": Plant(
        _cut_below_commit(),
        found_by="test_replication.py::test_a_conflict_below_the_commit_index_is_fatal",
    ),
    "cut-while-writing": Plant(
        _cut_while_writing(),
        found_by="test_writing.py::test_the_journal_is_replaced_when_it_holds_all_that_memory_holds",
    ),
    "deaf-to-higher-terms": Plant(
        _deaf_to_higher_terms(),
        found_by="test_replication.py::test_an_acknowledgement_of_a_higher_term_deposes",
    ),
    "early-promise": Plant(
        _early_promise(),
        found_by="test_writing.py::test_a_slow_follower_answers_early_and_promises_nothing",
    ),
    "failed-fsync-ignored": Plant(
        patches=(("coterie.raft.disk:RealFile", "sync", _ignore_failed_sync),),
        found_by="test_engine_faults.py::test_a_sync_that_fails_in_the_kernel_stops_the_node",
    ),
    "lazy-fsync": Plant(patches=(("coterie.raft.journal:Journal", "write", _append_unsynced),)),
    "no-checksum": Plant(
        patches=(("coterie.raft.journal_format", "_crc", _no_checksum),),
        found_by="test_journal.py::test_a_flipped_bit_before_the_last_block_is_refused_with_file_and_place",
    ),
    "no-directory-sync": Plant(patches=(("tests.sim.raft.disk:SimDisk", "sync_dir", _forget_to_sync_dir),)),
    "optimistic-stream": Plant(_optimist()),
    "own-copy-at-once": Plant(
        _own_copy_at_once(),
        found_by="test_replication.py::test_the_leaders_own_copy_does_not_count_before_it_is_durable",
    ),
    "stale-durability": Plant(
        patches=(("coterie.raft.journal:Journal", "block_written", _block_written_behind_a_cut),),
        found_by="test_writing.py::test_what_was_cut_while_it_was_written_is_not_durable",
    ),
    "truncate-matching": Plant(_truncate_matching()),
}
