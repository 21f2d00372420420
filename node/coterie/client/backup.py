"""A backup on its way from a node into a file: a tar archive, whole or not there at all."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import grpc.aio

from coterie.client.caller import Backoff
from coterie.client.errors import ClusterError, DataLoss, InvalidRequest, Unavailable
from coterie.client.rpc_errors import invalid
from coterie.v1 import cluster_pb2

if TYPE_CHECKING:
    from coterie.client.connection import Connection
    from coterie.client.endpoints import Endpoint

_MANIFEST, _LAST = "manifest.json", "manifest.sha256"
_FIRST_S = 15.0  # within this a node that works has begun: it waits for a majority and makes no piece before
_SILENCE_S = 120.0  # a node may wait for so long for a large blob of another node
_MODE = 0o600  # payloads, results and values are in it as they are
_BLOCK = tarfile.BLOCKSIZE
# What a file system says that knows no hard links, such as exFAT or one that is mounted from elsewhere.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A file that is complete and on the disk. `history_gaps`: parts of the log (behind the first index, up
    to the second) of whose history the node that made it lacked something; another node may have it."""

    path: Path
    size_bytes: int
    members: int
    sha256: str
    history_gaps: tuple[tuple[int, int], ...] = ()


async def create_backup(opened: Callable[[], Connection], path: Path, *, history: bool = True) -> BackupFile:
    """Everything that was acknowledged before the call, from one of the nodes, into a new file at `path`.

    It is written beside it and renamed when it is complete and synced. Raises InvalidRequest when something
    is at `path` already, PermissionDenied to whom is no admin, Unavailable when the node went away meanwhile:
    then nothing is left."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    connection = opened()
    request = cluster_pb2.CreateBackupRequest(without_history=not history)
    writer = await asyncio.to_thread(_Writer, path, partial)
    try:
        await _receive(connection, request, writer)
        return await asyncio.to_thread(writer.finish)
    finally:
        await asyncio.to_thread(writer.close)


async def _receive(connection: Connection, request: cluster_pb2.CreateBackupRequest, writer: _Writer) -> None:
    """All pieces, from the first node that begins: a node that is down must not cost the backup."""
    caller, backoff = connection.caller, Backoff()
    deadline = caller.clock() + caller.timeouts.call
    endpoint: Endpoint | None = None
    while True:
        endpoint = caller.pool.pick(avoid=endpoint)
        try:
            with caller.using(endpoint):
                await _stream(endpoint.cluster.CreateBackup(request), writer)
            return
        except TimeoutError:
            failure = caller.silent(endpoint, "the node took the call and said nothing")
            if writer.begun:
                raise Unavailable(f"the node said nothing for {_SILENCE_S:g} s", code="UNAVAILABLE") from None
        except ClusterError as error:
            failure = error
            if writer.begun:
                raise
        await caller.before_retry(failure, backoff, deadline)


async def _stream(call: Any, writer: _Writer) -> None:
    try:
        while True:
            async with asyncio.timeout(_SILENCE_S if writer.begun else _FIRST_S):
                piece = await call.read()
            if piece is grpc.aio.EOF:
                return
            await asyncio.to_thread(writer.add, piece)
    finally:
        call.cancel()


class _Writer:
    """Puts pieces into a tar archive. Blocks."""

    def __init__(self, path: Path, partial: Path) -> None:
        if path.exists():
            raise _taken(path)
        self._path, self._partial = path, partial
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        self._file: BinaryIO | None = os.fdopen(descriptor, "wb")
        self._digest = hashlib.sha256()
        self._members = self._size = 0
        self._name, self._left = "", 0  # of the member that is being written
        self._manifest = bytearray()

    @property
    def begun(self) -> bool:
        """Whether anything is written."""
        return self._members > 0

    def add(self, piece: cluster_pb2.BackupPart) -> None:
        """Raises DataLoss when the pieces do not fit."""
        if piece.name:
            self._end_member()
            info = tarfile.TarInfo(piece.name)
            info.size, info.mode = piece.size_bytes, _MODE
            self._write(info.tobuf(tarfile.USTAR_FORMAT))
            self._name, self._left = piece.name, piece.size_bytes
            self._members += 1
        if len(piece.data) > self._left:
            raise DataLoss(f"{self._name} has more bytes than the node said")
        self._write(piece.data)
        self._left -= len(piece.data)
        if self._name == _MANIFEST:
            self._manifest += piece.data
        if not self._left:
            self._write(bytes(-self._size % _BLOCK))

    def finish(self) -> BackupFile:
        """Make what was written the file that was asked for. Raises DataLoss when the end is missing."""
        self._end_member()
        if self._name != _LAST:
            raise DataLoss(f"the backup ended at {self._name or 'its beginning'}, before {_LAST}")
        self._write(bytes(2 * _BLOCK))
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._name_it()
        _sync(self._path.parent)
        digest = self._digest.hexdigest()
        return BackupFile(self._path, self._size, self._members, digest, _gaps_in(self._manifest))

    def close(self) -> None:
        """Leave nothing, unless it is finished."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._partial.unlink(missing_ok=True)

    def _name_it(self) -> None:
        try:
            os.link(self._partial, self._path)  # unlike a rename, it replaces nothing
        except FileExistsError as error:
            raise _taken(self._path) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._path.exists():
                raise _taken(self._path) from error
            self._partial.rename(self._path)
        else:
            self._partial.unlink()

    def _end_member(self) -> None:
        if self._left:
            raise DataLoss(f"{self._name} lacks {self._left} bytes")

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


def _gaps_in(manifest: bytes | bytearray) -> tuple[tuple[int, int], ...]:
    """None from a node of a version that does not say."""
    try:
        found = json.loads(manifest).get("history_gaps", ())
        return tuple((int(after), int(up_to)) for after, up_to in found)
    except (ValueError, TypeError, AttributeError):
        return ()


def _taken(path: Path) -> InvalidRequest:
    return invalid([("path", f"{path} is there already: choose another name")])


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
