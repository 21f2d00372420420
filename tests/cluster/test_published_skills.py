"""Skills published to a real cluster: quarantine, approval, pinned revisions while nodes die, canaries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coterie.client import Cluster, InvalidRequest, Job, PermissionDenied, SkillPolicy, TaskFailed
from coterie.node.localcluster import LocalCluster
from coterie.skills.bundle import File, pack, revision_of
from tests.cluster.conftest import READY_S, client_of, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MANIFEST = """---
name: guest
description: Says which of its revisions runs. Use it to test pins.
metadata:
  version: "{version}"
  coterie: '{{"handler": "handlers/say.py:run", "effects": "none", "timeout": "2m",
    "input": {{"type": "object", "required": ["steps"], "properties": {{"steps": {{"type": "integer"}}}}}},
    "output": {{"type": "object", "required": ["said"]}}}}'
---
Says it once a step.
"""
HANDLER = """import asyncio
import os
from pathlib import Path

WORD = "{version}"


async def run(ctx, given):
    said = []
    for number in range(given["steps"]):
        said.append(await ctx.step(f"say-{{number}}", lambda: [WORD, ctx.revision, ctx.attempt]))
        await asyncio.sleep(given.get("pause", 0))
    try:
        stolen = Path("/etc/passwd").read_text()
    except PermissionError:
        stolen = ""
    return {{"said": said, "env": sorted(os.environ), "stolen": stolen}} if given["steps"] else "no object"
"""


def bundle(version: str) -> bytes:
    return pack(
        {
            "SKILL.md": File(MANIFEST.format(version=version).encode()),
            "handlers/say.py": File(HANDLER.format(version=version).encode()),
        }
    )


A, B = bundle("1.0.0"), bundle("2.0.0")
REVISION_A, REVISION_B = revision_of(A), revision_of(B)


async def make_live(client: Cluster, content: bytes, skill: str = "guest") -> None:
    await client.skills.publish(skill, content)
    await client.skills.approve(skill, revision_of(content))
    await client.skills.route(skill, revision_of(content))


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
        with pytest.raises(InvalidRequest, match=r"'steps' is a required property"):
            await client.submit_task(type="first/guest", payload={"step": 1})
        with pytest.raises(TaskFailed, match=r"BAD_OUTPUT|is not of type 'object'"):
            await (await client.submit_task(type="first/guest", payload={"steps": 0})).wait(timeout=60)


async def test_a_private_skill_runs_for_its_owner_only(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        await make_live(client, A, "own/guest")
        policy = SkillPolicy(owner="agent-1", private=True, rate_count=100, rate_period_ms=1_000)
        assert (await client.skills.set_policy("own/guest", policy)).policy.owner == "agent-1"
        assert "skill.own~guest" in [limit.id for limit in await client.limits.list()]
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
        job = await client.submit_task(type="bad/guest", payload={"steps": 1}, start_delay=3)
        await client.skills.revoke("bad/guest", REVISION_A)
        with pytest.raises(TaskFailed, match=r"SKILL_REVOKED|was revoked"):
            await job.wait(timeout=60)


async def test_running_tasks_keep_their_revision_while_another_is_live_and_all_nodes_die_in_turn(
    fresh: LocalCluster,
) -> None:
    async with client_of(fresh) as client:
        await make_live(client, A)
        old = [await client.submit_task(type="guest", payload={"steps": 12, "pause": 0.4}) for _ in range(12)]

        async def under_way() -> bool:
            return all([(await job.get()).step_count >= 1 for job in old[:6]])

        await until(under_way, "old runs are under way", timeout_s=60)
        await make_live(client, B)
        new = [await client.submit_task(type="guest", payload={"steps": 2}) for _ in range(6)]
        for node_id in list(fresh.addresses):
            fresh.kill_node(node_id)
            await asyncio.sleep(2)
            fresh.start_node(node_id)
            await fresh.wait_ready(READY_S)
        assert await said_by(old) == {("1.0.0", REVISION_A)}
        assert await said_by(new) == {("2.0.0", REVISION_B)}
        attempts = [(await job.get()).attempt for job in old]
        assert max(attempts) > 1, "no old run was moved to another node"


async def said_by(jobs: list[Job]) -> set[tuple[Any, ...]]:
    """Word and revision of every step of these jobs."""
    results = await asyncio.gather(*(job.wait(timeout=120) for job in jobs))
    return {(word, revision) for result in results for word, revision, _ in result["said"]}
