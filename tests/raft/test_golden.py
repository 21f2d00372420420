"""Journals and snapshots of earlier versions load for ever, and say what they said then."""

from __future__ import annotations

import json

import pytest

from coterie.raft.errors import WrongDataDir
from tests.raft.golden import (
    FOLDER,
    KINDS,
    facts_of_journal,
    facts_of_snapshot,
    open_journal,
    open_snapshot,
)

FILES = sorted(path.name for path in FOLDER.glob("*.bin"))


def test_the_formats_of_this_version_are_kept() -> None:
    assert {f"{name}.bin" for name in KINDS} <= set(FILES), "run python -m tests.raft.golden and commit"


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_says_what_it_said(name: str) -> None:
    path = FOLDER / name
    facts = facts_of_journal if name.startswith("journal") else facts_of_snapshot
    assert facts(path.read_bytes()) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_newer_format_is_refused_with_a_remedy(name: str) -> None:
    raw = bytearray((FOLDER / name).read_bytes())
    raw[8:12] = (99).to_bytes(4, "little")
    with pytest.raises(WrongDataDir, match=r"has format 99.*Remedy: run the version"):
        open_journal(bytes(raw)) if name.startswith("journal") else open_snapshot(bytes(raw))
