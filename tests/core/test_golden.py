"""Logs of earlier versions replay for ever: each entry says what it said, is answered as it was, and leads
to the same state. When that fails, an upgrade would make nodes differ: mend the change, never the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import Accepted, Command
from coterie.raft import codec
from coterie.raft.replica import Replica
from coterie.v1 import log_pb2
from tests.core import golden
from tests.core.golden import ADD, Place

# Fields of a log that no entry here has, and why.
UNSET: dict[Place, str] = {
    ("Batch", "needs"): "no entry needs a newer version yet; test_codec has some that do",
}


def test_there_are_logs_and_a_story() -> None:
    assert len(golden.logs()) >= 3 and golden.stories()


@pytest.mark.parametrize("path", golden.logs(), ids=lambda path: path.stem)
def test_a_log_of_an_earlier_version_gives_the_same_state(path: Path) -> None:
    entries, digest = golden.read(path)
    assert state_hash(golden.replayed(entries)) == digest


@pytest.mark.parametrize("path", golden.stories(), ids=lambda path: path.stem)
def test_an_entry_says_what_it_said_and_is_answered_as_it_was(path: Path) -> None:
    entries, _ = golden.read(path)
    kept = path.with_suffix(".txt").read_text("utf-8").splitlines()
    for index, (line, before) in enumerate(zip(golden.sayings(entries), kept, strict=True), 1):
        assert line == before, f"entry {index}"


@pytest.mark.parametrize("path", golden.logs(), ids=lambda path: path.stem)
def test_nothing_in_a_log_is_strange(path: Path) -> None:
    """A field that was removed, or has another number or type, would be skipped in silence."""
    batches = map(log_pb2.Batch.FromString, golden.read(path)[0])
    assert {stranger for batch in batches for stranger in golden.strangers_in(batch)} == set()


@pytest.mark.parametrize("path", golden.logs(), ids=lambda path: path.stem)
def test_what_is_read_is_written_as_it_was(path: Path) -> None:
    """Nothing of it is left out when this version writes it."""
    for entry in golden.read(path)[0]:
        commands = list(golden.commands_of([entry]))
        assert list(golden.commands_of([codec.encode_batch(filter(None, commands))])) == commands


def test_every_command_was_accepted_in_some_log() -> None:
    accepted: set[type] = set()
    for path in golden.logs():
        entries, _ = golden.read(path)
        _, answers = golden.apply_all(Replica(lambda index, events: None, lambda index: None), entries)
        pairs = zip(golden.commands_of(entries), answers, strict=True)
        accepted |= {type(command) for command, answer in pairs if isinstance(answer, Accepted)}
    names = sorted(command.__name__ for command in set(get_args(Command)) - accepted)
    assert names == [], f"no golden log has {', '.join(names)}: {ADD}"


def test_every_field_of_every_command_is_set_in_some_log() -> None:
    unset = golden.missing(golden.batches(), log_pb2.Batch.DESCRIPTOR)
    assert unset - set(UNSET) == set(), f"no golden log has these: {ADD}"
    assert set(UNSET) - unset == set(), "some golden log has these: take them out of the list"


def test_a_command_or_a_field_that_no_log_has_is_noticed() -> None:
    batch = log_pb2.Batch()
    batch.commands.add().start_task.task_id = "t1"
    unset = golden.missing([batch], log_pb2.Batch.DESCRIPTOR)
    assert ("Command", "start_task") not in unset and ("StartTask", "task_id") not in unset
    assert ("Command", "put_key") in unset and ("StartTask", "attempt") in unset


def test_a_field_that_means_nothing_here_is_noticed() -> None:
    raw = bytes.fromhex("0a08" + "2206" + "0a0174" + "c83e05")  # start_task { task_id: "t", 1001: 5 }
    batch = log_pb2.Batch.FromString(raw)
    assert batch.commands[0].start_task.task_id == "t"
    assert list(golden.strangers_in(batch)) == ["StartTask: field 1001"]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_state_does_not_depend_on_the_process(hash_seed: str) -> None:
    script = (
        "from coterie.core.canonical import state_hash; from tests.core.golden import *; "
        "print(*(state_hash(replayed(read(path)[0])) for path in logs()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [golden.read(path)[1] for path in golden.logs()]


def test_a_file_that_is_there_is_not_written_again() -> None:
    path = golden.stories()[0]
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        golden.write_story(path)
    assert path.read_bytes() == before
