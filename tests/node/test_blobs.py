"""A blob is stored whole or not at all, and what is read is what was put."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.node.blob_errors import (
    BlobDamaged,
    BlobMismatch,
    BlobNameInvalid,
    BlobNotFound,
    BlobQuotaExceeded,
    BlobStorageFailed,
    BlobTooLarge,
)
from coterie.node.blobs import BlobOptions, BlobStore

SMALL = BlobOptions(blob_bytes_max=1_000, total_bytes_max=2_500)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def stream(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


def file_of(directory: Path, sha256: str) -> Path:
    return directory / sha256[:2] / sha256[2:]


def files(directory: Path) -> list[str]:
    """All files below, by their path from `directory`."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def flip_a_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[BlobStore]:
    store = await BlobStore.open(tmp_path / "blobs")
    yield store
    await store.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


async def read(store: BlobStore, sha256: str, chunk_bytes: int) -> list[bytes]:
    return [chunk async for chunk in store.open_chunks(sha256, chunk_bytes)]


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 400))
@settings(max_examples=30, deadline=None)
async def test_what_goes_in_in_parts_comes_out_in_parts(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], chunk_bytes: int
) -> None:
    content = b"".join(parts)
    store = await BlobStore.open(tmp_path_factory.mktemp("blobs"))
    await store.put(stream(parts), digest(content), len(content))
    assert await store.get(digest(content)) == content
    chunks = await read(store, digest(content), chunk_bytes)
    assert b"".join(chunks) == content
    assert all(len(chunk) <= chunk_bytes for chunk in chunks)
    assert store.total_bytes == len(content)
    await store.close()


async def test_a_large_blob_keeps_its_place_over_a_restart(directory: Path) -> None:
    content = os.urandom(5_000_001)
    store = await BlobStore.open(directory)
    name = await store.put_bytes(content)
    assert name == digest(content)
    await store.close()
    again = await BlobStore.open(directory)
    assert await again.has(name)
    assert await again.size(name) == again.total_bytes == len(content)
    assert [(entry.sha256, entry.size_bytes) for entry in await again.entries()] == [(name, len(content))]
    assert await again.get(name) == content
    assert files(directory) == [f"{name[:2]}/{name[2:]}"]
    await again.close()


async def test_a_blob_that_is_here_is_not_read_again(store: BlobStore) -> None:
    name = await store.put_bytes(b"once")

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the chunks were asked for")
        yield b""

    await store.put(never(), name, 4)
    assert store.total_bytes == 4


async def test_concurrent_puts_of_one_blob_count_once(store: BlobStore, directory: Path) -> None:
    content = os.urandom(3_000_000)
    name = digest(content)
    halves = [content[:1_500_000], content[1_500_000:]]
    await asyncio.gather(*[store.put(stream(halves), name, len(content)) for _ in range(5)])
    assert await store.get(name) == content
    assert store.total_bytes == len(content)
    await store.close()
    assert files(directory) == [f"{name[:2]}/{name[2:]}"]


@pytest.mark.parametrize(
    ("parts", "announced", "size", "words"),
    [
        ([b"ab", b"c"], b"abd", 3, "the bytes have the hash"),
        ([b"ab"], b"abc", 3, "2 bytes came, 3 were announced"),
        ([b"abc", b"d"], b"abcd", 3, "more bytes came than the 3 announced"),
        ([], b"", 1, "0 bytes came, 1 were announced"),
        ([b""], b"", -1, "size_bytes is -1"),
    ],
)
async def test_what_is_not_as_announced_leaves_nothing(
    directory: Path, parts: list[bytes], announced: bytes, size: int, words: str
) -> None:
    store = await BlobStore.open(directory)
    with pytest.raises(BlobMismatch, match=words):
        await store.put(stream(parts), digest(announced), size)
    assert not await store.has(digest(announced))
    assert store.total_bytes == 0
    await store.close()
    assert files(directory) == []


async def test_a_put_whose_source_fails_or_is_cancelled_leaves_nothing(directory: Path) -> None:
    store = await BlobStore.open(directory)
    half = os.urandom(2_000_000)
    name = digest(half + half)
    sent = asyncio.Event()

    async def breaks(error: Exception | None) -> AsyncIterator[bytes]:
        yield half
        sent.set()
        if error:
            raise error
        await asyncio.Event().wait()

    with pytest.raises(ConnectionError):
        await store.put(breaks(ConnectionError("gone")), name, 4_000_000)
    sent.clear()
    put = asyncio.create_task(store.put(breaks(None), name, 4_000_000))
    await sent.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    await store.put(stream([half, half]), name, 4_000_000)
    await store.close()
    assert files(directory) == [f"{name[:2]}/{name[2:]}"]


async def test_limits_are_checked_before_anything_is_read(directory: Path) -> None:
    store = await BlobStore.open(directory, SMALL)
    with pytest.raises(BlobTooLarge, match="size_bytes is 1001, one blob may have 1000"):
        await store.put_bytes(b"x" * 1_001)
    first = await store.put_bytes(b"1" * 1_000)
    await store.put_bytes(b"2" * 1_000)
    with pytest.raises(BlobQuotaExceeded, match="above the blob quota of 2500"):
        await store.put_bytes(b"3" * 501)
    await store.put_bytes(b"3" * 500)
    assert await store.delete_untouched(first, time.time() + 1)
    assert not await store.delete_untouched(first, time.time() + 1)
    await store.put_bytes(b"4" * 1_000)
    assert store.total_bytes == 2_500
    await store.close()


