"""Time goes on while a step is taken: what the step has not decided, the library's own timer must not do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from coterie.raft.member import Member
from coterie.raft.options import RaftOptions
from tests.raft.group import ManualClock
from tests.raft.inprocess import ListMachine
from tests.sim.raft.disk import SimDisk


class RunningClock(ManualClock):
    """Goes on with every look at it, so that sooner or later an election is due between any two looks."""

    def monotonic(self) -> float:
        self.now_ms += 1
        return super().monotonic()


def options(join: bool) -> RaftOptions:
    return RaftOptions(
        node_id="n1",
        peers=() if join else ("n1", "n2", "n3"),
        join=join,
        data_dir=Path("n1"),
        election_timeout_ms=100,
        heartbeat_ms=20,
    )


@pytest.mark.parametrize("join", [True, False], ids=["without a configuration", "without an answer"])
def test_nobody_leads_or_raises_its_term_unasked(join: bool) -> None:
    rng = random.Random(7)
    member = Member(options(join), ListMachine(), SimDisk(rng), RunningClock(), rng)
    if not join:
        member.link_up("n2", "0" * 16)
    for _ in range(4_000):
        member.step()
        for job in member.take_jobs():
            job.work()
            member.job_done(job, 0.0)
        member.take_frames()
        assert (member.term, member.is_leader) == (0, False)
