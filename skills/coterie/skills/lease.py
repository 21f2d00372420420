"""The lease board: shared memory in which the zygote posts until when runs may run, and children their state.

No message is needed per run. A child marks itself busy *before* it reads the deadline, the zygote reads the
marks *after* the deadline has passed: whatever the interleaving, a run is either killed or never begun.
"""

from __future__ import annotations

import math
import mmap
import time
from dataclasses import dataclass
from typing import Protocol


class LeaseBoard:
    """A deadline (this machine's monotonic clock, seconds) and one busy mark per slot, shared over fork."""

    _MARKS_AT = 8

    def __init__(self, slots: int) -> None:
        self._memory = mmap.mmap(-1, self._MARKS_AT + slots)
        # A cast view stores the eight bytes at once; a reader never sees half of a deadline.
        with memoryview(self._memory) as view, view[: self._MARKS_AT] as first:
            self._deadline = first.cast("d")
        self._deadline[0] = math.inf

    @property
    def deadline(self) -> float:
        """Runs must not go on after this moment; infinite while nobody granted a lease."""
        return self._deadline[0]

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._deadline[0] = value

    @property
    def expired(self) -> bool:
        """The deadline has passed."""
        return time.monotonic() >= self._deadline[0]

    def mark(self, slot: int, busy: bool) -> None:
        """Say whether the child in `slot` runs a skill."""
        self._memory[self._MARKS_AT + slot] = busy

    def is_busy(self, slot: int) -> bool:
        """Whether the child in `slot` runs a skill."""
        return bool(self._memory[self._MARKS_AT + slot])

    def leave(self) -> None:
        """Unmap the memory in this process, for good: a confined child must not be able to write to it."""
        self._deadline.release()
        self._memory.close()


class Place(Protocol):
    """Where a child says whether it runs a skill, and sees whether it may."""

    @property
    def expired(self) -> bool:
        """The lease has run out."""

    def mark(self, busy: bool) -> None:
        """Say whether a skill runs."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One child's place on the board."""

    board: LeaseBoard
    number: int

    @property
    def expired(self) -> bool:
        """See Place."""
        return self.board.expired

    def mark(self, busy: bool) -> None:
        """See Place."""
        self.board.mark(self.number, busy)


class NoSlot:
    """The place of a confined child: the zygote counts it as running all its life."""

    expired = False

    def mark(self, busy: bool) -> None:
        """Nobody has to be told."""


NO_SLOT = NoSlot()
