"""Changes of the members across crashes and snapshots: the configuration is as durable as any entry."""

from __future__ import annotations

import pytest

from coterie.core.ports import AddMember, DemoteMember, PromoteMember, RemoveMember, Role
from coterie.raft import configuration as form
from coterie.raft.errors import WrongDataDir
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.snapshot import NAME as SNAPSHOT
from tests.raft.group import ELECTION_MS, Group, until
from tests.raft.test_snapshots import SMALL, filled, snapshot

VOTER, LEARNER = Role.VOTER, Role.LEARNER


def run_for(group: Group, rounds: int) -> None:
    for _ in range(rounds):
        group.pass_ms(20)


def settled(group: Group) -> str:
    """Wait for a leader that everybody up follows."""

    def agreed() -> bool:
        leaders = {member.leader for member in group.members.values()}
        applied = {member.applied_index for member in group.members.values()}
        return len(leaders) == 1 and "" not in leaders and len(applied) == 1

    until(agreed, lambda: group.pass_ms(20), times=300)
    return group.leaders()[0]


# --- restarts ---


@pytest.mark.parametrize("power", [False, True])
def test_every_node_knows_the_members_again_after_all_of_them_died(power: bool) -> None:
    group = Group(3)
    group.elect("n1")
    group.changed("n1", AddMember("n4", "h:4"))
    group.join("n4")
    until(lambda: group.roles("n4").get("n4") is VOTER, lambda: group.pass_ms(20))
    group.changed("n1", RemoveMember("n2"))
    until(lambda: "n2" in group.gone, lambda: group.pass_ms(20))
    group.committed("n1", b"x")
    disks = {node: group.members[node].disk_id for node in ("n1", "n3", "n4")}
    for node in disks:
        group.crash(node, power=power)
    for node in disks:
        group.start(node)
    assert settled(group) in disks
    for node in disks:
        assert {member.node_id: member.disk_id for member in group.members[node].members} == disks
        assert group.members[node].disk_id == disks[node]
        assert group.machines[node].entries == [b"x"]


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("delivered", range(0, 10, 2))
@pytest.mark.parametrize("change", [AddMember("n4", "h:4"), RemoveMember("n3"), DemoteMember("n3")])
def test_a_leader_that_dies_in_the_middle_leaves_one_truth(
    change: AddMember | RemoveMember | DemoteMember, delivered: int, power: bool
) -> None:
    """Done everywhere or nowhere, whoever had taken the entry when the leader died."""
    group = Group(3)
    group.elect("n1")
    group.committed("n1", b"before")
    answer = group.change("n1", change)
    for _ in range(delivered):
        way = next((way for way, queue in group.on_way.items() if queue), None)
        if way is not None:
            group.deliver(*way)
    group.crash("n1", power=power)
    was_told = answer.value is not None
    run_for(group, 20)
    group.start("n1")
    run_for(group, 20)
    leader = group.leaders()[0]
    truth = group.roles(leader)
    if was_told:
        assert truth == {member.node_id: member.role for member in answer.value}
    assert all(group.roles(node) == truth for node in group.members if node in truth)
    assert group.committed(leader, b"after").result == 2


@pytest.mark.parametrize("power", [False, True])
def test_a_node_that_joins_may_die_at_any_moment(power: bool) -> None:
    for rounds in range(0, 40, 4):
        group = Group(3, **SMALL)
        group.elect("n1")
        filled(group, "n1", 20)
        snapshot(group, "n1")
        group.changed("n1", AddMember("n4", "h:4"))
        group.join("n4")
        for _ in range(rounds):
            way = next((way for way, queue in group.on_way.items() if queue), None)
            if way is not None:
                group.deliver(*way)
        group.crash("n4", power=power)
        run_for(group, 3)
        group.start("n4")
        until(lambda: group.roles("n4").get("n4") is VOTER, lambda: group.pass_ms(20), times=200)  # noqa: B023
        assert group.machines["n4"].entries == group.machines["n1"].entries


def test_the_wish_for_a_vote_outlives_the_leader_that_took_it() -> None:
    group = Group(3)
    group.elect("n1")
    group.changed("n1", AddMember("n4", "h:4"))
    group.crash("n1")
    run_for(group, 20)
    group.join("n4")
    until(lambda: group.roles("n4").get("n4") is VOTER, lambda: group.pass_ms(20), times=100)
    assert group.leaders() != ["n1"]


def test_a_promotion_that_is_cut_off_is_made_again() -> None:
    group = Group(3)
    leader = group.elect("n1")
    group.changed("n1", AddMember("n4", "h:4", LEARNER))
    group.join("n4")
    run_for(group, 5)
    group.isolate("n1")
    group.change("n1", PromoteMember("n4"), timeout_s=0.02)
    assert leader._majority == 3
    run_for(group, 20)
    group.heal()
    group.connect_all()
    new = settled(group)
    assert group.roles("n1")["n4"] is LEARNER
    group.changed(new, PromoteMember("n4"))
    assert group.roles("n1")["n4"] is VOTER


