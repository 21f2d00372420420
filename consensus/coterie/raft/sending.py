"""A leader's snapshot on its way to a member that lacks more than the log still has, in chunks."""

from __future__ import annotations

from functools import partial

from coterie.raft import cutting
from coterie.raft import messages as m
from coterie.raft import snapshot as form
from coterie.raft.disk import Disk
from coterie.raft.errors import DamagedFile, DiskFull
from coterie.raft.jobs import nothing
from coterie.raft.messages import SnapshotStatus
from coterie.raft.progress import Progress, SnapshotSend
from coterie.raft.seam import Node
from coterie.raft.snapshot import SnapshotStore


class SyncObj(cutting.SyncObj):
    """Adds the sending of snapshots, with a window of unanswered chunks."""

    _disk: Disk
    _store: SnapshotStore

    def _send_snapshot(self, node: Node, progress: Progress) -> None:
        sending = progress.snapshot
        if sending is None:
            meta = self._store.current
            if meta is None or meta.index < self._log.base.index:
                return  # being switched right now
            try:
                file = self._store.open()
            except DiskFull:
                return  # no descriptor is left; the next beat tries again
            sending = SnapshotSend(file, meta, self._store.size_bytes, self._sequence + 1)
            progress.snapshot = sending
            progress.probing, progress.probe_sequence = True, 0
        while sending.unanswered < self._options.snapshot_window and sending.offset < sending.size_bytes:
            self._send_chunk(node, progress, sending)

    def _send_chunk(self, node: Node, progress: Progress, sending: SnapshotSend) -> None:
        data = sending.file.read_at(sending.offset, self._options.snapshot_chunk_bytes)
        if not data:
            raise DamagedFile(self._disk.path_of(form.NAME), sending.offset, "it became shorter")
        sequence = self._next_sequence()
        self._post(
            node,
            m.SnapshotChunk(
                self.__raftCurrentTerm,
                sequence,
                self._stamp_us(),
                sending.meta.index,
                sending.meta.term,
                sending.size_bytes,
                sending.offset,
                data,
            ),
        )
        progress.sent(sequence, 0)
        sending.offset += len(data)
        sending.unanswered += 1

    def _on_snapshot_reply(self, node: Node, message: m.SnapshotReply) -> None:
        progress = self._note_answer(node, message)
        sending = progress.snapshot if progress is not None else None
        if progress is None or sending is None or message.sequence < sending.first_sequence:
            return
        if message.status is SnapshotStatus.MORE:
            sending.unanswered -= 1
        else:
            progress.close_snapshot()
        if message.status is SnapshotStatus.DAMAGED:
            # Either the way there or this disk is bad; a bad disk must not lead.
            self._job("check own snapshot", partial(self._store.check, form.NAME), nothing)
        if message.status is SnapshotStatus.DONE:
            self._note_match(progress, message.offset)
            progress.next_index = progress.match_index + 1
