"""What a member that is broken, or newer, may send and ask for without harm to the others."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import pytest

from coterie.core.commands import Accepted
from coterie.core.nouns import TaskId
from coterie.core.ports import AddMember, ChangeRefused, NotCommitted, RemoveMember, Role
from coterie.raft import codec, snapshot
from coterie.raft import messages as m
from coterie.raft.errors import BadFrame, DamagedFile
from coterie.raft.member import TERM_JUMP_MAX
from coterie.raft.replica import Decoded, Replica
from coterie.raft.snapshot import Meta, SnapshotStore
from coterie.v1 import log_pb2
from tests.core.builders import submit_command
from tests.raft.group import FIRST, Group
from tests.raft.inprocess import ListMachine
from tests.sim.raft.disk import SimDisk

LAST_TERM = 2**64 - 1
FAR_TERMS: list[m.Message] = [
    m.PreVote(LAST_TERM, 9, 9),
    m.PreVoteReply(1, False, LAST_TERM),
    m.VoteRequest(LAST_TERM, 9, 9),
    m.Append(LAST_TERM, 1, 1, 0, 0, 0),
    m.AppendReply(TERM_JUMP_MAX + 9, 1, 1, False, 0),
    m.SnapshotReply(LAST_TERM, 1, 1, 5, 0, m.SnapshotStatus.MORE),
]


@pytest.mark.parametrize("message", FAR_TERMS, ids=lambda message: type(message).__name__)
def test_a_term_that_no_elections_led_to_is_refused(message: m.Message) -> None:
    group = Group(3)
    leader = group.elect("n1")
    term = leader.term
    with pytest.raises(BadFrame, match="no election was in between"):
        leader.receive("n2", group.wire.encode([m.VoteReply(1), message]))
    group.pass_ms(50)
    assert (leader.term, leader.is_leader) == (term, True)
    assert group.committed("n1", b"x").result == 1


def test_a_node_that_missed_many_elections_catches_up_all_the_same() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.deliver("n2", "n1", m.AppendReply(TERM_JUMP_MAX, 1, 1, False, 0))
    assert leader.term == TERM_JUMP_MAX


def test_a_snapshot_with_members_that_cannot_be_is_damaged() -> None:
    disk = SimDisk(random.Random(1))
    for raw in (b"\xff\xff", b"\x0a\x04\x0a\x02n1"):
        file = disk.create(snapshot.NAME)
        file.append(snapshot.header(Meta(9, 1, 0, 3, raw), "c") + snapshot.end(0, 0))
        with pytest.raises(DamagedFile, match="none that a group could have"):
            SnapshotStore(disk, "c")


class OldMachine(ListMachine):
    """Does not know what begins with a plus."""

    def understands(self, entry: bytes) -> bool:
        return not entry.startswith(b"+")

    def apply(self, index: int, at_ms: int, entry: bytes) -> object:
        assert self.understands(entry), "this would stop every node"
        return super().apply(index, at_ms, entry)


class OldGroup(Group):
    machine_type = OldMachine


class QuietReplica(Replica):
    def __init__(self) -> None:
        super().__init__(lambda index, events: None, lambda index: None)


class ReplicaGroup(Group):
    machine_type = QuietReplica


def test_what_only_a_newer_node_understands_is_not_appended_for_it(caplog: pytest.LogCaptureFixture) -> None:
    group = OldGroup(3)
    group.elect("n1")
    with caplog.at_level(logging.ERROR, "coterie.raft"):
        answers = [group.propose("n2", body, timeout_s=0.2) for body in (b"+new", b"old", b"+newer")]
        group.pass_ms(300)
    assert answers[1].committed.index == FIRST
    assert [type(answers[at].value) for at in (0, 2)] == [NotCommitted, NotCommitted]
    assert [machine.entries for machine in group.machines.values()] == [[b"old"]] * 3
    assert [record.message for record in caplog.records].count(
        "a peer asks for what cannot be applied here: it is of a newer version, or broken"
    ) == 1


def test_the_replica_says_what_it_cannot_apply_and_decodes_the_rest_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = Replica(lambda index, events: None, lambda index: None)
    entry = codec.encode_batch([submit_command("t1")])
    assert replica.understands(entry)
    assert not replica.understands(log_pb2.Batch(needs=[codec.VERSION + 1]).SerializeToString())
    decode: Callable[[bytes], Decoded] = codec.decode_batch
    asked: list[bytes] = []

    def decode_and_note(raw: bytes) -> Decoded:
        asked.append(raw)
        return decode(raw)

    monkeypatch.setattr(codec, "decode_batch", decode_and_note)
    first, again = replica.apply(1, 1, entry), replica.apply(2, 2, entry)
    assert asked == [entry], "the second one was not looked at before"
    assert [len(first), len(again)] == [1, 1]
    for number in range(2_000):
        replica.understands(codec.encode_batch([submit_command(f"t{number}")]))
    assert len(replica._ahead) <= 256
    assert replica.understands(codec.encode_batch([submit_command("t")] * 4_000))
    assert max(map(len, replica._ahead)) <= 64 * 1024


@pytest.mark.parametrize(
    "entry",
    [b"\xff\xff no protobuf", log_pb2.Batch(commands=[log_pb2.Command()]).SerializeToString()],
    ids=["no batch", "no command"],
)
def test_what_no_version_can_read_is_not_appended_for_a_peer(entry: bytes) -> None:
    good = codec.encode_batch([submit_command("t1")])
    group = ReplicaGroup(3)
    leader = group.elect("n1")
    broken, whole = group.propose("n2", entry, timeout_s=0.2), group.propose("n2", good)
    group.pass_ms(300)
    assert type(broken.value) is NotCommitted
    assert whole.committed.result == [Accepted(task_id=TaskId("t1"))]
    assert leader.commit_index == whole.committed.index == FIRST


def test_a_removal_that_is_asked_for_again_does_not_remove_who_was_added_since() -> None:
    """The answer to the first try is lost; before the second, the node is back with another disk."""
    group = Group(4)
    group.elect("n1")
    group.stop_between(("n1", "n2"))
    answer = group.change("n2", RemoveMember("n4"))
    group.pass_ms(30)
    assert "n4" not in group.roles("n1")
    group.crash("n4")
    group.wipe("n4")
    group.voters = ("n1", "n2", "n3")
    group.changed("n1", AddMember("n4", "h:4", Role.LEARNER))
    group.start("n4")
    group.pass_ms(100)
    group.disconnect("n1", "n2")
    group.heal()
    group.connect("n1", "n2")
    group.pass_ms(500)
    assert isinstance(answer.value, ChangeRefused)
    assert "added again since" in str(answer.value)
    assert group.roles("n1")["n4"] is Role.LEARNER
    assert "n4" not in group.changed("n2", RemoveMember("n4"))
