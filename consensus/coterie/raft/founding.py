"""The data directories of a group that does not begin with an empty log, but with a given state."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coterie.core.ports import Member, Role
from coterie.raft import configuration as membership
from coterie.raft import snapshot as form
from coterie.raft.disk import Disk, RealDisk
from coterie.raft.errors import WrongDataDir
from coterie.raft.journal import NAME as JOURNAL_NAME
from coterie.raft.journal import Base, Journal
from coterie.raft.journal_format import Identity


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the log of a new group begins: behind the entry `index` of the given state, in `term`.
    `addresses` are those of its members, all of them voters; `at_ms` is the newest time in the state."""

    cluster_id: str
    addresses: Mapping[str, str]
    index: int
    term: int
    at_ms: int


def found_group(
    directories: Mapping[str, Path], beginning: Beginning, image: Callable[[], Iterable[bytes]]
) -> None:
    """Make the Raft directory of each member, durably. `image` gives the state in slices, each time anew.

    All members are bound to these very directories from the first moment: nobody else has a vote, whatever
    name it comes under. Raises WrongDataDir where there is a log already, DiskFull or DiskFailed."""
    rng = random.Random(random.SystemRandom().getrandbits(128))
    disks: dict[str, Disk] = {name: RealDisk(path) for name, path in directories.items()}
    journals: dict[str, Journal] = {}
    try:
        for name, disk in disks.items():
            disk.lock()
            _require_empty(disk)
            journals[name] = Journal(disk, Identity(beginning.cluster_id, name), rng)
        meta = _meta(beginning, {name: journal.disk_id for name, journal in journals.items()})
        for name, disk in disks.items():
            _write_snapshot(disk, form.header(meta, beginning.cluster_id), image())
            journals[name].setCurrentTerm(beginning.term, None)
            journals[name].rewrite(Base(beginning.index, beginning.term, beginning.at_ms))()
    finally:
        for journal in journals.values():
            journal._destroy()
        for disk in disks.values():
            disk.close()


def _require_empty(disk: Disk) -> None:
    for name in (JOURNAL_NAME, form.NAME):
        if disk.exists(name):
            raise WrongDataDir(f"{disk.path_of(name)} is there already. Remedy: name an empty directory")


def _meta(beginning: Beginning, disk_ids: Mapping[str, str]) -> form.Meta:
    members = tuple(
        Member(name, beginning.addresses.get(name, ""), Role.VOTER, disk_ids[name])
        for name in sorted(disk_ids)
    )
    raw = membership.encode(membership.Configuration(members))
    return form.Meta(beginning.index, beginning.term, beginning.at_ms, beginning.index, raw)


def _write_snapshot(disk: Disk, header: bytes, image: Iterable[bytes]) -> None:
    file = disk.create(form.NAME)
    try:
        file.append(header)
        chunks = size = 0
        for data in image:
            file.append(form.chunk(chunks, data))
            chunks, size = chunks + 1, size + len(data)
        file.append(form.end(chunks, size))
        file.sync()
    finally:
        file.close()
    disk.sync_dir()
