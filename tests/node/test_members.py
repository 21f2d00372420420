"""The leader's keeper of the members, and what operators may ask for, over a core of our own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest

from coterie.core.commands import Command, Outcome, SetDrain
from coterie.core.nouns import NodeId, NodeStatus
from coterie.core.ports import (
    AddMember,
    ChangeRefused,
    Member,
    MembershipChange,
    MoveMember,
    PromoteMember,
    RemoveMember,
    Role,
)
from coterie.core.state import ClusterState
from coterie.core.voters import VoterPolicy
from coterie.node import member_calls
from coterie.node.errors import ApiError
from coterie.node.member_calls import MemberCalls
from coterie.node.members import KeeperParts, MembershipKeeper, membership_warnings
from coterie.v1 import peer_pb2
from tests.core.builders import CoreCluster, register_command

IDS = ("n1", "n2", "n3")


class World:
    """Node n1 leads; what is proposed is applied at once; changes are noted, and made where it matters."""

    def __init__(self) -> None:
        self.core = CoreCluster()
        self.is_leader = self.has_quorum = True
        self.term, self.now_s = 1, 0.0
        self.leader = "n1"
        self.members = tuple(Member(node_id, f"{node_id}:8080", Role.VOTER, "d") for node_id in IDS)
        self.changes: list[MembershipChange] = []
        self.refusals: list[str] = []
        for node_id in IDS:
            self.core.do(register_command(node_id))
        self.kept_for: dict[str, set[str]] = {}
        shared: tuple[Any, ...] = (self, self.state, self, self)
        policy = VoterPolicy(3, 60)
        parts: tuple[Any, ...] = (NodeId("n1"), *shared, self, policy)
        self.keeper = MembershipKeeper(KeeperParts(*parts))
        parts = (*shared, policy)
        self.calls = MemberCalls(*parts)
        self.replica: ClusterState | None = None  # of the node that is asked, while it lags
        self.former: tuple[Member, ...] = ()  # whom it takes for members then

    def state(self) -> ClusterState:
        return self.replica or self.core.state

    @property
    def members(self) -> tuple[Member, ...]:
        return self.former or self.present

    @members.setter
    def members(self, members: tuple[Member, ...]) -> None:
        self.present = members

    async def read_barrier(self, timeout_s: float) -> int:
        self.replica, self.former = None, ()
        return 0

    def monotonic(self) -> float:
        return self.now_s

    async def one(self, command: Command, timeout_s: float) -> Outcome:
        return self.core.do(command)

    def report(self, node_id: str) -> peer_pb2.LoadReport | None:
        """Of the load book: by default a node's blobs are where they should be."""
        kept_for = self.kept_for.get(node_id, set(IDS) - {node_id})
        return peer_pb2.LoadReport(node_id=node_id, blobs_kept_for=sorted(kept_for))

    async def change_members(self, change: MembershipChange, timeout_s: float) -> tuple[Member, ...]:
        if self.refusals:
            raise ChangeRefused(self.refusals.pop(0))
        self.changes.append(change)
        if isinstance(change, RemoveMember):
            self.members = tuple(m for m in self.members if m.node_id != change.node_id)
        return self.members

    def add_learner(self, node_id: str) -> None:
        self.members = (*self.members, Member(node_id, f"{node_id}:8080", Role.LEARNER, "d"))

    def leave(self, node_id: str) -> None:
        number = self.core.state.nodes[NodeId(node_id)].drain_number + 1
        self.core.do(SetDrain(NodeId(node_id), True, 9_000, number, leaving=True))

    async def look(self) -> list[MembershipChange]:
        """What one round of the keeper changes."""
        self.changes.clear()
        await self.keeper._lead()
        return list(self.changes)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(member_calls, "REFUSED_PAUSE_S", 0.001)
    return World()


