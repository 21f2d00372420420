"""Snapshot files: read back whole, or refused."""

from __future__ import annotations

import random

import pytest

from coterie.raft import snapshot as form
from coterie.raft.errors import DamagedFile, WrongDataDir
from coterie.raft.snapshot import NAME, Meta, SnapshotStore
from tests.sim.raft.disk import SimDisk

META = Meta(17, 3, 1_700)
CHUNKS = [b"alpha", b"", b"gamma" * 20]


def image(chunks: list[bytes] = CHUNKS, meta: Meta = META) -> bytes:
    parts = [form.header(meta, "blue"), *(form.chunk(number, data) for number, data in enumerate(chunks))]
    return b"".join(parts) + form.end(len(chunks), sum(map(len, chunks)))


def disk_with(raw: bytes) -> SimDisk:
    disk = SimDisk(random.Random(1))
    file = disk.create(NAME)
    file.append(raw)
    file.sync()
    disk.sync_dir()
    return disk


def test_a_snapshot_is_read_back() -> None:
    store = SnapshotStore(disk_with(image()), "blue")
    assert store.current == META
    assert list(store.image()) == CHUNKS
    assert store.size_bytes == len(image())


def test_a_chunk_may_be_as_large_as_the_file() -> None:
    """A task with all its steps is one record, and how large it may be is a matter of configuration."""
    chunks = [b"small", bytes(65 << 20), b"last"]
    store = SnapshotStore(disk_with(image(chunks)), "blue")
    assert [len(chunk) for chunk in store.image()] == [5, 65 << 20, 4]


def test_no_snapshot_is_no_error() -> None:
    assert SnapshotStore(SimDisk(random.Random(1)), "blue").current is None


def test_a_cut_file_is_refused_at_every_length() -> None:
    raw = image()
    for length in range(len(raw)):
        with pytest.raises(DamagedFile, match=NAME):
            SnapshotStore(disk_with(raw[:length]), "blue")


def test_a_flipped_bit_is_refused_everywhere() -> None:
    raw = image()
    for position in range(len(raw)):
        disk = disk_with(raw)
        disk.flip_bit(NAME, position, position % 8)
        with pytest.raises((DamagedFile, WrongDataDir), match=NAME):
            SnapshotStore(disk, "blue")


def test_chunks_in_another_order_are_refused() -> None:
    first, second = form.chunk(0, b"one"), form.chunk(1, b"two")
    raw = form.header(META, "blue") + second + first + form.end(2, 6)
    with pytest.raises(DamagedFile, match="chunk 0"):
        SnapshotStore(disk_with(raw), "blue")


def test_a_missing_chunk_is_refused() -> None:
    raw = form.header(META, "blue") + form.chunk(0, b"one") + form.end(2, 6)
    with pytest.raises(DamagedFile, match="count"):
        SnapshotStore(disk_with(raw), "blue")


def test_another_cluster_and_a_newer_format_are_refused() -> None:
    with pytest.raises(WrongDataDir, match="cluster 'blue'"):
        SnapshotStore(disk_with(image()), "red")
    raw = bytearray(image())
    raw[8] = form.FORMAT + 1
    with pytest.raises(WrongDataDir, match="format 2"):
        SnapshotStore(disk_with(bytes(raw)), "blue")
