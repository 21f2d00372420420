"""`create_backup`: which node is asked, and how the file comes to its name."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from coterie.client import Cluster, ClusterError, Timeouts, Unavailable
from coterie.client.errors import InvalidRequest
from coterie.v1 import cluster_pb2
from tests.client.conftest import client_of
from tests.client.fake import FakeCluster, Fault

PIECES = [
    cluster_pb2.BackupPart(name="backup.json", size_bytes=2, data=b"{}"),
    cluster_pb2.BackupPart(name="manifest.sha256", size_bytes=3, data=b"abc"),
]


def ready(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.backup = PIECES


def files_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_a_node_that_cannot_begin_is_passed_over(fake: FakeCluster, tmp_path: Path) -> None:
    ready(fake)
    for node in fake.nodes:
        node.faults["CreateBackup"] = [Fault()]
    async with client_of(fake) as client:
        made = await client.create_backup(tmp_path / "b.tar")
    assert len(fake.methods("CreateBackup")) == 4
    assert made.members == 2 and files_in(tmp_path) == ["b.tar"]


@pytest.mark.parametrize(
    ("manifest", "gaps"),
    [(b'{"history_gaps": [[4, 9]]}', ((4, 9),)), (b"{}", ()), (b"[]", ()), (b"\xff", ()), (b"", ())],
)
async def test_what_the_history_lacks_is_told(
    fake: FakeCluster, tmp_path: Path, manifest: bytes, gaps: tuple[tuple[int, int], ...]
) -> None:
    told = cluster_pb2.BackupPart(name="manifest.json", size_bytes=len(manifest), data=manifest)
    for node in fake.nodes:
        node.backup = [PIECES[0], told, PIECES[1]]
    async with client_of(fake) as client:
        made = await client.create_backup(tmp_path / "b.tar")
    assert made.history_gaps == gaps


async def test_a_node_that_breaks_off_in_the_middle_is_not_replaced_by_another(
    fake: FakeCluster, tmp_path: Path
) -> None:
    for node in fake.nodes:
        node.backup = PIECES[:1]
    async with client_of(fake) as client:
        with pytest.raises(ClusterError, match=r"before manifest\.sha256"):
            await client.create_backup(tmp_path / "b.tar")
    assert len(fake.methods("CreateBackup")) == 1 and files_in(tmp_path) == []


async def test_what_every_node_refuses_is_asked_once(fake: FakeCluster, tmp_path: Path) -> None:
    for node in fake.nodes:
        node.faults["CreateBackup"] = [Fault(grpc.StatusCode.PERMISSION_DENIED, "not for you", "ROLE")]
    async with client_of(fake) as client:
        with pytest.raises(ClusterError, match="not for you"):
            await client.create_backup(tmp_path / "b.tar")
    assert len(fake.methods("CreateBackup")) == 1 and files_in(tmp_path) == []


async def test_where_nobody_answers_each_node_is_named(tmp_path: Path) -> None:
    hasty = Timeouts(call=0.5)
    async with Cluster("127.0.0.1:1", auto_discovery=False, timeouts=hasty) as client:
        with pytest.raises(Unavailable) as caught:
            await client.create_backup(tmp_path / "b.tar")
    assert "127.0.0.1:1" in caught.value.endpoints and files_in(tmp_path) == []


def no_links(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


async def test_a_disk_without_hard_links_takes_backups_too(
    fake: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(fake)
    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "b.tar"
    async with client_of(fake) as client:
        made = await client.create_backup(path)
        assert path.stat().st_size == made.size_bytes and files_in(tmp_path) == ["b.tar"]


async def test_there_too_nothing_is_overwritten(
    fake: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(fake)
    path = tmp_path / "b.tar"

    def somebody_was_faster(*_: Any, **__: Any) -> None:
        path.write_text("theirs")
        no_links()

    monkeypatch.setattr(os, "link", somebody_was_faster)
    async with client_of(fake) as client:
        with pytest.raises(InvalidRequest, match="is there already"):
            await client.create_backup(path)
    assert path.read_text() == "theirs" and files_in(tmp_path) == ["b.tar"]
