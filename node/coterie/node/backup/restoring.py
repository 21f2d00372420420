"""A new cluster from a backup: data directories of its founders, ready to be started. Blocks, offline."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError, Message

from coterie.core.epochs import Epoch, begin_epoch
from coterie.core.state import ClusterState
from coterie.node.backup.archive import REMEDY, Archive
from coterie.node.backup.manifest import BLOBS, HISTORY, STATE, BadBackup
from coterie.node.blobs import BlobOptions, BlobStore
from coterie.node.clock import Clock
from coterie.node.collecting import references
from coterie.node.ledger import Gap, Ledger
from coterie.node.ledger.feed import adopt_rows, store
from coterie.node.resync import RAFT_DIR
from coterie.node.security.audit_log import rows as audit_rows
from coterie.raft import codec
from coterie.raft.errors import NewerVersion
from coterie.raft.founding import Beginning, found_group
from coterie.v1 import log_pb2, peer_pb2, tasks_pb2

LEDGER: Final = "ledger.db"
EVENTS_AT_ONCE: Final = 5_000
_NO_LIMIT: Final = 1 << 62


class RestoreRefused(Exception):
    """It cannot be restored so; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made below `directory`: a cluster of that name with these founders at these addresses."""

    directory: Path
    cluster_name: str
    founders: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made. `directories`: of the data, by node."""

    cluster_id: str
    epoch: str
    directories: Mapping[str, Path]
    tasks: int
    finished: int
    blobs: int


def check_contents(archive: Archive) -> ClusterState:
    """The state, read and complete. Raises BadBackup when this version cannot read it, or when a blob is
    missing that the backup does not know as lost."""
    state = _read_state(archive)
    held, absent = set(archive.names(BLOBS)), set(archive.manifest.absent)
    kinds: Sequence[tuple[str, type[Message]]] = (
        (STATE, log_pb2.StateSlice),
        (HISTORY, peer_pb2.LedgerRows),
    )
    for prefix, kind in kinds:
        for name, content in archive.below(prefix):
            if references(content):
                for sha256 in _referred(kind.FromString(content)):
                    if sha256 not in held and sha256 not in absent:
                        where = f"{prefix}{name} refers to blob {sha256}"
                        raise BadBackup(f"{archive.path}: {where}, which is missing. {REMEDY}")
    return state


def restore(archive: Archive, plan: Plan) -> Restored:
    """Make the directories: all of them, or, when it fails, none. Raises BadBackup, RestoreRefused, and what
    the disk raises."""
    _require_new(archive, plan)
    state = check_contents(archive)
    building = plan.directory.with_name(f"{plan.directory.name}.partial-{os.getpid()}")
    building.mkdir(parents=True, mode=0o700)
    try:
        made = asyncio.run(_build(archive, plan, state, building))
        if plan.directory.exists():
            plan.directory.rmdir()  # it is empty
        building.rename(plan.directory)
        _sync(plan.directory.parent)
        return made
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _require_new(archive: Archive, plan: Plan) -> None:
    before = archive.head.cluster_name
    if plan.cluster_name == before:
        raise RestoreRefused(
            f"cluster.name: {before!r} is the name of the cluster that was backed up, whose nodes may be "
            f"alive and would be taken for these. Give the new cluster another one, such as {before}-2, in "
            "the files of all its nodes"
        )
    if plan.directory.exists() and (not plan.directory.is_dir() or any(plan.directory.iterdir())):
        raise RestoreRefused(
            f"{plan.directory} is not an empty directory: move it away, or name another one. Nothing is "
            "overwritten"
        )


def _read_state(archive: Archive) -> ClusterState:
    state = ClusterState()
    for name, content in archive.below(STATE):
        try:
            codec.read_slice(state, content)
        except (DecodeError, ValueError) as error:
            raise BadBackup(f"{archive.path}: {STATE}{name} is no part of a state ({error})") from error
        except NewerVersion as error:
            raise BadBackup(f"{archive.path}: {error}") from error
    state.rebuild()
    return state


def _referred(message: Message) -> Iterator[str]:
    """The blobs that a message refers to."""
    if isinstance(message, log_pb2.Data | tasks_pb2.BlobRef):
        if message.sha256:
            yield message.sha256
        return
    if isinstance(message, peer_pb2.LedgerRows):
        for raw in message.tasks:
            yield from _referred(log_pb2.LedgerRecord.FromString(raw))
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in [value] if isinstance(value, Message) else value:
            if isinstance(one, Message):
                yield from _referred(one)


async def _build(archive: Archive, plan: Plan, state: ClusterState, building: Path) -> Restored:
    head, names = archive.head, sorted(plan.founders)
    epoch = Epoch(
        secrets.token_hex(4),
        Clock().new_id(),
        plan.cluster_name,
        f"restored from the backup of {head.cluster_name} at {head.index}",
    )
    homes = {name: building / name for name in names}
    for home in homes.values():
        home.mkdir(mode=0o700)
    first = homes[names[0]]
    begin_epoch(state, epoch, head.index)
    await _write_ledger(archive, state, first / LEDGER)
    blobs = await _write_blobs(archive, first / "blobs")
    for home in list(homes.values())[1:]:
        _copy(first, home)
    found_group(
        {name: home / RAFT_DIR for name, home in homes.items()},
        Beginning(plan.cluster_name, plan.founders, head.index, head.term, state.meta.clock_ms),
        partial(codec.encode_state, state),
    )
    for folder in (*homes.values(), building):
        _sync(folder)
    where = {name: plan.directory / name for name in names}
    return Restored(epoch.cluster_id, epoch.number, where, len(state.tasks), state.meta.finished_total, blobs)


async def _write_ledger(archive: Archive, state: ClusterState, path: Path) -> None:
    """The history up to the index, and what the restore itself has brought about. Raises RestoreRefused when
    a part of it was not taken."""
    index = archive.head.index
    ledger = await Ledger.open(path)
    try:
        ledger.note_snapshot(index)  # nothing is here yet, and all of it is missed
        for _, content in archive.below(HISTORY):
            await adopt_rows(ledger, peer_pb2.LedgerRows.FromString(content), index)
        events, state.outbox = state.outbox, []
        noted, state.noted = state.noted, []
        await store(ledger, (), audit_rows(noted))
        for start in range(0, len(events), EVENTS_AT_ONCE):
            await store(ledger, events[start : start + EVENTS_AT_ONCE])
        # What the backup lacks nobody has, or ever will have: nobody is to wait for it, and a node that joins
        # is to be given what lies behind it.
        await ledger.adopt((), (), Gap(0, index))
        if ledger.rows_lost:
            text = f"{ledger.rows_lost} rows of the history could not be stored; the log says why"
            raise RestoreRefused(f"{archive.path}: {text}. Nothing was restored")
    finally:
        await ledger.close()


async def _write_blobs(archive: Archive, directory: Path) -> int:
    blobs = await BlobStore.open(directory, BlobOptions(_NO_LIMIT, _NO_LIMIT, _NO_LIMIT))
    count = 0
    try:
        for name, content in archive.below(BLOBS):
            await blobs.put(_once(content), name, len(content))
            count += 1
    finally:
        await blobs.close()
    return count


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _copy(first: Path, home: Path) -> None:
    """A ledger is written to later and needs a copy; a blob never changes: one file may have many names."""
    for file in first.glob(f"{LEDGER}*"):
        shutil.copyfile(file, home / file.name)
        _sync(home / file.name)
    shutil.copytree(first / "blobs", home / "blobs", copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        _sync(Path(target))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
