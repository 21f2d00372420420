from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coterie.node.localcluster import ClusterFailed, LocalCluster, free_addresses
from coterie.node.localcluster.config import merge
from coterie.node.localcluster.reaper import groups_left
from coterie.node.localcluster.wait import disagreement
from coterie.v1 import cluster_pb2

# Starts a process of its own in the same group, as a node might, and tells its id.
_STAND_IN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
_OWNER = """
import os, sys, time
from tests.demo.test_localcluster import StandIns
cluster = StandIns(nodes=2, base_dir=sys.argv[1], tls=False)
cluster.start()
print(*(cluster.pid(node_id) for node_id in cluster.node_ids), flush=True)
time.sleep(600)
"""


class StandIns(LocalCluster):
    """The same with processes that only sleep, to test what is done to processes."""

    def node_command(self, node_id: str) -> list[str]:
        return [sys.executable, "-c", _STAND_IN]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s in vain"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """No such process, or only its zombie is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def child_of(cluster: LocalCluster, node_id: str) -> int:
    """The process a stand-in has started."""
    until(lambda: cluster.log_tail(node_id).strip().isdigit())
    return int(cluster.log_tail(node_id))


@pytest.fixture
def stand_ins(tmp_path: Path) -> Iterator[StandIns]:
    with StandIns(nodes=2, base_dir=tmp_path / "base", tls=False) as cluster:
        yield cluster


def test_a_killed_node_is_dead_and_can_be_started_again(stand_ins: StandIns) -> None:
    first = stand_ins.pid("node-1")
    stand_ins.kill_node("node-1")
    assert gone(first)
    assert not stand_ins.alive("node-1")
    assert stand_ins.failed_nodes() == []
    assert stand_ins.start_node("node-1") != first
    assert stand_ins.alive("node-1")


def test_a_kill_hits_the_node_only_and_the_next_start_sweeps_its_group(stand_ins: StandIns) -> None:
    child = child_of(stand_ins, "node-1")
    stand_ins.kill_node("node-1")
    assert not gone(child)
    stand_ins.start_node("node-1")
    until(lambda: gone(child))


def test_a_node_that_ended_by_itself_is_told_from_one_we_killed(stand_ins: StandIns) -> None:
    stand_ins.kill_node("node-2")
    os.kill(stand_ins.pid("node-1"), signal.SIGKILL)
    until(lambda: not stand_ins.alive("node-1"))
    assert stand_ins.failed_nodes() == ["node-1"]
    with pytest.raises(ClusterFailed, match="node-1 does not run"):
        stand_ins.kill_node("node-1")


def test_pause_and_resume(stand_ins: StandIns) -> None:
    pid = stand_ins.pid("node-1")

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    stand_ins.pause_node("node-1")
    until(lambda: state() == "T")
    stand_ins.resume_node("node-1")
    until(lambda: state() != "T")


def test_stop_leaves_no_process_and_no_temporary_folder() -> None:
    cluster = StandIns(nodes=2, tls=False)
    cluster.start()
    children = [child_of(cluster, node_id) for node_id in cluster.node_ids]
    pids = [cluster.pid(node_id) for node_id in cluster.node_ids]
    cluster.pause_node("node-2")
    cluster.stop()
    until(lambda: all(gone(pid) for pid in pids + children))
    assert not cluster.base_dir.exists()
    cluster.stop()


