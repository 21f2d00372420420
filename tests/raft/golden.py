"""Files as this version writes them, kept for ever: `python -m tests.raft.golden` adds those of a new format,
and the log and a snapshot of the story (see tests.core.story) when that uses something new.

A file that is there is never written again: what was once on somebody's disk does not change."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from coterie.core.canonical import state_hash
from coterie.raft import codec, snapshot
from coterie.raft import journal_format as form
from coterie.raft.entry import NO_OP_ENTRY, seal
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.journal import Base, Journal
from coterie.raft.journal_format import Identity
from coterie.v1 import log_pb2
from tests.core import golden as core
from tests.core.builders import RandomLog
from tests.core.story import told
from tests.fuzz.targets import CLUSTER, snapshot_bytes, snapshot_of
from tests.sim.raft.disk import SimDisk

FOLDER = Path(__file__).parent / "golden"
ME = Identity(CLUSTER, "n1")


def write_journal() -> bytes:
    """Entries of the product, a no-op, votes, a conflict, and a log that was cut at its front."""
    disk, log = SimDisk(random.Random(1)), RandomLog(7)
    journal = Journal(disk, ME, random.Random(2))
    for index in range(2, 40):
        body = codec.encode_batch(log.take(1 + index % 3))
        command = (
            NO_OP_ENTRY if index % 10 == 0 else seal(1_700_000_000_000 + index, bytes([index] * 16), body)
        )
        journal.add(command, index, 1 + index // 10)
        journal.setCurrentTerm(1 + index // 10, "n2" if index % 2 else None)
        if index % 4 == 0:
            journal.write(journal.take_block())
    journal.write(journal.take_block())
    journal.rewrite(Base(8, 1, 1_700_000_000_008))()
    journal.deleteEntriesFrom(len(journal) - 2)
    journal.write(journal.take_block())
    return disk.read(JOURNAL)


def open_journal(raw: bytes) -> Journal:
    disk = SimDisk(random.Random(1))
    file = disk.create(JOURNAL)
    file.append(raw)
    file.sync()
    disk.sync_dir()
    return Journal(disk, ME, random.Random(3))


def facts_of_journal(raw: bytes) -> dict[str, Any]:
    """What must be found in it, by every later version."""
    journal = open_journal(raw)
    entries = [(command.hex(), index, term) for command, index, term in journal[1:]]
    return {
        "disk_id": journal.disk_id,
        "base": [journal.base.index, journal.base.term, journal.base.at_ms],
        "term": journal.getCurrentTerm(),
        "voted_for": journal.getVotedForNodeId(),
        "entries": len(entries),
        "sha256": hashlib.sha256(json.dumps(entries).encode()).hexdigest(),
    }


def open_snapshot(raw: bytes) -> snapshot.SnapshotStore:
    disk = SimDisk(random.Random(1))
    file = disk.create(snapshot.NAME)
    file.append(raw)
    file.sync()
    disk.sync_dir()
    return snapshot.SnapshotStore(disk, CLUSTER)


def facts_of_snapshot(raw: bytes) -> dict[str, Any]:
    store = open_snapshot(raw)
    assert store.current is not None
    chunks = list(store.image())
    state = codec.decode_state(chunks)
    return {
        "meta": [store.current.index, store.current.term, store.current.at_ms],
        "sha256": hashlib.sha256(b"".join(chunks)).hexdigest(),
        "tasks": sorted(f"{task.task_id} {task.state.name} {task.attempt}" for task in state.tasks.values()),
        "finished": len(state.finished),
        "nodes": sorted(state.nodes),
        "requests": len(state.requests),
        "steps": sum(map(len, state.steps.values())),
    }


KINDS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], dict[str, Any]]]] = {
    f"journal-{form.FORMAT}": (write_journal, facts_of_journal),
    f"snapshot-{snapshot.FORMAT}": (snapshot_bytes, facts_of_snapshot),
}


def facts_of(name: str, raw: bytes) -> dict[str, Any]:
    """By the name of the file, whatever format it is of."""
    if "story" in name:
        return facts_of_story(raw)
    return facts_of_journal(raw) if name.startswith("journal") else facts_of_snapshot(raw)


# --- the story at its fullest


def write_story() -> bytes:
    """A snapshot taken in the middle of the story, when nothing has been taken away yet."""
    stage, fullest = told()
    entries = [codec.encode_batch([command]) for command in stage.commands[:fullest]]
    return snapshot_of(core.replayed(entries), snapshot.Meta(fullest, 2, 1_000 + fullest))


def slices_of(raw: bytes) -> Iterator[log_pb2.StateSlice]:
    return map(log_pb2.StateSlice.FromString, open_snapshot(raw).image())


def facts_of_story(raw: bytes) -> dict[str, Any]:
    store = open_snapshot(raw)
    assert store.current is not None
    counts = Counter[str]()
    for piece in slices_of(raw):
        counts.update(
            {field.name: 1 if isinstance(held, Message) else len(held) for field, held in piece.ListFields()}
        )
    return {
        "meta": [store.current.index, store.current.term, store.current.at_ms],
        "state_hash": state_hash(codec.decode_state(store.image())),
        "records": dict(sorted(counts.items())),
    }


def snapshots() -> list[Path]:
    return sorted(FOLDER.glob("snapshot-*.bin"))


def has_news() -> bool:
    """Whether the story uses a field that no file holds."""
    stage, _ = told()
    batches = (log_pb2.Batch.FromString(codec.encode_batch([command])) for command in stage.commands)
    said = {place for batch in batches for place in core.places_in(batch)}
    said -= {place for batch in core.batches() for place in core.places_in(batch)}
    held = {place for piece in slices_of(write_story()) for place in core.places_in(piece)}
    kept = (piece for path in snapshots() for piece in slices_of(path.read_bytes()))
    return bool(said or held - {place for piece in kept for place in core.places_in(piece)})


def main() -> None:
    for name, (write, _) in KINDS.items():
        _add(FOLDER / f"{name}.bin", write)
    if not has_news():
        print("the story uses nothing that is not kept already")
        return
    name = f"story-{1 + len(core.stories())}"
    core.write_story(core.FOLDER / f"{name}.log")
    print(f"wrote {name}.log")
    _add(FOLDER / f"snapshot-{snapshot.FORMAT}-{name}.bin", write_story)


def _add(path: Path, write: Callable[[], bytes]) -> None:
    if path.exists():
        print(f"{path.name} is there already, and stays")
        return
    path.write_bytes(write())
    facts = facts_of(path.name, path.read_bytes())
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
