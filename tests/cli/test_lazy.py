"""A quick start: what needs no cluster imports no gRPC, and a node is handed a clean process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "grpc",
    "google.protobuf",
    "coterie.client",
    "coterie.v1",
    "pydantic",
    "yaml",
    "rich",
    "cryptography",
)
PROBE = """
import sys, types, threading, json
handed = {}
def run(paths, node_id, insecure=False, join=False):
    handed.update(paths=[str(path) for path in paths], node_id=node_id, insecure=insecure, join=join)
    handed.update(loaded=[name for name in %r if name in sys.modules], threads=threading.active_count())
    return %d
node = types.ModuleType("coterie.node.main")
node.run = run
sys.modules["coterie.node.main"] = node
from coterie.node.cli.main import cli
code = cli.main(sys.argv[1:], standalone_mode=False)
loaded = [name for name in %r if name in sys.modules]
print(json.dumps({"code": code, "loaded": loaded, "handed": handed}), file=sys.stderr)
"""


def probe(*arguments: str, node_exit: int = 0) -> dict[str, object]:
    script = PROBE % (HEAVY, node_exit, HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stderr.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["version"],
        ["version", "--json"],
        ["--help"],
        ["submit", "--help"],
        ["task", "--help"],
        ["task", "watch", "--help"],
        ["dev", "--help"],
        ["status", "--help"],
        ["tls", "init", "--help"],
        ["config", "validate", "--help"],
        ["no-such-command"],
    ],
    ids=str,
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    assert probe(*arguments)["loaded"] == []


def test_a_node_gets_a_process_without_grpc_and_without_threads() -> None:
    found = probe("node", "start", "--config", "a.yaml", "--config", "b", "--id", "node-1", "--insecure")
    assert found["code"] == 0
    assert found["handed"] == {
        "paths": ["a.yaml", "b"],
        "node_id": "node-1",
        "insecure": True,
        "join": False,
        "loaded": [],
        "threads": 1,
    }


@pytest.mark.parametrize(("node_exit", "code"), [(0, 0), (2, 2), (1, 1), (4, 4), (9, 70)])
def test_the_exit_code_of_a_node_is_translated(node_exit: int, code: int) -> None:
    assert probe("node", "start", "--config", "a.yaml", node_exit=node_exit)["code"] == code


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_a_node_that_cannot_start_says_so_once(tmp_path: Path, arguments: list[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "coterie.node.cli",
        "node",
        "start",
        "--config",
        str(tmp_path / "no.yaml"),
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == (2 if arguments else 1)
    assert "no.yaml" in done.stderr and "Traceback" not in done.stderr
    assert (json.loads(done.stdout)["ok"] is False) if arguments else done.stdout == ""
