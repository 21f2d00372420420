"""A file that grows by disk jobs, and the two things that grow so: a snapshot made, a snapshot received."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from coterie.raft import snapshot as form
from coterie.raft.disk import Disk, DiskFile
from coterie.raft.errors import DiskFull

logger = logging.getLogger("coterie.raft")


class Spool:
    """Created by its first job, so that a file of the same name is never in two hands."""

    def __init__(self, disk: Disk, name: str) -> None:
        self._disk, self._name = disk, name
        self._file: DiskFile | None = None
        self.failed = False  # for want of room: what it holds is no use

    def append(self, data: bytes, *, sync: bool) -> Callable[[], None]:
        """A job's work."""

        def work() -> None:
            if self.failed:
                return
            try:
                if self._file is None:
                    self._file = self._disk.create(self._name)
                self._file.append(data)
            except DiskFull as error:
                logger.warning("no room for a snapshot", extra={"file": self._name, "error": str(error)})
                self.failed = True
                return
            if sync:
                self._file.sync()

        return work

    def close(self) -> None:
        """Also a job's work."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Also a job's work: give the room back."""
        self.close()
        self._disk.remove(self._name)


class Making:
    """A snapshot of the own state, encoded slice by slice while `apply` goes on."""

    def __init__(self, disk: Disk, meta: form.Meta, cluster_id: str, image: Iterator[bytes]) -> None:
        self.meta = meta
        self.complete = False
        self.spool = Spool(disk, form.MAKING_NAME)
        self._image = image
        self._next = [form.header(meta, cluster_id)]
        self._chunks = self._bytes = 0
        self.size_bytes = 0  # encoded so far
        self.unsynced_bytes = 0  # for whoever writes the slices

    def next_slice(self, size_max: int, goes_on: Callable[[], bool]) -> bytes:
        """Encodes about `size_max` bytes more, or what time allows. After the last one `complete` is true."""
        parts, self._next = self._next, []
        size = 0
        while size < size_max and (not size or goes_on()):
            data = next(self._image, None)
            if data is None:
                parts.append(form.end(self._chunks, self._bytes))
                self.complete = True
                break
            parts.append(form.chunk(self._chunks, data))
            self._chunks += 1
            self._bytes += len(data)
            size += len(data)
        joined = b"".join(parts)
        self.size_bytes += len(joined)
        return joined


class Receiving:
    """A snapshot on its way in. It belongs to one sender, one term and one snapshot."""

    def __init__(self, disk: Disk, key: tuple[str, int, int, int], size_bytes: int) -> None:
        self.key, self.size_bytes = key, size_bytes
        self.offset = 0  # where the next chunk belongs
        self.spool = Spool(disk, form.RECEIVING_NAME)

    def is_over(self, term: int, commit_index: int) -> bool:
        """The rest will not come: another leader begins anew, and what the log holds needs no snapshot."""
        _, of_term, index, _ = self.key
        return self.offset < self.size_bytes and (of_term < term or index <= commit_index)