async def test_puts_under_way_count_towards_the_quota(directory: Path) -> None:
    store = await BlobStore.open(directory, BlobOptions(blob_bytes_max=1_000, total_bytes_max=1_500))
    contents = [bytes([number]) * 1_000 for number in range(6)]
    outcomes = await asyncio.gather(
        *[store.put(stream([content]), digest(content), 1_000) for content in contents],
        return_exceptions=True,
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, BlobQuotaExceeded) for outcome in outcomes) == 5
    assert store.total_bytes == 1_000
    await store.put_bytes(b"x" * 500)
    await store.close()


async def test_the_number_of_blobs_is_bounded(directory: Path) -> None:
    store = await BlobStore.open(directory, BlobOptions(blobs_max=2))
    await store.put_bytes(b"1")
    await store.put_bytes(b"2")
    with pytest.raises(BlobQuotaExceeded, match="2 blobs are stored, the most allowed"):
        await store.put_bytes(b"3")
    await store.close()


@pytest.mark.parametrize("at", [0, 1_500_000, 2_999_999])
async def test_a_flipped_bit_is_found_by_every_way_of_reading(directory: Path, at: int) -> None:
    content = os.urandom(3_000_000)
    store = await BlobStore.open(directory)
    name = await store.put_bytes(content)
    flip_a_bit(file_of(directory, name), at)
    with pytest.raises(BlobDamaged, match=f"blob {name} is damaged"):
        await store.get(name)
    assert not await store.has(name)
    assert store.total_bytes == 0
    await store.put_bytes(content)
    flip_a_bit(file_of(directory, name), at)
    received = []
    with pytest.raises(BlobDamaged):
        async for chunk in store.open_chunks(name, 1 << 20):
            received.append(chunk)  # noqa: PERF401 (what came before the error is of interest)
    assert len(b"".join(received)) < len(content)
    await store.put_bytes(content)
    assert await store.get(name) == content
    await store.close()
    assert len([file for file in files(directory) if file.startswith("damaged/")]) == 2


@pytest.mark.parametrize("size", [0, 1, 999_999])
async def test_a_torn_file_is_found(directory: Path, size: int) -> None:
    store = await BlobStore.open(directory)
    name = await store.put_bytes(os.urandom(1_000_000))
    os.truncate(file_of(directory, name), size)
    with pytest.raises(BlobDamaged):
        await read(store, name, 1 << 20)
    await store.close()


async def test_damaged_files_do_not_pile_up(directory: Path) -> None:
    store = await BlobStore.open(directory)
    for _ in range(20):
        name = await store.put_bytes(b"the same every time")
        flip_a_bit(file_of(directory, name), 3)
        with pytest.raises(BlobDamaged):
            await store.get(name)
    await store.close()
    assert len(files(directory)) == 16


async def test_a_blob_removed_behind_our_back_is_missing(store: BlobStore, directory: Path) -> None:
    name = await store.put_bytes(b"here")
    os.unlink(file_of(directory, name))
    with pytest.raises(BlobNotFound):
        await store.get(name)
    assert not await store.has(name)
    assert await store.put_bytes(b"here") == name
    assert await store.get(name) == b"here"


@pytest.mark.parametrize(
    "name", ["", "abc", "A" * 64, "g" * 64, "../" + "a" * 61, "a" * 65, "a" * 63 + "\n", "a" * 64 + "\n"]
)
async def test_a_name_that_is_no_hash_is_refused_everywhere(store: BlobStore, name: str) -> None:
    for attempt in (
        store.has(name),
        store.size(name),
        store.get(name),
        store.delete_untouched(name, 0),
        store.touch(name),
        store.put(stream([b""]), name, 0),
        read(store, name, 10),
    ):
        with pytest.raises(BlobNameInvalid, match="64 lower-case hexadecimal digits"):
            await attempt


async def test_an_unknown_blob_is_not_found(store: BlobStore) -> None:
    for attempt in (store.get("a" * 64), store.size("a" * 64), read(store, "a" * 64, 10)):
        with pytest.raises(BlobNotFound):
            await attempt


KILLED_PUT = """
    import asyncio, sys
    from pathlib import Path
    from coterie.node.blobs import BlobStore

    async def chunks():
        yield b"x" * 2_000_000
        print("half", flush=True)
        await asyncio.Event().wait()

    async def main():
        store = await BlobStore.open(Path(sys.argv[1]))
        await store.put_bytes(b"kept")
        await store.put(chunks(), "a" * 64, 4_000_000)

    asyncio.run(main())
"""


async def test_a_put_that_was_killed_is_cleaned_up_at_the_next_start(directory: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(KILLED_PUT), str(directory)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"half\n"
    finally:
        process.kill()
        await process.wait()
    assert len([file for file in files(directory) if file.startswith("tmp/")]) == 1
    store = await BlobStore.open(directory)
    assert store.total_bytes == 4
    assert await store.get(digest(b"kept")) == b"kept"
    assert len(files(directory)) == 1
    await store.close()


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, BlobQuotaExceeded), (errno.EIO, BlobStorageFailed)]
)
async def test_a_disk_that_refuses_is_reported_and_leaves_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    store = await BlobStore.open(directory)

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("coterie.node.blobs.os.fsync", refuse)
        with pytest.raises(error, match=os.strerror(number)):
            await store.put_bytes(b"content")
    assert not await store.has(digest(b"content"))
    await store.put_bytes(b"content")
    assert store.total_bytes == 7
    await store.close()
    assert len(files(directory)) == 1


async def test_a_blob_that_goes_while_the_others_are_listed_is_left_out(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = await store.put_bytes(b"stays")
    goes = await store.put_bytes(b"goes")
    scan = os.scandir

    def scanned(folder: Path) -> list[os.DirEntry[str]]:
        found = list(scan(folder))
        for file in found:
            if goes.endswith(file.name):
                os.unlink(file.path)
        return found

    monkeypatch.setattr(os, "scandir", scanned)
    assert [entry.sha256 for entry in await store.entries()] == [stays]
