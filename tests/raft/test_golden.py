"""Journals and snapshots of earlier versions load for ever, and say what they said then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.core.canonical import state_hash
from coterie.raft import codec
from coterie.raft.errors import WrongDataDir
from coterie.raft.replica import Replica
from coterie.v1 import log_pb2
from tests.core import golden
from tests.core.golden import ADD, Place
from tests.raft.golden import (
    FOLDER,
    KINDS,
    facts_of,
    has_news,
    open_journal,
    open_snapshot,
    slices_of,
    snapshots,
)

FILES = sorted(path.name for path in FOLDER.glob("*.bin"))
STORIES = [path for path in snapshots() if "story" in path.name]
# Fields of a snapshot that none here has, and why.
UNSET: dict[Place, str] = {
    ("Meta", "epoch"): "no command sets it, a restore from a backup does: see tests/core/test_epochs.py",
    ("Meta", "kv_forgotten"): "it takes 10,000 deleted keys: see tests/core/coordination/test_models.py",
    ("Meta", "released_ms"): "it takes 500 tasks that come due at once: see tests/core/test_properties.py",
    ("Meta", "released_order"): "likewise",
}


def test_the_formats_of_this_version_are_kept() -> None:
    assert {f"{name}.bin" for name in KINDS} <= set(FILES), "run python -m tests.raft.golden and commit"


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_says_what_it_said(name: str) -> None:
    path = FOLDER / name
    assert facts_of(name, path.read_bytes()) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_newer_format_is_refused_with_a_remedy(name: str) -> None:
    raw = bytearray((FOLDER / name).read_bytes())
    raw[8:12] = (99).to_bytes(4, "little")
    with pytest.raises(WrongDataDir, match=r"has format 99.*Remedy: run the version"):
        open_journal(bytes(raw)) if name.startswith("journal") else open_snapshot(bytes(raw))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_with_a_snapshot_the_rest_of_its_log_leads_where_the_whole_log_leads(path: Path) -> None:
    """Its state is that of the log up to there, and nothing that later entries stand on is left out."""
    entries, digest = golden.read(golden.FOLDER / f"story-{path.stem.rpartition('-')[2]}.log")
    store, facts = open_snapshot(path.read_bytes()), json.loads(path.with_suffix(".json").read_text())
    index = facts["meta"][0]
    assert state_hash(golden.replayed(entries[:index])) == facts["state_hash"]
    replica = Replica(lambda index, events: None, lambda index: None)
    replica.restore(store.image(), index)
    state, _ = golden.apply_all(replica, entries[index:], after=index)
    assert state_hash(state) == digest


@pytest.mark.parametrize("path", snapshots(), ids=lambda path: path.stem)
def test_what_is_read_is_written_as_it_was(path: Path) -> None:
    """Nothing of it is left out when this version writes it."""
    state = codec.decode_state(open_snapshot(path.read_bytes()).image())
    assert state_hash(codec.decode_state(codec.encode_state(state))) == state_hash(state)


def test_every_field_of_the_state_is_set_in_some_snapshot() -> None:
    slices = (piece for path in snapshots() for piece in slices_of(path.read_bytes()))
    unset = golden.missing(slices, log_pb2.StateSlice.DESCRIPTOR)
    assert unset - set(UNSET) == set(), f"no golden snapshot has these: {ADD}"
    assert set(UNSET) - unset == set(), "some golden snapshot has these: take them out of the list"


@pytest.mark.parametrize("path", snapshots(), ids=lambda path: path.stem)
def test_nothing_in_a_snapshot_is_strange(path: Path) -> None:
    slices = slices_of(path.read_bytes())
    assert {stranger for piece in slices for stranger in golden.strangers_in(piece)} == set()


def test_what_the_story_uses_is_kept() -> None:
    assert not has_news(), "run python -m tests.raft.golden and commit what it writes"
