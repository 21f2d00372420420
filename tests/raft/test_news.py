"""Which entries make a node compare state with reality: all but completed steps of running tasks."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from coterie.core.commands import (
    AssignTask,
    Command,
    RecordStep,
    RegisterNode,
    ReportProgress,
    SaveCheckpoint,
    StartTask,
)
from coterie.core.nouns import Data, NodeId, SkillRef, TaskId
from coterie.raft import codec
from coterie.raft.replica import Replica
from tests.core.builders import submit_command
from tests.raft.inprocess import ListMachine, running
from tests.raft.test_engine import TIMEOUT_S

INDEXES = itertools.count(1)
NODE, TASK = NodeId("n1"), TaskId("t1")


def applied(replica: Replica, *commands: Command) -> bool:
    """Whether that was news."""
    index = next(INDEXES)
    replica.apply(index, index, codec.encode_batch(list(commands)))
    return replica.take_news()


def scheduled() -> Replica:
    """A task of one node that has not begun."""
    replica = Replica(lambda index, events: None, lambda index: None)
    node = RegisterNode(NODE, "127.0.0.1:1", 1, 4, skills=(SkillRef("echo", "1"),))
    assert applied(replica, node)
    assert applied(replica, submit_command("t1"), AssignTask(TASK, NODE, 1, 1))
    return replica


def step(key: str, attempt: int = 1) -> RecordStep:
    return RecordStep(TASK, attempt, key, Data(b"1"))


def test_a_completed_step_is_no_news() -> None:
    replica = scheduled()
    assert applied(replica, StartTask(TASK, 1))
    assert not applied(replica, step("a"))
    assert not applied(replica, step("b"), step("c"))
    assert not replica.take_news()


def test_what_else_a_step_does_is_news() -> None:
    replica = scheduled()
    assert applied(replica, step("a"))  # it began the task
    assert applied(replica, step("a"))  # it was there: nothing happened, and nobody knows that here
    assert applied(replica, step("b", attempt=2))  # refused
    assert not applied(replica, step("b"))


@pytest.mark.parametrize(
    "other", [ReportProgress(TASK, 1, 5_000, "half"), SaveCheckpoint(TASK, 1, Data(b"{}"), 1, 1)]
)
def test_whatever_travels_with_a_step_is_news(other: Command) -> None:
    replica = scheduled()
    applied(replica, StartTask(TASK, 1))
    assert applied(replica, step("a"), other)
    assert applied(replica, other, step("b"))


def test_news_waits_until_it_is_taken() -> None:
    replica = scheduled()
    replica.apply(98, 98, codec.encode_batch([StartTask(TASK, 1)]))
    replica.apply(99, 99, codec.encode_batch([step("a")]))
    assert replica.take_news() and not replica.take_news()
    replica.restore(list(codec.encode_state(replica.state)), 100)
    assert replica.take_news()


class Quiet(ListMachine):
    """Entries that begin with a q are no news."""

    news = True

    def apply(self, index: int, at_ms: int, entry: bytes) -> object:
        self.news |= not entry.startswith(b"q")
        return super().apply(index, at_ms, entry)

    def take_news(self) -> bool:
        news, self.news = self.news, False
        return news


async def test_the_bell_does_not_ring_for_what_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.raft.inprocess.ListMachine", Quiet)
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        rung: list[int] = []
        engine = cluster.engines[leader]
        await engine.propose(b"first", TIMEOUT_S)
        engine.on_change = lambda: rung.append(engine.applied_index)
        await engine.read_barrier(TIMEOUT_S)
        rung.clear()
        quiet = [await engine.propose(b"q%d" % number, TIMEOUT_S) for number in range(5)]
        assert not [one for one in quiet if one.index in rung]
        loud = await engine.propose(b"loud", TIMEOUT_S)
        await engine.read_barrier(TIMEOUT_S)
        assert loud.index in rung
