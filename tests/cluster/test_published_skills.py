"""Skills published to a real cluster: quarantine, approval, pinned revisions while nodes die, canaries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coterie.client import InvalidRequest, PermissionDenied, SkillPolicy, TaskFailed
from coterie.node.localcluster import LocalCluster
from coterie.skills.bundle import File, pack
from tests.chaos.skills import keep_revisions
from tests.cluster.conftest import client_of
from tests.cluster.guest import MANIFEST, REVISION_A, A, make_live

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


async def test_a_skill_is_published_approved_and_runs_in_its_sandbox(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        skill = await client.skills.publish("first/guest", A)
        assert [one.state for one in skill.revisions] == ["QUARANTINED"]
        with pytest.raises(InvalidRequest, match="no node has a skill"):
            await client.submit_task(type="first/guest", payload={"steps": 1})
        await client.skills.approve("first/guest", REVISION_A[:10])
        skill = await client.skills.route("first/guest", "1.0.0")
        assert skill.live == REVISION_A
        job = await client.submit_task(type="first/guest", payload={"steps": 2})
        result = await job.wait(timeout=60)
        assert result["said"] == [["1.0.0", REVISION_A, 1], ["1.0.0", REVISION_A, 1]]
        assert (result["stolen"], result["env"]) == ("", ["HOME", "LANG", "PATH", "TMPDIR"])
        with pytest.raises(InvalidRequest, match=r"'steps' is missing; add an integer"):
            await client.submit_task(type="first/guest", payload={"step": 1})
        with pytest.raises(TaskFailed, match=r"BAD_OUTPUT|is not of type 'object'"):
            await (await client.submit_task(type="first/guest", payload={"steps": 0})).wait(timeout=60)


async def test_a_private_skill_runs_for_its_owner_only(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        await make_live(client, A, "own/guest")
        policy = SkillPolicy(owner="agent-1", private=True, rate_count=100, rate_period_ms=1_000)
        assert (await client.skills.set_policy("own/guest", policy)).policy.owner == "agent-1"
        assert "skill.own~guest" in [limit.id for limit in await client.limits.list()]
        await client.skills.set_policy("own/guest", replace(policy, rate_count=0, rate_period_ms=0))
        assert "skill.own~guest" not in [limit.id for limit in await client.limits.list()]
        with pytest.raises(PermissionDenied, match="private"):
            await client.submit_task(type="own/guest", payload={"steps": 1})
        job = await client.submit_task(type="own/guest", payload={"steps": 1}, agent="agent-1")
        assert (await job.wait(timeout=60))["said"] == [["1.0.0", REVISION_A, 1]]


async def test_files_with_faults_are_refused_with_all_of_them(shared: LocalCluster) -> None:
    bad = pack({"SKILL.md": File(MANIFEST.format(version="1").replace("say.py", "gone.py").encode())})
    async with client_of(shared) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.skills.publish("other", bad)
    assert "differs from its folder" in str(caught.value) and "there is no such file" in str(caught.value)


async def test_a_revoked_revision_runs_no_more(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        await make_live(client, A, "bad/guest")
        job = await client.submit_task(type="bad/guest", payload={"steps": 1}, start_delay="1h")
        await client.skills.revoke("bad/guest", REVISION_A)
        await job.retry()  # now
        with pytest.raises(TaskFailed, match=r"SKILL_REVOKED|was revoked"):
            await job.wait(timeout=60)


async def test_running_tasks_keep_their_revision_while_another_is_live_and_all_nodes_die_in_turn(
    fresh: LocalCluster,
) -> None:
    async with client_of(fresh) as client:
        figures = await keep_revisions(fresh, client, runs=12, steps=40, pause_s=0.4)
    assert figures.faults == []
    assert figures.kills == 3 and figures.moved > 0, "no old run was moved to another node"
