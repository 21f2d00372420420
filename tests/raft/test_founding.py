"""A group that begins with a given state: it works, and it belongs to those directories alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coterie.raft.errors import LinkRefused, WrongDataDir
from coterie.raft.founding import Beginning, found_group
from tests.raft.inprocess import running

TIMEOUT_S = 20.0
STATE = [b"one", b"two", b"three"]
IDS = ("n1", "n2", "n3")


def found(root: Path, *names: str) -> None:
    beginning = Beginning("coterie", {name: f"{name}:1" for name in names}, 41, 7, 5_000)
    found_group({name: root / name for name in names}, beginning, lambda: iter(STATE))


async def test_the_group_goes_on_from_the_state(tmp_path: Path) -> None:
    found(tmp_path, *IDS)
    async with running(tmp_path) as cluster:
        committed = await cluster.engines["n2"].propose(b"four", TIMEOUT_S)
        assert committed.index > 41
        await cluster.same_state()
        for node in IDS:
            assert cluster.machines[node].entries == [*STATE, b"four"]
            assert cluster.engines[node].term > 7
            assert min(cluster.machines[node].times) > 5_000
        await cluster.stop()
        await cluster.start()
        await cluster.engines["n1"].propose(b"five", TIMEOUT_S)
        await cluster.same_state()
        assert cluster.machines["n3"].entries == [*STATE, b"four", b"five"]


async def test_another_disk_under_the_same_name_is_refused(tmp_path: Path) -> None:
    """An empty one, or one of a node of the former group: only directories that were made here vote."""
    found(tmp_path, *IDS)
    shutil.rmtree(tmp_path / "n3")
    async with running(tmp_path) as cluster:
        with pytest.raises(LinkRefused, match="bound to disk"):
            for node in ("n1", "n2"):
                await cluster.engines[node].propose(b"four", TIMEOUT_S)
                cluster.engines[node].check_link("n3", cluster.engines["n3"].disk_id)
        assert cluster.machines["n3"].entries == []


async def test_one_may_begin_alone(tmp_path: Path) -> None:
    found(tmp_path, "n1")
    async with running(tmp_path, 1) as cluster:
        await cluster.engines["n1"].propose(b"four", TIMEOUT_S)
        assert cluster.machines["n1"].entries == [*STATE, b"four"]
        assert [(member.node_id, member.address) for member in cluster.engines["n1"].members] == [
            ("n1", "n1:1")
        ]


def test_a_log_that_is_there_is_left_alone(tmp_path: Path) -> None:
    found(tmp_path, *IDS)
    before = (tmp_path / "n1" / "raft.journal").read_bytes()
    with pytest.raises(WrongDataDir, match="is there already"):
        found(tmp_path, *IDS)
    assert (tmp_path / "n1" / "raft.journal").read_bytes() == before
