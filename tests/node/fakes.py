"""A node without its network: state, ledger, hub and reader over a pretended engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coterie.core.commands import Command, FinishTask, Outcome
from coterie.core.machine import apply
from coterie.core.nouns import Data, TaskId
from coterie.core.ports import NoQuorum
from coterie.core.state import ClusterState, Moment
from coterie.node.clock import Clock
from coterie.node.hub import Hub
from coterie.node.ledger import Ledger
from coterie.node.ledger.feed import feed
from coterie.node.reads import Reader
from coterie.node.watch import Watcher
from coterie.raft import codec
from tests.core.builders import CoreCluster


class FakeEngine:
    """Has a majority, or has not."""

    has_quorum = True

    async def read_barrier(self, timeout_s: float) -> int:
        if not self.has_quorum:
            raise NoQuorum("cut off")
        return 0


class QuietNode:
    """Applies commands as a node does; can lose sight of them as one does that gets a snapshot."""

    def __init__(self, ledger: Ledger) -> None:
        self.core = CoreCluster().with_node("n1", capacity=100)
        self.engine, self.hub, self.ledger = FakeEngine(), Hub(), ledger
        self.catching_up = False
        engine: Any = self.engine
        self.reader = Reader(engine, self.state, ledger, Clock(), lambda: self.catching_up)
        self.watcher = Watcher(self.hub, self.reader, ledger, lambda: self.engine.has_quorum)

    @classmethod
    async def open(cls, folder: Path) -> QuietNode:
        return cls(await Ledger.open(folder / "ledger.db"))

    def state(self) -> ClusterState:
        return self.core.state

    def do(self, command: Command, *, seen: bool = True) -> Outcome:
        """Apply; `seen`: this node applied the entry itself, so its ledger and its waiters hear of it."""
        core = self.core
        core.index += 1
        core.now_ms += 1
        outcome = apply(core.state, command, Moment(core.index, core.now_ms))
        events, core.state.outbox = core.state.outbox, []
        if seen:
            feed(self.ledger, core.index, events)
            self.hub.publish(events)
        return outcome

    def restore(self) -> None:
        """What a snapshot does: another state, of which nobody heard."""
        self.core.state = codec.decode_state(codec.encode_state(self.core.state))
        self.ledger.note_snapshot(self.core.index)

    def finish(self, task_id: str, *, seen: bool = True) -> None:
        self.do(FinishTask(TaskId(task_id), self.core.task(task_id).attempt, Data(b"42")), seen=seen)

    def forget_finished(self) -> None:
        """Evict what has ended from the state, as time does."""
        self.core.state.finished.clear()
