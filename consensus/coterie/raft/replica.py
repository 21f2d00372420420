"""One node's copy of the state: the machine that the Raft engine drives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from coterie.core.audit import AuditRecord
from coterie.core.commands import Command, Outcome, RecordStep, Rejected
from coterie.core.machine import apply
from coterie.core.nouns import Event
from coterie.core.state import ClusterState, Moment
from coterie.raft import codec
from coterie.raft.errors import NewerVersion

OnEvents = Callable[[int, Sequence[Event]], None]
OnNoted = Callable[[Sequence[AuditRecord]], None]
TIDY_RECORDS = 500
AHEAD_MAX, AHEAD_BYTES_MAX = 256, 64 * 1024
Decoded = list[Command | None] | None
UNDECODABLE = Rejected("UNDECODABLE", "the entry is broken")


class Replica:
    """Applies log entries to the state and hands the events of each entry, with its index, to `on_events`
    (called inside apply: it must only take note)."""

    def __init__(self, on_events: OnEvents, on_restore: Callable[[int], None]) -> None:
        self.state = ClusterState()
        self._on_events = on_events
        self._on_restore = on_restore
        self.on_noted: OnNoted = lambda noted: None  # called before on_events, with what the entry brought
        self._news = True
        self._ahead: dict[bytes, Decoded] = {}  # entries that were looked at before they were applied

    def understands(self, entry: bytes) -> bool:
        """See coterie.core.ports.DiscerningMachine. What is decoded here need not be when it is applied."""
        try:
            commands = codec.decode_batch(entry)
        except NewerVersion:
            return False
        if commands is None or any(command is None for command in commands):
            return False  # it would be refused by every node, and stay in the log all the same
        if len(entry) <= AHEAD_BYTES_MAX:
            self._ahead[entry] = commands
            if len(self._ahead) > AHEAD_MAX:
                del self._ahead[next(iter(self._ahead))]
        return True

    def apply(self, index: int, at_ms: int, entry: bytes) -> list[Outcome]:
        """See coterie.core.ports.Machine. The result is one outcome per command. Raises NewerVersion when it
        is not known here what the entry means."""
        commands = self._ahead.pop(entry) if entry in self._ahead else codec.decode_batch(entry)
        if commands is None:
            return [UNDECODABLE]
        moment = Moment(index, at_ms)
        outcomes = [self._apply(command, moment) for command in commands]
        events, self.state.outbox = self.state.outbox, []
        if self.state.noted:
            noted, self.state.noted = self.state.noted, []
            self.on_noted(noted)
        self._on_events(index, events)
        self._news = self._news or not _are_steps(commands, events)
        return outcomes

    def take_news(self) -> bool:
        """See coterie.core.ports.ReticentMachine: the completed steps of running tasks are no news. They come
        by the hundred, and whoever compares the whole state with reality would find nothing to do."""
        news, self._news = self._news, False
        return news

    def _apply(self, command: Command | None, moment: Moment) -> Outcome:
        return UNDECODABLE if command is None else apply(self.state, command, moment)

    def freeze(self) -> Iterator[bytes]:
        """See coterie.core.ports.Machine. Tasks are not copied: see TaskImage."""
        pieces = _image(self.state)
        return chain([next(pieces)], pieces)  # it has begun, so that it is closed when it is dropped

    def begin_restore(self) -> Reconstruction:
        return Reconstruction(self)

    def adopt(self, state: ClusterState, index: int) -> ClusterState:
        """Another state from now on; returns the one that was in use."""
        before, self.state = self.state, state
        self._news = True
        self._on_restore(index)
        return before

    def restore(self, chunks: Iterable[bytes], index: int) -> None:
        self.adopt(codec.decode_state(chunks), index)


def _image(state: ClusterState) -> Iterator[bytes]:
    tasks = state.image_of_tasks()
    try:
        yield from codec.encode_state(state.copy_of_the_rest(), tasks)
    finally:
        tasks.close()


def _are_steps(commands: Sequence[Command | None], events: Sequence[Event]) -> bool:
    """Each command recorded a step, and brought nothing about beside that: no start, no end."""
    return 0 < len(commands) == len(events) and all(
        type(command) is RecordStep and event.type == "step"
        for command, event in zip(commands, events, strict=True)
    )


class Reconstruction:
    """See coterie.core.ports.Restoring."""

    def __init__(self, replica: Replica) -> None:
        self._replica, self._state = replica, ClusterState()
        self._rebuilding = self._state.rebuilding()
        self._old: list[dict[Any, Any]] = []

    def feed(self, chunk: bytes) -> None:
        codec.read_slice(self._state, chunk)

    def settle(self) -> bool:
        return next(self._rebuilding, self) is not self

    def adopt(self, index: int) -> None:
        old = self._replica.adopt(self._state, index)
        if not old.images:  # else somebody still reads the tasks
            self._old = [old.tasks, old.steps, old.requests, old.finished]

    def tidy(self) -> bool:
        while self._old and not self._old[-1]:
            self._old.pop()
        for _ in range(min(TIDY_RECORDS, len(self._old[-1]) if self._old else 0)):
            self._old[-1].popitem()
        return bool(self._old)
