"""Group commit in virtual time, with the promises of coterie.node.proposer: the same bytes are proposed again
until the cluster answers or the caller's deadline has passed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coterie.core.commands import Command, Outcome
from coterie.core.ports import Committed, NotCommitted
from coterie.raft import codec

if TYPE_CHECKING:
    from tests.sim.cluster.process import Process

MILLISECOND = 1_000
TRY_MS = 600
RETRY_PAUSE_MS = 20

Done = Callable[[list[Outcome] | None, int], None]
"""Gets the outcomes, or None for an unknown one; and how often the commands were proposed."""


@dataclass(slots=True)
class _Item:
    batch: bytes
    count: int
    deadline_us: int
    done: Done
    tries: int = 0


class SimProposer:
    """One per process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._queue: list[_Item] = []

    def propose(self, commands: Sequence[Command], timeout_ms: int, done: Done) -> None:
        world = self._process.world
        deadline = world.now_us + timeout_ms * MILLISECOND
        self._queue.append(_Item(codec.encode_batch(commands), len(commands), deadline, done))
        if len(self._queue) == 1:
            self._process.later(world.rng.randint(20, 300), self._flush)

    def _flush(self) -> None:
        items, self._queue = self._queue, []
        self._send(items)

    def _send(self, items: list[_Item]) -> None:
        process = self._process
        late = [item for item in items if item.deadline_us <= process.world.now_us]
        for item in late:
            item.done(None, item.tries)
        items = [item for item in items if item.deadline_us > process.world.now_us]
        if not items:
            return
        for item in items:
            item.tries += 1
        left_s = (max(item.deadline_us for item in items) - process.world.now_us) / 1_000_000
        entry = b"".join(item.batch for item in items)
        try:
            process.node.member.propose(
                entry, min(TRY_MS / 1000, left_s), lambda answer: self._answered(items, answer)
            )
        except NotCommitted:
            self._again(items)
        process.kick()

    def _answered(self, items: list[_Item], answer: Committed | Exception) -> None:
        """Inside a step of the member: what follows happens after it."""
        if isinstance(answer, Committed):
            self._process.later(10, lambda: self._hand_out(items, answer))
        elif isinstance(answer, NotCommitted):
            self._again(items)
        else:
            raise answer

    def _again(self, items: list[_Item]) -> None:
        self._process.later(RETRY_PAUSE_MS * MILLISECOND, lambda: self._send(items))

    def _hand_out(self, items: list[_Item], committed: Committed) -> None:
        outcomes = committed.result
        assert isinstance(outcomes, list)
        at = 0
        for item in items:
            item.done(outcomes[at : at + item.count], item.tries)
            at += item.count
