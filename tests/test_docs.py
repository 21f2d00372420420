"""The documents stay true where a machine can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coterie.core.transitions import mermaid

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
