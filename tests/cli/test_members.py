"""`coterie node list`, `add`, `remove`, `promote`, `move` and `resync`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.client import FailedPrecondition, NotFound
from coterie.node.resync import put_aside
from coterie.raft.disk import RealDisk
from coterie.raft.errors import WrongDataDir
from coterie.v1 import cluster_pb2
from tests.cli.fakes import FakeCluster, document, node_info, run, status_info

CONFIG = """
cluster:
  nodes:
    - {{id: n1, host: 127.0.0.1, port: 7001}}
    - {{id: n2, host: 127.0.0.1, port: 7002}}
security: {{allowInsecureLoopback: true}}
storage: {{dir: {data}}}
"""


def test_the_list_shows_who_votes_and_warns() -> None:
    nodes = [
        node_info("n1", leader=True, role=cluster_pb2.VOTER).raw,
        node_info("n2", "DOWN", role=cluster_pb2.VOTER).raw,
        node_info("n3", role=cluster_pb2.RUNNER).raw,
        node_info("n4", "DRAINING", role=cluster_pb2.VOTER, leaving=True).raw,
        node_info("n5").raw,
    ]
    status = status_info(nodes=nodes, voters=3, warnings=["two voters survive nothing"])
    cluster = FakeCluster(stale_status=status)
    shown = run(cluster, "node", "list").stdout
    roles = {line.split()[0]: line.split()[2] for line in shown.splitlines()[1:6]}
    assert roles == {"n1": "leader", "n2": "voter", "n3": "runner", "n4": "leaving", "n5": "-"}
    assert "warning: two voters survive nothing" in shown
    found = document(run(cluster, "node", "list", "--json"))
    assert (found["voters"], found["warnings"]) == (3, ["two voters survive nothing"])
    assert [node["role"] for node in found["nodes"]] == ["VOTER", "VOTER", "RUNNER", "VOTER", ""]


def test_what_is_asked_of_the_cluster() -> None:
    cluster = FakeCluster()
    assert "--join" in run(cluster, "node", "add", "n4", "--address", "h:1").stdout
    removed = run(cluster, "node", "remove", "n4", "--deadline", "5m", "--timeout", "9m")
    assert removed.stdout == "n4 is removed\n"
    assert run(cluster, "node", "remove", "n5", "--force").exit_code == 0
    assert "voter" in run(cluster, "node", "promote", "n3").stdout
    assert "h:2" in run(cluster, "node", "move", "n3", "--address", "h:2").stdout
    asked = [call for call in cluster.calls if call != ("closed",)]
    assert asked == [
        ("add", "n4", "h:1"),
        ("remove", "n4", 300.0, False, 540.0),
        ("remove", "n5", None, True, None),
        ("promote", "n3"),
        ("move", "n3", "h:2"),
    ]


def test_a_refused_change_has_an_exit_code_of_its_own() -> None:
    refused = FailedPrecondition("it has not caught up", reason="CHANGE_REFUSED")
    result = run(FakeCluster(failures={"promote": refused}), "node", "promote", "n3")
    assert (result.exit_code, result.stderr) == (4, "coterie: it has not caught up\n")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(CONFIG.format(data=tmp_path / "data"))
    return path


def resync(cluster: FakeCluster, config: Path, node_id: str = "n1", code: int = 0) -> dict[str, object]:
    result = run(
        cluster,
        "node",
        "resync",
        "--config",
        str(config),
        "--id",
        node_id,
        "--json",
        env={"COTERIE_ENDPOINT": ""},
    )
    assert result.exit_code == code, result.stdout
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def test_resync_puts_the_old_data_aside_between_leaving_and_joining(config: Path) -> None:
    data = config.parent / "data" / "n1"
    (data / "raft").mkdir(parents=True)
    (data / "raft" / "journal").write_bytes(b"damaged")
    cluster = FakeCluster(nodes=[node_info("n1", "DOWN"), node_info("n2")])
    aside = Path(str(resync(cluster, config)["old_data"]))
    assert (aside / "raft" / "journal").read_bytes() == b"damaged"
    assert [path.name for path in data.iterdir()] == ["joins"]
    assert cluster.target is not None and cluster.target.endpoints == "127.0.0.1:7002"
    assert [call[0] for call in cluster.calls] == ["nodes", "remove", "add", "closed"]
    assert cluster.calls[2] == ("add", "n1", "127.0.0.1:7001")


def test_resync_needs_no_secrets_of_models(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COTERIE_TEST_KEY", raising=False)
    with config.open("a") as file:
        file.write(
            "llm: {providers: {a: {baseUrl: 'http://x/v1', model: m, apiKey: {env: COTERIE_TEST_KEY}}}}"
        )
    assert resync(FakeCluster(), config)["old_data"] is None


def test_resync_of_a_wiped_or_removed_node_only_joins(config: Path) -> None:
    gone = NotFound("no node 'n1'", reason="NODE_NOT_FOUND")
    cluster = FakeCluster(nodes=[node_info("n2")], failures={"remove": gone})
    assert resync(cluster, config)["old_data"] is None
    assert resync(cluster, config)["old_data"] is None, "it may be repeated"
    assert [call[0] for call in cluster.calls] == ["nodes", "remove", "add", "closed"] * 2


def test_resync_asks_for_the_removal_also_where_a_node_that_lags_does_not_list_it(config: Path) -> None:
    cluster = FakeCluster(nodes=[node_info("n2")])
    resync(cluster, config)
    assert [call[0] for call in cluster.calls] == ["nodes", "remove", "add", "closed"]


def test_resync_touches_nothing_while_the_cluster_refuses(config: Path) -> None:
    data = config.parent / "data" / "n1"
    (data / "raft").mkdir(parents=True)
    refused = FailedPrecondition("no majority would be left", reason="CHANGE_REFUSED")
    cluster = FakeCluster(nodes=[node_info("n1")], failures={"remove": refused})
    resync(cluster, config, code=4)
    assert [path.name for path in data.iterdir()] == ["raft"]


def test_resync_of_a_node_that_runs_is_refused(config: Path) -> None:
    disk = RealDisk(config.parent / "data" / "n1" / "raft")
    disk.lock()
    try:
        cluster = FakeCluster()
        assert "stop the node first" in str(resync(cluster, config, code=4)["error"])
        assert cluster.calls == []
        with pytest.raises(WrongDataDir):
            put_aside(config.parent / "data" / "n1")
    finally:
        disk.close()


def test_a_directory_that_is_put_aside_is_held_meanwhile(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that starts just then must not find itself in a directory that is another one's by now."""
    data = config.parent / "data" / "n1"
    data.mkdir(parents=True)
    (data / "ledger.db").write_bytes(b"old")
    rename, seen = Path.rename, []

    def renamed(path: Path, target: Path) -> Path:
        seen.append((path.name, sorted(entry.name for entry in path.iterdir())))
        held = path if path == data else next(data.parent.glob("n1.aside-*"))
        with pytest.raises(WrongDataDir, match="in use"):
            RealDisk(held / "raft").lock()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    aside = put_aside(data)
    assert aside is not None and (aside / "ledger.db").exists()
    # What takes the place says at once that it joins.
    assert seen == [("n1", ["ledger.db", "raft"]), ("n1.fresh", ["joins"])]
    assert sorted(path.name for path in data.parent.iterdir()) == ["n1", aside.name]
    disk = RealDisk(aside / "raft")  # it was given back
    disk.lock()
    disk.close()


def test_resync_needs_others(config: Path) -> None:
    config.write_text(config.read_text().replace("- {id: n2", "# "))
    assert "names no other node" in str(resync(FakeCluster(), config, code=2)["error"])