async def test_a_drain_is_called_off_through_a_node_that_has_not_heard_of_it(world: World) -> None:
    lagging = world.core.state.copy()
    await world.calls.drain("n2", 5_000, 1.0)
    world.replica = lagging
    await world.calls.undrain("n2", 1.0)
    node = world.core.state.nodes[NodeId("n2")]
    assert (node.draining, node.drain_number) == (False, 2)


async def test_a_node_whose_drain_was_called_off_elsewhere_can_be_removed(world: World) -> None:
    lagging = world.core.state.copy()
    await world.calls.drain("n2", 5_000, 1.0)
    await world.calls.undrain("n2", 1.0)
    world.replica = lagging
    assert not await world.calls.remove("n2", 5_000, False, 1.0)
    assert world.core.state.nodes[NodeId("n2")].leaving


async def test_nobody_drains_a_node_that_is_none(world: World) -> None:
    with pytest.raises(ApiError, match="n9"):
        await world.calls.drain("n9", 5_000, 1.0)


# --- the keeper


async def test_a_leaving_node_is_removed_when_it_is_empty_and_forgotten(world: World) -> None:
    world.core.running("t1", "n2")
    world.leave("n2")
    assert await world.look() == []
    world.core.do(register_command("n2", incarnation=2))  # its tasks went back to the queue
    assert await world.look() == [RemoveMember("n2")]
    assert NodeId("n2") in world.core.state.nodes
    assert await world.look() == []
    assert NodeId("n2") not in world.core.state.nodes


async def test_a_node_that_has_blobs_which_the_rest_would_miss_does_not_go(world: World) -> None:
    world.kept_for["n2"] = set(IDS)  # of the time before it was told to leave
    world.leave("n2")
    assert await world.look() == []
    assert not await world.calls.remove("n2", 5_000, False, 1.0)
    world.kept_for["n2"] = {"n1", "n3"}
    assert await world.look() == [RemoveMember("n2")]


async def test_a_leader_that_leaves_is_removed_by_its_successor(world: World) -> None:
    world.leave("n1")
    assert await world.look() == []


async def test_a_node_that_registered_with_another_address_is_moved(world: World) -> None:
    world.core.do(register_command("n3", 2, address="elsewhere:1"))
    assert await world.look() == [MoveMember("n3", "elsewhere:1")]


async def test_a_voter_is_replaced_only_after_it_was_down_long_enough(world: World) -> None:
    world.add_learner("n4")
    world.core.do(register_command("n4"))
    world.core.state.nodes[NodeId("n2")] = replace(
        world.core.state.nodes[NodeId("n2")], status=NodeStatus.DOWN
    )
    assert await world.look() == []
    world.now_s += 59
    assert await world.look() == []
    world.now_s += 2
    assert await world.look() == [PromoteMember("n4")]
    world.term += 1
    assert await world.look() == [], "a new leader begins to count anew"


async def test_voters_that_are_back_have_never_been_away(world: World) -> None:
    world.add_learner("n4")
    world.core.do(register_command("n4"))
    node = world.core.state.nodes[NodeId("n2")]
    world.core.state.nodes[NodeId("n2")] = replace(node, status=NodeStatus.DOWN)
    await world.look()
    world.core.state.nodes[NodeId("n2")] = node
    world.now_s += 40
    await world.look()
    world.core.state.nodes[NodeId("n2")] = replace(node, status=NodeStatus.DOWN)
    world.now_s += 40
    assert await world.look() == []


@pytest.mark.parametrize(("count", "fragment"), [(1, ""), (2, "two voters"), (3, ""), (4, "4 voters")])
def test_the_number_of_voters_is_warned_about(count: int, fragment: str) -> None:
    members = tuple(Member(f"n{number}", "", Role.VOTER) for number in range(count))
    warnings = membership_warnings((*members, Member("r", "", Role.LEARNER)))
    assert [fragment in warning for warning in warnings] == [True] * bool(fragment)


# --- what operators ask


