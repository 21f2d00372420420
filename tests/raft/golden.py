"""Files as this version writes them, kept for ever: `python -m tests.raft.golden` adds those of a new format.

A file that is there is never written again: what was once on somebody's disk does not change."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coterie.raft import codec, snapshot
from coterie.raft import journal_format as form
from coterie.raft.entry import NO_OP_ENTRY, seal
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.journal import Base, Journal
from coterie.raft.journal_format import Identity
from tests.core.builders import RandomLog
from tests.fuzz.targets import CLUSTER, snapshot_bytes
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


def main() -> None:
    for name, (write, facts) in KINDS.items():
        path = FOLDER / f"{name}.bin"
        if path.exists():
            print(f"{path.name} is there already, and stays")
            continue
        path.write_bytes(write())
        path.with_suffix(".json").write_text(json.dumps(facts(path.read_bytes()), indent=1) + "\n")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