def test_an_owner_killed_by_kill_9_leaves_no_process(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
        text=True,
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        pids = [int(word) for word in owner.stdout.readline().split()]
        owner.kill()
    assert len(pids) == 2
    until(lambda: all(gone(pid) for pid in pids))


async def test_a_node_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    class Failing(LocalCluster):
        def node_command(self, node_id: str) -> list[str]:
            return [sys.executable, "-c", f"raise SystemExit('{node_id} cannot start')"]

    with Failing(nodes=1, base_dir=tmp_path, tls=False) as cluster:
        until(lambda: not cluster.alive("node-1"))
        with pytest.raises(ClusterFailed, match="node-1 cannot start"):
            await cluster.wait_ready(10)


async def test_nodes_that_do_not_answer_are_named_when_time_is_up(stand_ins: StandIns) -> None:
    with pytest.raises(ClusterFailed, match=r"after \d+\.\d s: node-1 does not answer"):
        await stand_ins.wait_ready(0.2)


def test_nodes_are_where_their_file_says_whatever_the_shell_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STORAGE_DIR", "LISTEN_GRPC", "LISTEN_HTTP", "ADVERTISE", "TLS_DIR", "LOG_LEVEL"):
        monkeypatch.setenv(f"COTERIE_{name}", "elsewhere")
    cluster = StandIns(nodes=1, base_dir=tmp_path, tls=False, env={"COTERIE_TLS_DIR": "wanted"})
    given = {name: value for name, value in cluster.node_env("node-1").items() if name.startswith("COTERIE_")}
    assert given == {"COTERIE_LOG_LEVEL": "elsewhere", "COTERIE_TLS_DIR": "wanted"}


@pytest.mark.parametrize("nodes", [0, 10])
def test_a_wrong_number_of_nodes_is_refused(nodes: int) -> None:
    with pytest.raises(ValueError, match=f"nodes: {nodes}"):
        LocalCluster(nodes=nodes)


def test_an_unknown_node_is_refused(stand_ins: StandIns) -> None:
    with pytest.raises(ValueError, match="'node-9' is none of node-1, node-2"):
        stand_ins.kill_node("node-9")


def test_free_addresses_can_be_listened_on() -> None:
    addresses = free_addresses(3)
    assert len(set(addresses)) == 3
    for address in addresses:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", int(address.rpartition(":")[2])))


def test_options_are_merged_key_by_key() -> None:
    base = {"a": {"x": 1, "y": [1]}, "b": 2}
    assert merge(base, {"a": {"y": [2]}, "c": 3}) == {"a": {"x": 1, "y": [2]}, "b": 2, "c": 3}
    assert base == {"a": {"x": 1, "y": [1]}, "b": 2}


def test_the_reaper_keeps_the_groups_that_were_not_dropped() -> None:
    assert groups_left(["+12\n", "+13\n", "-12\n", "nonsense\n", "+x\n", "-99\n"]) == {13}


def status(leader: str, active: list[str], quorum: bool = True) -> cluster_pb2.ClusterStatus:
    nodes = [cluster_pb2.Node(node_id=node_id, state=cluster_pb2.ACTIVE) for node_id in active]
    return cluster_pb2.ClusterStatus(leader=leader, has_quorum=quorum, nodes=nodes)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (status("a", ["a", "b"]), status("a", ["a", "b"]), ""),
        ("UNAVAILABLE: no", status("a", ["a", "b"]), "a does not answer"),
        (status("", ["a", "b"]), status("a", ["a", "b"]), "a knows no leader"),
        (status("a", ["a", "b"], quorum=False), status("a", ["a", "b"]), "a knows no leader"),
        (status("a", ["a", "b"]), status("a", ["a"]), "b does not count b as active"),
        (status("a", ["a", "b"]), status("b", ["a", "b"]), "different leaders"),
        (status("c", ["a", "b"]), status("c", ["a", "b"]), "is not running"),
    ],
)
def test_a_cluster_is_ready_when_all_agree(
    first: cluster_pb2.ClusterStatus | str, second: cluster_pb2.ClusterStatus | str, why: str
) -> None:
    found = disagreement({"a": first, "b": second})
    assert why in found
    assert bool(found) == bool(why)


def test_nodes_keep_their_byte_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("SOMETHING_ELSE", "2")
    env = LocalCluster(1, tmp_path / "a", tls=False).node_env("node-1")
    assert "PYTHONDONTWRITEBYTECODE" not in env
    assert env["SOMETHING_ELSE"] == "2"
    asked = LocalCluster(1, tmp_path / "b", tls=False, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert asked.node_env("node-1")["PYTHONDONTWRITEBYTECODE"] == "1"
