"""`tls init`, `config validate`, `version`, and the directory of `dev`, for real in temporary directories."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import yaml

from coterie.node.cli.devdir import choose_ports, forget, is_free, only_one, remove_env, write_env
from coterie.node.cli.failures import CommandFailed
from coterie.node.config import dev_config, dump_config, free_ports
from coterie.node.tls import load_tls, node_paths, user_paths
from coterie.node.version import VERSION
from tests.cli.fakes import FakeCluster, document, run

SEED = Path(__file__).parents[1] / "node" / "fixtures" / "seed"


def cluster_file(directory: Path, nodes: int = 3, ports: list[int] | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "cluster.yaml"
    path.write_text(dump_config(dev_config(nodes, directory, ports or ())), encoding="utf-8")
    return path


def test_version() -> None:
    assert VERSION in run(FakeCluster(), "version").stdout
    assert document(run(FakeCluster(), "version", "--json"))["version"] == VERSION


def test_tls_init_for_named_nodes_makes_files_that_fit(tmp_path: Path) -> None:
    result = run(
        FakeCluster(),
        "tls",
        "init",
        "--nodes",
        "a,b",
        "--hosts",
        "10.0.0.1,h.example",
        "--out",
        str(tmp_path),
    )
    assert result.exit_code == 0, result.stderr
    assert "user.admin.crt" in result.stdout
    for node_id in ("a", "b"):
        load_tls(node_paths(tmp_path, node_id), node_id)
    load_tls(user_paths(tmp_path, "admin"))


def test_tls_init_from_a_cluster_file_uses_its_nodes_and_its_directory(tmp_path: Path) -> None:
    path = cluster_file(tmp_path)
    found = document(run(FakeCluster(), "tls", "init", "--config", str(path), "--user", "eve", "--json"))
    assert list(found["nodes"]) == ["node-1", "node-2", "node-3"]
    assert found["directory"] == str(tmp_path / "tls") and found["authority_was_there"] is False
    load_tls(node_paths(tmp_path / "tls", "node-3"), "node-3")
    again = document(run(FakeCluster(), "tls", "init", "--config", str(path), "--json"))
    assert again["authority_was_there"] is True
    load_tls(user_paths(tmp_path / "tls", "eve"))  # made by the same authority


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--out", "x"], "--nodes"),
        (["--nodes", "a"], "--out"),
        (["--nodes", "a,a", "--out", "x"], "twice"),
        (["--nodes", "bad_id!", "--out", "x"], "bad_id!"),
        (["--nodes", "a", "--out", "x", "--user", "not ok"], "not ok"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--nodes", "a", "--out", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_tls_init_refuses_with_one_line(
    arguments: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(FakeCluster(), "tls", "init", *arguments)
    assert result.exit_code == 2
    assert word in result.stderr and len(result.stderr.splitlines()) == 1
    assert document(run(FakeCluster(), "tls", "init", *arguments, "--json"))["ok"] is False


def test_a_sound_configuration_is_exit_code_0(tmp_path: Path) -> None:
    result = run(FakeCluster(), "config", "validate", str(cluster_file(tmp_path)))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "node-3" in result.stdout


def test_warnings_and_notes_are_shown_and_change_nothing() -> None:
    result = run(FakeCluster(), "config", "validate", str(SEED))
    assert result.exit_code == 0
    assert "warning: " in result.stdout and "failoverTime" in result.stdout
    found = document(run(FakeCluster(), "config", "validate", str(SEED), "--json"))
    assert found["warnings"] and found["nodes"] == ["node-01", "node-02", "node-03"]


def test_every_error_is_named_at_once(tmp_path: Path) -> None:
    path = cluster_file(tmp_path)
    broken = yaml.safe_load(path.read_text(encoding="utf-8"))
    broken["cluster"]["nodes"][1]["id"] = "node-1"
    broken["cluster"]["consensus"] = {"electionTimeout": "100ms", "heartbeatInterval": "90ms"}
    broken["storrage"] = {}
    path.write_text(yaml.safe_dump(broken), encoding="utf-8")
    result = run(FakeCluster(), "config", "validate", str(path))
    assert result.exit_code == 2 and result.stdout == ""
    for word in ("node-1", "heartbeatInterval", "storrage", "did you mean storage?"):
        assert word in result.stderr
    found = document(run(FakeCluster(), "config", "validate", str(path), "--json"))["error"]
    assert found["reason"] == "BAD_CONFIG" and len(found["violations"]) >= 3


@pytest.mark.parametrize("text", ["{", "- 1\n", "\x00", "a: &x [*x]"])
def test_a_file_that_is_no_configuration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    result = run(FakeCluster(), "config", "validate", str(path))
    assert result.exit_code == 2
    assert "c.yaml" in result.stderr and "Traceback" not in result.stderr


def test_only_one_dev_cluster_holds_a_directory(tmp_path: Path) -> None:
    with only_one(tmp_path / "d"):
        with pytest.raises(CommandFailed, match="another `coterie dev` runs there"), only_one(tmp_path / "d"):
            pass
        result = run(FakeCluster(), "dev", "--dir", str(tmp_path / "d"), "--json")
        assert result.exit_code == 2 and "--dir" in document(result)["error"]["message"]
    with only_one(tmp_path / "d"):
        pass


def test_the_ports_of_last_time_are_used_again_while_they_are_free(tmp_path: Path) -> None:
    ports = free_ports(3)
    cluster_file(tmp_path, 3, ports)
    assert choose_ports(tmp_path, 3, None) == ports
    with socket.create_server(("127.0.0.1", ports[1])):
        assert choose_ports(tmp_path, 3, None) == []
        assert not is_free(ports[1])


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(CommandFailed, match=f"{port} is in use"):
            choose_ports(tmp_path, 1, port)
    with pytest.raises(CommandFailed, match="65534"):
        choose_ports(tmp_path, 3, 65_534)


def test_a_directory_of_another_size_is_not_taken_over(tmp_path: Path) -> None:
    cluster_file(tmp_path, 3)
    (tmp_path / "data").mkdir()
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(CommandFailed, match="give --nodes 3, --fresh"):
        choose_ports(tmp_path, 5, None)
    forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert choose_ports(tmp_path, 5, None) == []


def test_fresh_takes_nothing_where_no_dev_cluster_was(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(CommandFailed, match=r"holds data, and no cluster\.yaml"):
        forget(tmp_path)
    assert (tmp_path / "data" / "mine.txt").read_text(encoding="utf-8") == "keep"
    (tmp_path / "data").rename(tmp_path / "other")
    forget(tmp_path)


def test_a_damaged_cluster_file_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("cluster: 7", encoding="utf-8")
    with pytest.raises(CommandFailed, match="--fresh"):
        choose_ports(tmp_path, 3, None)


def test_whoever_reads_the_env_file_reads_all_of_it(tmp_path: Path) -> None:
    with write_env(tmp_path, "127.0.0.1:1", None).open(encoding="utf-8") as before:
        write_env(tmp_path, "127.0.0.1:2", None)
        assert before.read() == "export COTERIE_ENDPOINT=127.0.0.1:1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["env"]


def test_the_env_file_goes_with_the_cluster(tmp_path: Path) -> None:
    assert write_env(tmp_path, "127.0.0.1:1", None).read_text(encoding="utf-8") == (
        "export COTERIE_ENDPOINT=127.0.0.1:1\n"
    )
    remove_env(tmp_path)
    remove_env(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["--nodes", "0"], ["--nodes", "10"], ["--port", "0"], ["--capacity", "0"], ["--skills", "nowhere"]],
)
def test_dev_refuses_what_cannot_be(arguments: list[str]) -> None:
    result = run(FakeCluster(), "dev", *arguments, "--json")
    assert result.exit_code == 2 and arguments[0] in document(result)["error"]["message"]
