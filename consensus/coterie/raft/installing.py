"""A snapshot that has arrived, on its way into the machine: in slices, beside the state in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from coterie.core.ports import Machine, Restoring, SlicedMachine
from coterie.raft import messages as m
from coterie.raft.errors import DamagedFile, DiskFull, WrongDataDir
from coterie.raft.seam import Node
from coterie.raft.snapshot import Meta, SnapshotStore

READ_BYTES = 1 << 20  # from the disk at a time


class Gathered:
    """For machines that restore in one go."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def settle(self) -> bool:
        return False

    def adopt(self, index: int) -> None:
        self._machine.restore(iter(self._chunks), index)

    def tidy(self) -> bool:
        return False


class Installing:
    """Chunks come from the disk thread and go into the machine on the event loop, a few at a time."""

    def __init__(
        self,
        machine: Machine,
        store: SnapshotStore,
        name: str,
        meta: Meta,
        asked: tuple[Node, m.SnapshotChunk],
    ) -> None:
        self.meta = meta
        self.asked = asked  # who waits for the answer, and to which message
        self.restoring: Restoring = (
            machine.begin_restore() if isinstance(machine, SlicedMachine) else Gathered(machine)
        )
        self.failed = self.reading = False
        self._store, self._name = store, name
        self._chunks = store.image(name)
        self._waiting: deque[bytes] = deque()
        self._ended = False

    @property
    def is_ready(self) -> bool:
        """There is something to do on the event loop."""
        return bool(self._waiting) or self._ended or self.failed

    def read(self) -> None:
        """A job's work. Raises DiskFull, and then it is done again."""
        size = 0
        try:
            for chunk in self._chunks:
                self._waiting.append(chunk)
                size += len(chunk)
                if size >= READ_BYTES:
                    return
            self._ended = True
        except (DamagedFile, WrongDataDir):
            self.failed = True
        except DiskFull:  # by the first step, which opens the file; one that has raised would only end
            self._chunks = self._store.image(self._name)
            raise

    def close(self) -> None:
        """A job's work: the file is not needed any more."""
        self._chunks.close()

    def discard(self) -> None:
        """Also a job's work: nobody needs it any more, give the room back."""
        self.close()
        self._store.remove(self._name)

    def work(self, goes_on: Callable[[], bool], size_max: int) -> bool:
        """Feed the machine while it may; whether all is done."""
        size, ended = 0, self._ended  # in this order: the disk thread may bring the last chunk meanwhile
        while self._waiting and size < size_max and goes_on():
            chunk = self._waiting.popleft()
            self.restoring.feed(chunk)
            size += len(chunk)
        if self._waiting or not ended:
            return False
        while goes_on():
            if not self.restoring.settle():
                return True
        return False
