"""`coterie backup verify|restore`: exit codes, one document, and a remedy in every refusal."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from coterie.client.backup import BackupFile
from coterie.node.cli.main import cli
from tests.cli.fakes import FakeCluster
from tests.cli.fakes import run as run_with
from tests.core.builders import submit_command
from tests.node.test_backup import Made, made

_ = made  # a fixture


async def run(*arguments: object) -> tuple[int, Any]:
    """In a thread, because commands run loops of their own."""
    given = [str(one) for one in ("backup", *arguments, "--json")]
    done = await asyncio.to_thread(lambda: CliRunner().invoke(cli, given, standalone_mode=False))
    return int(done.return_value or 0), json.loads(done.stdout)


def cluster_file(folder: Path, name: str) -> Path:
    nodes = [{"id": f"n{n}", "host": "127.0.0.1", "port": 7_000 + n} for n in (1, 2, 3)]
    document = {"cluster": {"name": name, "nodes": nodes}, "security": {"allowInsecureLoopback": True}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


async def test_a_whole_file_is_told_about_and_a_damaged_one_by_its_place(made: Made) -> None:
    path = await made.file()
    code, said = await run("verify", path)
    assert (code, said["ok"], said["cluster_name"], said["tasks"], said["blobs"]) == (0, True, "prod", 2, 2)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    code, said = await run("verify", path)
    assert (code, said["error"]["reason"]) == (1, "BAD_BACKUP")
    assert f"{path} is damaged at byte " in said["error"]["message"]
    data = made.folder / "data"
    code, said = await run("restore", path, "--data", data, "--config", cluster_file(made.folder, "prod-2"))
    assert (code, said["error"]["reason"], data.exists()) == (1, "BAD_BACKUP", False)


@pytest.mark.parametrize("only", ["", "n2"])
async def test_all_founders_or_one_get_their_directories(made: Made, only: str) -> None:
    path, data = await made.file(), made.folder / "data"
    config = cluster_file(made.folder, "prod-2")
    more = ["--only", only] if only else []
    code, said = await run("restore", path, "--data", data, "--config", config, *more)
    assert code == 0, said
    assert sorted(said["directories"]) == ([only] if only else ["n1", "n2", "n3"])
    assert sorted(one.name for one in data.iterdir()) == sorted(said["directories"])
    code, said = await run("restore", path, "--data", data, "--config", config)
    assert (code, said["error"]["reason"]) == (4, "RESTORE_REFUSED")
    assert "not an empty directory" in said["error"]["message"]


async def test_the_old_name_and_an_unknown_node_are_refused(made: Made) -> None:
    path, data = await made.file(), made.folder / "data"
    code, said = await run("restore", path, "--data", data, "--config", cluster_file(made.folder, "prod"))
    assert (code, said["error"]["reason"]) == (4, "RESTORE_REFUSED")
    assert "Give the new cluster another one" in said["error"]["message"]
    config = cluster_file(made.folder, "prod-2")
    code, said = await run("restore", path, "--data", data, "--config", config, "--only", "n9")
    assert code == 2
    assert "there are n1, n2, n3" in said["error"]["message"]


async def test_a_gap_in_the_history_is_told_by_verify(made: Made) -> None:
    made.node.do(submit_command("missed"), seen=False)
    made.node.restore()
    path = await made.file()
    code, said = await run("verify", path)
    assert code == 0 and len(said["history_gaps"]) == 1
    shown = await asyncio.to_thread(CliRunner().invoke, cli, ["backup", "verify", str(path)])
    assert "warning: the history lacks what happened from index" in shown.stdout


def test_a_gap_in_the_history_is_told_by_create(tmp_path: Path) -> None:
    class Lacking(FakeCluster):
        async def create_backup(self, path: Path, *, history: bool) -> BackupFile:
            return BackupFile(path, 10, 3, "00", ((4, 9),))

    result = run_with(Lacking(), "backup", "create", "--out", str(tmp_path / "b.tar"))
    assert result.exit_code == 0 and "lacks what happened from index 5 to 9" in result.stderr


async def test_the_secrets_of_the_nodes_are_not_needed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COTERIE_TEST_KEY", raising=False)
    path, data = await made.file(), made.folder / "data"
    first = cluster_file(made.folder, "prod-2")
    more = made.folder / "models.yaml"
    key = {"env": "COTERIE_TEST_KEY"}
    provider = {"baseUrl": "http://127.0.0.1:1/v1", "model": "m", "apiKey": key}
    tools = {"command": ["no-such-program-here"], "allow": ["*"], "env": {"KEY": key}}
    document = {
        "llm": {"providers": {"main": provider}},
        "mcp": {"servers": {"tools": tools}},
        "skills": {"settings": {"mine": {"key": key}}},
    }
    more.write_text(yaml.safe_dump(document))
    code, said = await run("restore", path, "--data", data, "--config", first, "--config", more)
    assert code == 0, said


async def test_nothing_is_written_over(made: Made) -> None:
    path = await made.file()
    code, said = await run("create", "--out", path, "--endpoint", "127.0.0.1:1")
    assert (code, "is there already" in said["error"]["message"]) == (2, True)
