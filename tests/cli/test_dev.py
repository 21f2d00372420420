"""`coterie dev` around a cluster that is only pretended: what is announced, watched, and always stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import Result

from coterie.node import localcluster
from coterie.node.cli import dev
from coterie.node.cli.connect import Target, TlsFiles
from coterie.node.config import TlsPaths, dev_config, dump_config
from coterie.node.localcluster import ClusterFailed
from tests.cli.fakes import FakeCluster, document, run

IDS = ["node-1", "node-2", "node-3"]


class FakeLocal:
    """Looks like LocalCluster. `script` is what happens at each look at the failed nodes."""

    made: ClassVar[list[FakeLocal]] = []
    script: ClassVar[list[list[str] | BaseException]] = []
    ready: ClassVar[BaseException | None] = None

    def __init__(self, nodes: int, base_dir: Path, tls: bool, capacity: int, **further: Any) -> None:
        self.given = (nodes, tls, capacity, further)
        self.base_dir = base_dir.resolve()
        self.node_ids = IDS
        self.addresses = {node_id: f"127.0.0.1:{place}" for place, node_id in enumerate(IDS, 7101)}
        self.endpoints = ",".join(self.addresses.values())
        self.config_path = self.base_dir / "cluster.yaml"
        ca = self.base_dir / "tls" / "ca.crt"
        self.client_tls = TlsPaths(ca, ca.with_name("c.crt"), ca.with_name("c.key")) if tls else None
        self.base_dir.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(dump_config(dev_config(nodes, self.base_dir)), encoding="utf-8")
        self.files: tuple[Path, ...] = ()
        self.started: list[str] = []
        self.stopped = False
        self.env_seen = ""
        FakeLocal.made.append(self)

    def start(self) -> None:
        self.started += IDS

    def start_node(self, node_id: str) -> int:
        self.started.append(node_id)
        return 1

    async def wait_ready(self, timeout: float) -> str:
        if self.ready is not None:
            raise self.ready
        return "node-1"

    def failed_nodes(self) -> list[str]:
        env = self.base_dir / "env"
        self.env_seen = env.read_text(encoding="utf-8") if env.exists() else ""
        happens = self.script.pop(0)
        if isinstance(happens, BaseException):
            raise happens
        return happens

    def alive(self, node_id: str) -> bool:
        return True

    def pid(self, node_id: str) -> int:
        return 4711

    def log_path(self, node_id: str) -> Path:
        return self.base_dir / f"{node_id}.log"

    def log_tails(self) -> str:
        return "--- node-1\nits last words"

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture(autouse=True)
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(localcluster, "LocalCluster", FakeLocal)
    monkeypatch.setattr(dev, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(FakeLocal, "made", [])
    monkeypatch.setattr(FakeLocal, "ready", None)
    monkeypatch.chdir(tmp_path)


def run_dev(
    monkeypatch: pytest.MonkeyPatch, script: list[list[str] | BaseException], *arguments: str
) -> tuple[Result, FakeLocal, FakeCluster]:
    monkeypatch.setattr(FakeLocal, "script", script)
    client = FakeCluster()
    result = run(client, "dev", *arguments)
    (made,) = FakeLocal.made
    return result, made, client


def test_it_says_where_the_cluster_is_and_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    result, made, client = run_dev(monkeypatch, [[], KeyboardInterrupt()], "--capacity", "4")
    assert result.exit_code == 130
    assert made.given == (3, True, 4, {"options": {}, "ports": []})
    assert made.stopped
    for word in (made.endpoints, "ca.crt", "submit echo", str(made.base_dir / "env")):
        assert word in result.stdout
    files = TlsFiles(*(str(made.base_dir / "tls" / name) for name in ("ca.crt", "c.crt", "c.key")))
    assert client.target == Target(made.endpoints, files, False)
    assert "leader node-1" in result.stdout  # no terminal: a line instead of a table


def test_the_env_file_is_there_while_it_runs_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    _, made, _ = run_dev(monkeypatch, [KeyboardInterrupt()])
    assert f"export COTERIE_ENDPOINT={made.endpoints}" in made.env_seen
    assert f"export COTERIE_TLS_DIR={made.base_dir / 'tls'}" in made.env_seen
    assert not (made.base_dir / "env").exists()


def test_json_is_one_document_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    result, made, client = run_dev(monkeypatch, [[], KeyboardInterrupt()], "--json", "--insecure")
    found = document(result)
    assert found["endpoint"] == made.endpoints and found["tls"] is None
    assert [node["pid"] for node in found["nodes"]] == [4711] * 3
    assert client.target is not None and client.target.insecure
    assert "COTERIE_TLS_DIR" not in made.env_seen


def test_when_every_node_is_gone_it_ends_with_their_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    result, made, _ = run_dev(monkeypatch, [["node-2"], IDS], "--json")
    assert result.exit_code == 3
    assert "its last words" in result.stderr
    assert document(result)["ok"] is True  # it was up; the one document had been written
    assert made.stopped


def test_a_cluster_that_does_not_come_up_is_stopped_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLocal, "ready", ClusterFailed("not ready after 30 s: node-2 does not answer"))
    result, made, _ = run_dev(monkeypatch, [], "--json")
    assert result.exit_code == 3
    assert "node-2 does not answer" in document(result)["error"]["message"]
    assert made.stopped


def test_restart_brings_a_dead_node_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "RESTART_AFTER_S", -1.0)
    _, made, _ = run_dev(monkeypatch, [["node-2"], [], KeyboardInterrupt()], "--restart")
    assert made.started == [*IDS, "node-2"]


def test_own_skills_and_ports_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("coterie.node.cli.devdir.is_free", lambda port: True)
    script: list[list[str] | BaseException] = [KeyboardInterrupt()]
    _, made, _ = run_dev(monkeypatch, script, "--skills", "mine", "--port", "7201")
    skills = {"skills": {"dirs": [str(tmp_path / "mine")]}}
    assert made.given[3] == {"options": skills, "ports": [7201, 7202, 7203]}


def test_sigterm_stops_the_nodes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminates(list[str]):
        def __iter__(self) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__iter__()

    before = signal.getsignal(signal.SIGTERM)
    result, made, _ = run_dev(monkeypatch, [Terminates()])
    assert result.exit_code == 130 and made.stopped
    assert signal.getsignal(signal.SIGTERM) is before


def test_with_json_the_live_lines_go_to_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _, _ = run_dev(monkeypatch, [[], [], KeyboardInterrupt()], "--json")
    assert json.loads(result.stdout)["ok"] is True
    assert "leader node-1" in result.stderr


def test_a_model_for_agents_is_an_option_and_its_key_stays_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    _, made, _ = run_dev(monkeypatch, [KeyboardInterrupt()], "--model", "small")
    options = made.given[3]["options"]
    main = {"baseUrl": "http://127.0.0.1:9/v1", "model": "small", "apiKey": {"env": "OPENAI_API_KEY"}}
    assert options["llm"] == {"default": "main", "providers": {"main": main}}
    assert "sk-secret" not in repr(options)


def test_auth_is_for_clusters_with_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    _, made, _ = run_dev(monkeypatch, [KeyboardInterrupt()], "--auth")
    assert made.given[-1]["options"] == {"security": {"auth": "required"}}
    refused = run(FakeCluster(), "dev", "--auth", "--insecure")
    assert refused.exit_code == 2 and "leave --insecure out" in refused.stderr


def test_files_say_what_has_no_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("mcp: {servers: {notes: {command: [notes], allow: ['*']}}}\n")
    done, made, _ = run_dev(monkeypatch, [KeyboardInterrupt()], "--config", "own.yaml", "--skills", ".")
    assert f"config    {made.config_path} own.yaml\n" in done.stdout
    assert made.files == (Path("own.yaml"),) and made.started == IDS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cluster: {nodes: []}", "cluster.nodes: is not for `coterie dev`: --nodes and --port"),
        ("security: {tls: {dir: x}}", "security.tls: is not for `coterie dev`"),
        ("storage:\n  dir: x", "(own.yaml:2)"),
        ("skills: {dirs: [x]}", "skills.dirs: --skills says it too; give one of them"),
        ("llm: {}", "llm: --model-url (or $OPENAI_BASE_URL) says it too"),
        ("mcp: {servrs: {}}", "mcp.servrs: unknown key; did you mean servers?"),
        ("mcp: {servers: {notes: {command: [notes]}}}", "mcp.servers.notes.allow: is missing"),
    ],
)
def test_what_a_file_cannot_say_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    flags = ("--skills", ".", "--model-url", "http://127.0.0.1:9/v1")
    result = run(FakeCluster(), "dev", "--config", "own.yaml", *flags)
    assert result.exit_code == 2 and said in result.stderr
    assert [made.started for made in FakeLocal.made] in ([], [[]])