# --- snapshots ---


def test_a_snapshot_brings_the_members_and_the_list_of_removed() -> None:
    group = Group(3, **SMALL)
    leader = group.elect("n1")
    removed_disk = group.members["n3"].disk_id
    group.changed("n1", RemoveMember("n3"))
    until(lambda: "n3" in group.gone, lambda: group.pass_ms(20))
    filled(group, "n1", 20)
    group.changed("n1", AddMember("n4", "h:4", LEARNER))
    filled(group, "n1", 20, first=20)
    snapshot(group, "n1")
    assert leader._log.configurations == [], "the log begins behind the last change"
    group.join("n4")
    run_for(group, 10)
    member = group.members["n4"]
    assert group.machines["n4"].restored_at != []
    assert group.roles("n4") == {"n1": VOTER, "n2": VOTER, "n4": LEARNER}
    assert member._configuration.has_removed("n3", removed_disk)
    group.crash("n4", power=True)
    group.start("n4")
    assert group.members["n4"]._configuration.has_removed("n3", removed_disk)
    run_for(group, 10)
    assert group.machines["n4"].entries == group.machines["n1"].entries


def test_a_snapshot_holds_the_members_of_its_index_and_not_later_ones() -> None:
    group = Group(3, **SMALL)
    leader = group.elect("n1")
    filled(group, "n1", 10)
    group.isolate("n1")
    group.change("n1", RemoveMember("n3"), timeout_s=0.02)
    assert group.roles("n1") == {"n1": VOTER, "n2": VOTER}
    leader.want_snapshot()
    group.run("n1")
    leader.cut_log(leader.ready_to_cut)
    group.run("n1")
    meta = leader._store.current
    assert meta is not None
    assert meta.configuration_index == 2
    assert form.decode(meta.configuration).voters == ("n1", "n2", "n3")
    assert [index for index, _ in leader._log.configurations] == [leader._configuration_index]
    assert leader._configuration_index > meta.index, "the log still has the change"
    group.elect("n2")
    group.heal()
    group.connect_all()
    run_for(group, 10)
    assert group.roles("n1") == dict.fromkeys(group.ids, VOTER), "rolled back to what the snapshot says"


def test_members_are_the_same_after_a_compaction_and_a_restart() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    group.changed("n1", DemoteMember("n3"))
    filled(group, "n1", 40)
    snapshot(group, "n1")
    assert group.members["n1"]._log.configurations == []
    assert group.members["n1"]._committed_configuration() == group.members["n1"]._configuration
    for node in group.ids:
        group.crash(node, power=True)
    for node in group.ids:
        group.start(node)
    assert group.roles("n1") == {"n1": VOTER, "n2": VOTER, "n3": LEARNER}
    settled(group)
    assert group.roles("n3") == group.roles("n1")
    group.isolate("n3")
    assert group.committed(group.leaders()[0], b"two of two").result == 41


def test_a_snapshot_that_a_wiped_voter_would_take_is_never_sent_to_it() -> None:
    group = Group(3, **SMALL)
    group.elect("n1")
    filled(group, "n1", 40)
    snapshot(group, "n1")
    group.crash("n3")
    group.wipe("n3")
    group.start("n3")
    run_for(group, 20)
    assert not group.disks["n3"].exists(SNAPSHOT)


# --- formats ---


def test_a_journal_or_snapshot_of_the_format_before_is_refused_with_a_clear_word() -> None:
    for name in (JOURNAL, SNAPSHOT):
        group = Group(3, **SMALL)
        group.elect("n1")
        filled(group, "n1", 20)
        snapshot(group, "n1")
        group.crash("n1")
        raw = bytearray(group.disks["n1"].read(name))
        raw[8] -= 1
        file = group.disks["n1"].create(name)
        file.append(bytes(raw))
        file.sync()
        with pytest.raises(WrongDataDir, match=r"has format 1 .*this program knows format 2\. Remedy"):
            group.start("n1")


def test_a_removed_node_that_is_started_again_does_not_campaign() -> None:
    group = Group(3)
    group.elect("n1")
    group.changed("n1", RemoveMember("n3"))
    until(lambda: "n3" in group.gone, lambda: group.pass_ms(5))
    group.crash("n1")
    group.crash("n2")
    group.start("n3")
    term = group.members["n3"].term
    group.pass_ms(10 * ELECTION_MS)
    assert "n3" not in group.members or (group.members["n3"].term, group.leaders()) == (term, [])
