"""An attempt whose task says no time ends all the same where it hangs outside its process."""

from __future__ import annotations

import asyncio

import pytest

from coterie.core.commands import ExpireTask, FinishTask
from coterie.core.nouns import Constraints, Data, ExpiryKind, evolve
from coterie.core.ports import NotCommitted
from coterie.core.skillbook import PIN, SkillEntry, SkillPolicy, SkillRevision
from coterie.node.attempt_limit import own_limit_ms
from coterie.node.blob_errors import BlobDiskFull
from coterie.node.errors import _unavailable
from coterie.node.job import Job
from coterie.node.skillhost import SkillOutcome
from coterie.node.skillhost.nouns import SkillInfo
from tests.node.test_job import T1, Bench, task

EXPIRED = (T1, 1, ExpiryKind.ATTEMPT)


class HangingBench(Bench):
    """Its input, or the place for its result, is never there; its attempt may take a moment."""

    def __init__(self, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr("coterie.node.attempt_limit.SLACK_S", 0.01)
        monkeypatch.setattr("coterie.node.patient_blobs.ROOM_PAUSE_S", 0.001)
        self.at, self.factory.default_timeout_ms = at, lambda: 10

    async def hang(self) -> Job:
        if self.at == "input":
            self.blobs.faults = [_unavailable("NO_QUORUM", "1 of 3 nodes")] * 100_000
            return self.start()
        job = self.start()
        await self.host.started.wait()
        self.blobs.faults = [BlobDiskFull("full")] * 100_000
        self.host.end.set_result(SkillOutcome("succeeded", b"42"))
        return job

    async def asked(self, times: int) -> None:
        async with asyncio.timeout(20):
            while len(self.proposer.committed) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    @property
    def expired(self) -> list[tuple[str, int, ExpiryKind]]:
        commands = self.proposer.committed
        return [(c.task_id, c.attempt, c.kind) for c in commands if isinstance(c, ExpireTask)]


@pytest.mark.parametrize("at", ["input", "result"])
async def test_an_attempt_that_hangs_outside_its_process_ends_when_its_time_is_over(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task says no time: the leader does not know one. Said again until the worker stops the job."""
    bench = HangingBench(at, monkeypatch)
    job = await bench.hang()
    bench.proposer.faults = [NotCommitted("no leader")]
    await bench.asked(2)
    job.stop()
    await asyncio.gather(job.done, return_exceptions=True)
    assert set(bench.expired) == {EXPIRED} and len(bench.expired) == len(bench.proposer.committed)
    said = len(bench.expired)
    await asyncio.sleep(0.05)
    assert len(bench.expired) == said, "it is not ours any more"


async def test_nothing_ends_an_attempt_of_a_skill_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = HangingBench("result", monkeypatch)
    bench.host.skills = {"echo": SkillInfo("echo", "1", "", 0, "none")}
    job = await bench.hang()
    await asyncio.sleep(0.1)
    bench.blobs.faults.clear()
    await job.done
    assert bench.proposer.committed == [FinishTask(T1, 1, Data(b"42"))]


async def test_what_has_ended_in_time_is_not_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = HangingBench("result", monkeypatch)
    bench.start()
    bench.host.end.set_result(SkillOutcome("succeeded", b"42"))
    await bench.job.done
    await asyncio.sleep(0.1)
    assert bench.proposer.committed == [FinishTask(T1, 1, Data(b"42"))]


SHA = "a" * 64


@pytest.mark.parametrize(
    ("on_disk_ms", "policy_ms", "manifest", "limit_ms"),
    [
        (70, 0, None, 70),
        (0, 0, None, 0),
        (None, 0, None, 600),
        (70, 50, None, 50),
        (0, 50, None, 50),
        (70, 0, '{"timeout_ms": 90}', 90),
        (70, 0, "{}", 600),
        (70, 50, '{"timeout_ms": 90}', 50),
    ],
)
def test_the_operator_comes_before_the_skill_and_this_before_the_cluster(
    on_disk_ms: int | None, policy_ms: int, manifest: str | None, limit_ms: int
) -> None:
    revisions = () if manifest is None else (SkillRevision(SHA, manifest=manifest),)
    book = {"echo": SkillEntry("echo", revisions, policy=SkillPolicy(timeout_ms=policy_ms))}
    skills = {"echo": SkillInfo("echo", "1", "", on_disk_ms, "none")}
    constraints = Constraints() if manifest is None else Constraints(skill_version=PIN + SHA)
    asked = evolve(task(), constraints=constraints)
    assert own_limit_ms(asked, book, skills, 600) == limit_ms
    assert own_limit_ms(evolve(asked, attempt_timeout_ms=7), book, skills, 600) == 0


def test_what_is_known_no_more_has_the_time_of_the_cluster() -> None:
    pinned = evolve(task(), constraints=Constraints(skill_version=PIN + SHA))
    assert own_limit_ms(pinned, {}, {}, 600) == own_limit_ms(task(), {}, {}, 600) == 600