async def refused(calling: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await calling
    return caught.value


async def test_a_node_is_added_as_a_voter_while_there_is_room(world: World) -> None:
    await world.calls.add("n4", "h:1", 1.0)
    world.members = world.members[:2]
    await world.calls.add("n5", "h:1", 1.0)
    assert world.changes == [AddMember("n4", "h:1", Role.LEARNER), AddMember("n5", "h:1", Role.VOTER)]


async def test_adding_a_member_again_changes_nothing(world: World) -> None:
    await world.calls.add("n2", "n2:8080", 1.0)
    assert world.changes == []
    assert (await refused(world.calls.add("n2", "h:1", 1.0))).reason == "NODE_EXISTS"


async def test_a_node_that_was_just_removed_is_added_through_one_that_has_not_heard_of_it(
    world: World,
) -> None:
    """Else it would be told that it is a member, and be a stranger to all for ever."""
    world.former = world.members
    world.present = world.members[:2]
    await world.calls.add("n3", "n3:8080", 1.0)
    assert world.changes == [AddMember("n3", "n3:8080", Role.VOTER)]


@pytest.mark.parametrize("call", ["promote", "move"])
async def test_a_node_that_was_just_added_is_known_to_those_who_have_not_heard_of_it(
    world: World, call: str
) -> None:
    world.former = world.members
    world.add_learner("n4")
    if call == "promote":
        await world.calls.promote("n4", 1.0)
    else:
        await world.calls.move("n4", "n4:9090", 1.0)
    assert len(world.changes) == 1


async def test_every_wrong_field_is_named(world: World) -> None:
    error = await refused(world.calls.add("-", "nowhere", 1.0))
    assert [violation.field for violation in error.violations] == ["node_id", "address"]


async def test_a_removal_drains_first_and_is_done_when_the_node_is_empty(world: World) -> None:
    world.core.running("t1", "n2")
    assert not await world.calls.remove("n2", 5_000, False, 1.0)
    node = world.core.state.nodes[NodeId("n2")]
    assert node.leaving and node.draining and world.changes == []
    assert not await world.calls.remove("n2", 5_000, False, 1.0)
    world.core.do(register_command("n2", incarnation=2))
    assert await world.calls.remove("n2", 5_000, False, 1.0)
    assert world.changes == [RemoveMember("n2")]


async def test_a_leader_is_not_removed_before_another_one_leads(world: World) -> None:
    for _ in range(2):
        assert not await world.calls.remove("n1", 5_000, False, 1.0)
    world.leader = "n2"
    assert await world.calls.remove("n1", 5_000, False, 1.0)


@pytest.mark.parametrize("force", [True, False])
async def test_a_dead_node_has_nothing_to_drain(world: World, force: bool) -> None:
    world.core.running("t1", "n2")
    if not force:
        node = world.core.state.nodes[NodeId("n2")]
        world.core.state.nodes[NodeId("n2")] = replace(node, status=NodeStatus.DOWN)
    assert await world.calls.remove("n2", 5_000, force, 1.0)


async def test_the_last_ones_stay(world: World) -> None:
    world.leave("n2")
    world.leave("n3")
    assert (await refused(world.calls.remove("n1", 5_000, False, 1.0))).reason == "LAST_NODE"
    world.members = world.members[:1]
    assert (await refused(world.calls.remove("n1", 5_000, True, 1.0))).reason == "LAST_VOTER"


async def test_what_is_refused_for_the_moment_is_tried_again_and_then_told(world: World) -> None:
    world.refusals = ["another change is under way"] * 3
    await world.calls.promote("n2", 5.0)
    assert world.changes == [PromoteMember("n2")]
    world.refusals = ["it has not caught up"] * 10_000
    error = await refused(world.calls.promote("n2", 0.55))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CHANGE_REFUSED")
    assert "caught up" in error.message
    assert (await refused(world.calls.move("n9", "h:1", 1.0))).reason == "NODE_NOT_FOUND"
