"""Commands and state as bytes: nothing is lost, and what cannot be read is not guessed at."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest
from google.protobuf.message import DecodeError

from coterie.core.breakers import Breaker, Probe
from coterie.core.canonical import canonical, state_hash
from coterie.core.commands import Command
from coterie.core.coordination.tables import TABLES
from coterie.core.decisions.nouns import TABLES as DECISION_TABLES
from coterie.core.decisions.nouns import Approval, OpenStep, Vote
from coterie.core.families import Child, ChildEnd, FamilyPart
from coterie.core.machine import RULES
from coterie.core.nouns import (
    Data,
    DeadLetter,
    Node,
    Policy,
    Request,
    Step,
    Task,
)
from coterie.core.quotas import Bucket, Limit, Share, Tenant
from coterie.core.runs.run import NodeRun, RunHead, Taken
from coterie.core.runs.texts import WorkflowText
from coterie.core.skillbook import SkillEntry, SkillPolicy, SkillRevision
from coterie.core.state import FORMAT as STATE_FORMAT
from coterie.core.state import Meta
from coterie.raft import codec
from coterie.raft.codec import LLM_TABLES
from coterie.raft.errors import NewerVersion
from coterie.raft.replica import UNDECODABLE, Replica
from coterie.v1 import log_pb2
from tests.core.builders import RandomLog

COMMANDS = get_args(Command)


@pytest.mark.parametrize(
    "record",
    [
        *COMMANDS,
        *(record for _, record, _ in TABLES),
        Task,
        Node,
        Request,
        Policy,
        Step,
        Meta,
        Limit,
        Bucket,
        Tenant,
        Share,
        DeadLetter,
        Child,
        ChildEnd,
        FamilyPart,
        *(record for _, record, _ in DECISION_TABLES),
        OpenStep,
        Approval,
        Vote,
        *LLM_TABLES.values(),
        Breaker,
        Probe,
        SkillEntry,
        SkillRevision,
        SkillPolicy,
        NodeRun,
        RunHead,
        Taken,
        WorkflowText,
    ],
    ids=lambda r: r.__name__,
)
def test_every_record_has_a_message_with_the_same_fields(record: type) -> None:
    message = getattr(log_pb2, record.__name__)
    assert {field.name for field in fields(record)} == set(message.DESCRIPTOR.fields_by_name)


def test_every_command_has_a_rule_and_a_place_in_the_log() -> None:
    assert set(RULES) == set(COMMANDS)
    assert len(log_pb2.Command.DESCRIPTOR.fields) == len(COMMANDS)


def test_what_cannot_be_read_is_refused_and_changes_nothing() -> None:
    replica = Replica(lambda index, events: None, lambda index: None)
    before = state_hash(replica.state)
    assert replica.apply(1, 1, b"\xff\xff no protobuf") == [UNDECODABLE]
    empty = log_pb2.Batch(commands=[log_pb2.Command()])
    assert replica.apply(2, 2, empty.SerializeToString()) == [UNDECODABLE]
    assert state_hash(replica.state) == before


def newer_entries() -> dict[str, bytes]:
    unknown_command = b"\x0a\x05\xaa\x3f\x02\x08\x01"  # commands { 1013 { 1: 1 } }
    odd = log_pb2.Batch()
    odd.commands.add().mark_node.status = 99
    needs = log_pb2.Batch(needs=[codec.VERSION + 1])
    needs.commands.add().start_task.task_id = "t1"
    return {
        "command": unknown_command,
        "value": odd.SerializeToString(),
        "needs": needs.SerializeToString(),
    }


@pytest.mark.parametrize("what", ["command", "value", "needs"])
def test_an_entry_of_a_newer_version_is_not_guessed_at(what: str) -> None:
    """Replicas that skip it would part from those that apply it: P9."""
    replica = Replica(lambda index, events: None, lambda index: None)
    before = state_hash(replica.state)
    with pytest.raises(NewerVersion, match="newer version of this program"):
        replica.apply(1, 1, newer_entries()[what])
    assert state_hash(replica.state) == before


def test_of_joined_batches_the_highest_need_counts() -> None:
    """The proposer joins batches by concatenation, in any order; of a field that is there once, protobuf
    would keep the last."""
    newer, older = (log_pb2.Batch(needs=[codec.VERSION + more]).SerializeToString() for more in (1, 0))
    for entry in (newer + older, older + newer, newer + codec.encode_batch([])):
        with pytest.raises(NewerVersion):
            codec.decode_batch(entry)
    assert codec.decode_batch(older + older) == []


def test_an_image_of_a_newer_format_is_not_guessed_at() -> None:
    piece = log_pb2.StateSlice()
    piece.meta.format = STATE_FORMAT + 1
    with pytest.raises(NewerVersion, match="image of the state in format"):
        codec.decode_state([piece.SerializeToString()])


def test_single_records_round_trip() -> None:
    data = Data(sha256="ab" * 32, size_bytes=5)
    assert codec.decode(Data, codec.encode(data)) == data
    with pytest.raises(DecodeError):
        codec.decode(Data, b"\xff")


def test_the_canonical_form_tells_values_apart() -> None:
    values = [
        None,
        0,
        1,
        "",
        "1",
        b"",
        b"1",
        (),
        ("",),
        (b"",),
        ("a", "b"),
        ("ab",),
        Data(b"x"),
        Data(sha256="x"),
    ]
    assert len({canonical(value) for value in values}) == len(values)
    with pytest.raises(TypeError):
        canonical({"no": "dicts"})


def test_replica_hands_out_events_and_restores() -> None:
    seen: list[tuple[int, int]] = []
    restored: list[int] = []
    replica = Replica(lambda index, events: seen.append((index, len(events))), restored.append)
    log = RandomLog(5)
    for index in range(1, 40):
        replica.apply(index, 1_000 + index, codec.encode_batch(log.take(3)))
    assert [index for index, _ in seen] == list(range(1, 40))
    other = Replica(lambda index, events: None, restored.append)
    image, there = replica.freeze(), set(replica.state.tasks)
    replica.apply(40, 2_000, codec.encode_batch(log.take(3)))
    other.restore(image, 39)
    assert restored == [39]
    assert set(other.state.tasks) == there
    other.apply(40, 2_000, codec.encode_batch([]))
    assert other.state.meta.order <= replica.state.meta.order


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.__name__)
def test_a_command_with_no_field_set_is_applied_like_any_other(command: type) -> None:
    """Apply is total: what a stranger could write into the log must not stop the nodes that read it."""
    name = command.__name__
    field = "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")
    batch = log_pb2.Batch()
    getattr(batch.commands.add(), field).SetInParent()
    batch.commands.add().submit_task.SetInParent()
    batch.commands.add().register_node.capacity = 1
    batch.commands.add().assign_task.attempt = 1
    getattr(batch.commands.add(), field).SetInParent()
    batch.commands.add().fail_attempt.attempt = 1
    replica = Replica(lambda index, events: None, lambda index: None)
    outcomes = replica.apply(1, 1, batch.SerializeToString())
    assert len(outcomes) == 6
    restored = codec.decode_state(codec.encode_state(replica.state))
    assert state_hash(restored) == state_hash(replica.state)
