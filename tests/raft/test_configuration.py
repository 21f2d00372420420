"""The rules of a changing group, without a group: pure values in, a pure value or a refusal out."""

from __future__ import annotations

import random

import pytest

from coterie.core.ports import (
    AddMember,
    ChangeRefused,
    DemoteMember,
    Member,
    MembershipChange,
    MoveMember,
    PromoteMember,
    RemoveMember,
    Role,
)
from coterie.raft import configuration as form
from coterie.raft.configuration import Configuration, Facts, changed, decode, encode, first
from coterie.v1 import raft_pb2

VOTER, LEARNER = Role.VOTER, Role.LEARNER
THREE = first(("n1", "n2", "n3"), {"n1": "h1:1"}).bind({"n1": "d1", "n2": "d2", "n3": "d3"})
ALL = Facts(frozenset({"n1", "n2", "n3", "n4"}), frozenset({"n4"}))
FOUR = changed(THREE, AddMember("n4", "h4:1", LEARNER), ALL).bind({"n4": "d4"})


def roles(configuration: Configuration) -> str:
    return " ".join(f"{member.node_id}:{member.role}" for member in configuration.members)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (THREE, AddMember("n4", "h4:1"), "n1:voter n2:voter n3:voter n4:learner"),
        (THREE, AddMember("a", "h:1"), "a:learner n1:voter n2:voter n3:voter"),
        (FOUR, PromoteMember("n4"), "n1:voter n2:voter n3:voter n4:voter"),
        (FOUR, DemoteMember("n3"), "n1:voter n2:voter n3:learner n4:learner"),
        (FOUR, RemoveMember("n4"), "n1:voter n2:voter n3:voter"),
        (THREE, RemoveMember("n1"), "n2:voter n3:voter"),
    ],
)
def test_a_change_is_made(before: Configuration, change: MembershipChange, after: str) -> None:
    made = changed(before, change, ALL)
    assert roles(made) == after
    assert changed(made, change, ALL) == made, "asking again asks for nothing new"


def test_an_address_is_changed() -> None:
    moved = changed(THREE, MoveMember("n2", "new:1"), ALL)
    assert moved.member("n2") == Member("n2", "new:1", VOTER, "d2")
    assert roles(moved) == roles(THREE)


@pytest.mark.parametrize(
    ("before", "change", "facts", "words"),
    [
        (THREE, AddMember("", "h:1"), ALL, "node_id is empty"),
        (THREE, AddMember("n1", "other:1"), ALL, "'n1' is taken: it is a voter at 'h1:1'"),
        (FOUR, AddMember("n4", "h4:1", VOTER), ALL, "'n4' is taken: it is a learner"),
        (THREE, PromoteMember("n9"), ALL, "'n9' is no member; the members are n1, n2, n3"),
        (THREE, DemoteMember("n9"), ALL, "'n9' is no member"),
        (THREE, RemoveMember("n9"), ALL, "'n9' is no member"),
        (THREE, MoveMember("n9", "h:1"), ALL, "'n9' is no member"),
        (FOUR, PromoteMember("n4"), Facts(frozenset({"n1", "n2"})), "'n4' has not caught up"),
        (first(("n1",), {}), RemoveMember("n1"), ALL, "the last voter"),
        (first(("n1",), {}), DemoteMember("n1"), ALL, "the last voter"),
        (THREE, RemoveMember("n2"), Facts(frozenset({"n1", "n2"})), "1 of the 2 voters would be alive"),
        (THREE, DemoteMember("n2"), Facts(frozenset({"n1", "n2"})), "1 of the 2 voters would be alive"),
    ],
)
def test_a_change_is_refused(
    before: Configuration, change: MembershipChange, facts: Facts, words: str
) -> None:
    with pytest.raises(ChangeRefused, match=words):
        changed(before, change, facts)


def test_a_dead_voter_may_be_removed_as_long_as_a_majority_of_the_rest_lives() -> None:
    assert roles(changed(THREE, RemoveMember("n3"), Facts(frozenset({"n1", "n2"})))) == "n1:voter n2:voter"


def test_who_was_never_in_touch_is_not_promoted() -> None:
    unbound = changed(THREE, AddMember("n4", "h4:1", LEARNER), ALL)
    with pytest.raises(ChangeRefused, match="not been in touch"):
        changed(unbound, PromoteMember("n4"), ALL)


def test_the_wish_to_vote_is_kept_until_it_is_fulfilled_or_withdrawn() -> None:
    added = changed(THREE, AddMember("n4", "h4:1", VOTER), ALL).bind({"n4": "d4"})
    assert added.promote == {"n4"}
    assert changed(added, PromoteMember("n4"), ALL).promote == frozenset()
    assert changed(added, DemoteMember("n4"), ALL).promote == frozenset()
    assert changed(added, RemoveMember("n4"), ALL).promote == frozenset()


def test_a_disk_is_bound_once_and_a_removed_one_never_again() -> None:
    assert THREE.bind({"n2": "other"}) == THREE
    assert THREE.is_bound
    assert not first(("n1", "n2"), {}).is_bound
    gone = changed(THREE, RemoveMember("n3"), ALL)
    assert gone.has_removed("n3", "d3")
    back = changed(gone, AddMember("n3", "h3:1"), ALL)
    assert back.bind({"n3": "d3"}).disk_of("n3") == ""
    fresh = back.bind({"n3": "d9"})
    assert fresh.disk_of("n3") == "d9"
    assert fresh.has_removed("n3", "d3")
    assert not fresh.has_removed("n3", "d9")


def test_a_member_without_a_disk_takes_the_one_it_came_with_into_the_list_of_removed() -> None:
    unbound = changed(THREE, AddMember("n4", "h4:1"), ALL)
    assert changed(unbound, RemoveMember("n4"), Facts(disks={"n4": "d4"})).has_removed("n4", "d4")


def test_the_list_of_removed_is_bounded() -> None:
    configuration = THREE
    for number in range(form.REMOVED_MAX + 5):
        configuration = changed(configuration, AddMember("n4", "h4:1", LEARNER), ALL)
        configuration = changed(configuration.bind({"n4": f"d{number}"}), RemoveMember("n4"), ALL)
    assert len(configuration.removed) == form.REMOVED_MAX
    assert configuration.removed[-1] == ("n4", f"d{form.REMOVED_MAX + 4}")


def test_bytes_and_back() -> None:
    rng = random.Random(3)
    configuration = THREE
    for _ in range(50):
        node_id = f"n{rng.randint(4, 9)}"
        changes: list[MembershipChange] = [AddMember(node_id, "h:1"), RemoveMember(node_id)]
        change = rng.choice([*changes, MoveMember(node_id, "g:2")])
        try:
            configuration = changed(configuration, change, ALL).bind({node_id: f"d{rng.random()}"})
        except ChangeRefused:
            continue
        assert decode(encode(configuration)) == configuration


def _message(*members: tuple[str, bool]) -> bytes:
    message = raft_pb2.Configuration()
    for node_id, voter in members:
        message.members.add(node_id=node_id, voter=voter)
    return message.SerializeToString()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xff\xff",
        _message(("n1", False)),
        _message(("n2", True), ("n1", True)),
        _message(("n1", True), ("n1", True)),
        _message(("", True)),
    ],
)
def test_bytes_of_no_possible_group_are_refused(raw: bytes) -> None:
    assert not form.is_valid(raw)
    with pytest.raises(ValueError, match="configuration"):
        decode(raw)
