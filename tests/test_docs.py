"""The documents stay true where a machine can tell."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from coterie.core.nouns import TaskState
from coterie.core.transitions import TERMINAL, mermaid

ROOT = Path(__file__).parents[1]


def test_the_picture_of_a_task_is_drawn_from_the_table() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    shown = text.split("<!-- transitions -->")[1].split("<!-- /transitions -->")[0].strip()
    assert shown == f"```mermaid\n{mermaid()}\n```"


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_files_and_targets_named_in_the_documents_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {target for target in re.findall(r"`make ([a-z]+)", text)} <= targets
    folders = {
        "core": "consensus/coterie/core",
        "raft": "consensus/coterie/raft",
        "node": "node/coterie/node",
    }
    folders["client"] = "node/coterie/client"
    for room, path in re.findall(r"`(core|raft|node|client)/([a-z_]+\.py)", text):
        assert (ROOT / folders[room] / path).exists(), f"{name} speaks of {room}/{path}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_what_a_document_names_as_its_proof_exists(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for name in re.findall(r"`(tests/[a-z0-9_/]+\.py)", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def event_types() -> set[str]:
    """Every type of event that the state machine writes as it stands, and those it makes of names."""
    found = {state.name.lower() for state in (*TERMINAL, TaskState.WAITING, TaskState.PAUSED)}
    found |= {"call_approved", "call_rejected", "released", "emitted", "restored"}
    for path in sorted((ROOT / "consensus/coterie/core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                place = {"change_task": 4, "Event": 0}.get(node.func.id, len(node.args))
                given = node.args[place : place + 1]
                found |= {str(a.value) for a in given if isinstance(a, ast.Constant)}
    return found


def test_every_type_of_event_is_in_the_catalogue_and_no_other() -> None:
    rows = [line.split("|")[1] for line in (ROOT / "docs/events.md").read_text().splitlines() if "|" in line]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told == event_types()
