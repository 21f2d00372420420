"""Members come and go while real engines run, on real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.core.ports import AddMember, ChangeRefused, RemoveMember, Role
from coterie.raft.errors import LinkRefused, RemovedFromCluster, Why
from tests.raft.inprocess import running

TIMEOUT_S = 20.0


async def test_a_voter_is_removed_told_and_refused_while_work_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        assert [member.role for member in cluster.engines[leader].members] == [Role.VOTER] * 3
        gone, other = await cluster.followers()
        disk_id = cluster.engines[gone].disk_id
        left = await cluster.engines[other].change_members(RemoveMember(gone), TIMEOUT_S)
        assert {member.node_id for member in left} == {leader, other}
        await cluster.until(lambda: gone in cluster.fatal, "the removed node stops")
        assert isinstance(cluster.fatal.pop(gone), RemovedFromCluster)
        assert (await cluster.engines[other].propose(b"x", TIMEOUT_S)).result == 1
        with pytest.raises(LinkRefused) as caught:
            cluster.engines[leader].link_up(gone, lambda frame: None, disk_id)
        assert caught.value.why is Why.REMOVED
        with pytest.raises(ChangeRefused, match="no member"):
            await cluster.engines[other].change_members(RemoveMember("n9"), TIMEOUT_S)
        again = await cluster.engines[leader].change_members(AddMember(gone, "h:1"), TIMEOUT_S)
        assert [(m.role, m.disk_id) for m in again if m.node_id == gone] == [(Role.LEARNER, "")]


async def test_a_node_that_a_member_refuses_as_removed_stops(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        follower = (await cluster.followers())[0]
        cluster.engines[follower].link_refused(leader, Why.STRANGER)
        assert cluster.fatal == {}
        cluster.engines[follower].link_refused(leader, Why.REMOVED)
        assert isinstance(cluster.fatal.pop(follower), RemovedFromCluster)
        assert not cluster.engines[follower].has_quorum
