"""A blob while its bytes arrive."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

from coterie.node.blob_errors import check_content, too_much

_QUEUE_BYTES = 1 << 20  # small chunks are gathered up to this before a thread writes them


class Upload:
    """A blob on its way into a temporary file."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._seen = 0
        self._digest = hashlib.sha256()
        self._chunks: list[bytes] = []
        self._queued = 0
        self._file: BinaryIO | None = None
        self._discarded = False
        self._lock = threading.Lock()  # a discard may come while a cancelled write still runs

    def offer(self, chunk: bytes) -> bool:
        """Take a chunk; whether enough is gathered for a write. Raises BlobMismatch when it is too much."""
        self._seen += len(chunk)
        if self._seen > self._size:
            raise too_much(self._size)
        self._chunks.append(chunk)
        self._queued += len(chunk)
        return self._queued >= _QUEUE_BYTES

    def write(self) -> None:
        """Write what was gathered. Blocks, as the methods below do."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._discarded:
            return
        if self._file is None:
            self._file = self.path.open("xb")
        for chunk in self._chunks:
            self._digest.update(chunk)
            self._file.write(chunk)
        self._chunks.clear()
        self._queued = 0

    def finish(self, sha256: str) -> None:
        """Write the rest, compare, sync. Raises BlobMismatch."""
        with self._lock:
            self._write()
            check_content(self._seen, self._size, self._digest.hexdigest(), sha256)
            if self._file is not None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def discard(self) -> None:
        """Close and remove what is left; nothing after a commit."""
        with self._lock:
            self._discarded = True
            if self._file is not None:
                self._file.close()
                self.path.unlink(missing_ok=True)
