"""The real replica of a simulated node, and the book that compares all of them entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from coterie.core.commands import Outcome
from coterie.core.nouns import Event
from coterie.core.state import ClusterState
from coterie.raft.replica import Replica
from tests.sim.raft.checks import SimMachine, Violation

Entry = tuple[bytes, int, list[Outcome]]


@dataclass(slots=True)
class Applied:
    """What was applied where: the first node to apply an entry says what all others must get."""

    log: dict[int, Entry] = field(default_factory=dict)
    commands: int = 0

    def note(self, node: str, index: int, at_ms: int, entry: bytes, outcomes: list[Outcome]) -> None:
        known = self.log.get(index)
        if known is None:
            self.log[index] = (entry, at_ms, outcomes)
            self.commands += len(outcomes)
        elif known[:2] != (entry, at_ms):
            raise Violation(f"{node} applied another entry at {index}")
        elif known[2] != outcomes:
            raise Violation(f"{node} got {outcomes} at {index}, another node {known[2]}")


class ClusterMachine(SimMachine):
    """Drives the product's replica; the process of the node hears of changes through `on_change`."""

    def __init__(self, node: str, applied: Applied) -> None:
        self._node, self._applied = node, applied
        self.index = 0
        self.on_change: Callable[[], None] = lambda: None
        self.replica = Replica(self._on_events, self._on_restore)

    @property
    def state(self) -> ClusterState:
        return self.replica.state

    def apply(self, index: int, at_ms: int, entry: bytes) -> object:
        if index <= self.index:
            raise Violation(f"{self._node} applied {index} after {self.index}")
        self.index = index
        outcomes = self.replica.apply(index, at_ms, entry)
        self._applied.note(self._node, index, at_ms, entry, outcomes)
        if self.replica.take_news():
            self.on_change()
        return outcomes

    def freeze(self) -> Iterator[bytes]:
        return self.replica.freeze()

    def restore(self, chunks: Iterable[bytes], index: int) -> None:
        if index < self.index:
            raise Violation(f"{self._node} restored {index} after {self.index}")
        self.index = index
        self.replica.restore(chunks, index)

    def _on_events(self, index: int, events: Sequence[Event]) -> None:
        """Looked at when the entry is applied."""

    def _on_restore(self, index: int) -> None:
        self.on_change()
