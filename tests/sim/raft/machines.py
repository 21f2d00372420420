"""What the simulated nodes replicate: mostly a checksum, in a share of the runs the product's own machine."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator

from coterie.core.canonical import state_hash
from coterie.core.commands import Command, ConfigureCluster
from coterie.core.nouns import Policy
from coterie.raft import codec
from coterie.raft.replica import UNDECODABLE, Replica
from tests.core.builders import RandomLog
from tests.sim.raft.checks import Book, SimMachine, Violation

BODY_SIZES = (0, 0, 20, 120, 900, 2_600)


class Numbers:
    """Bodies for the checksum machine."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._number = rng, 0

    def __call__(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(8, "big") + bytes(self._rng.choice(BODY_SIZES))


class Commands:
    """Bodies for the product's machine: batches of commands that made sense in a history of their own. Here
    some come twice, some never and some late, so many are refused; every replica must refuse the same."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._history = RandomLog(rng.getrandbits(32))
        self._number = 0

    def __call__(self) -> bytes:
        self._number += 1
        batch: list[Command] = self._history.take(self._rng.randint(1, 4))
        # A name of its own makes every entry unlike all others.
        batch.append(ConfigureCluster("sim", f"entry {self._number}", Policy()))
        return codec.encode_batch(batch)


class CoreMachine(SimMachine):
    """coterie.core behind coterie.raft.Replica. The chain of checksums covers the outcomes; images must be
    equal to the byte, and states by their hash."""

    def __init__(self, node: str, book: Book, images: dict[int, int]) -> None:
        super().__init__(node, book)
        self._images = images  # of all nodes: index -> checksum of the image
        self._replica = Replica(lambda index, events: None, lambda index: None)

    def apply(self, index: int, at_ms: int, entry: bytes) -> object:
        outcomes = self._replica.apply(index, at_ms, entry)
        if outcomes == [UNDECODABLE]:
            raise Violation(f"{self._node} cannot decode entry {index}, which this version has proposed")
        self._salt = zlib.crc32(repr(outcomes).encode())
        return super().apply(index, at_ms, entry)

    def freeze(self) -> Iterator[bytes]:
        return self._checked(self.index, next(super().freeze()), self._replica.freeze())

    def _checked(self, index: int, head: bytes, image: Iterator[bytes]) -> Iterator[bytes]:
        """Slice by slice, while entries are applied: what comes out is the state as it was."""
        checksum = 0
        yield head
        for piece in image:
            checksum = zlib.crc32(piece, checksum)
            yield piece
        self._compare(index, checksum)

    def restore(self, chunks: Iterable[bytes], index: int) -> None:
        restoring = self.begin_restore()
        for chunk in chunks:
            restoring.feed(chunk)
        while restoring.settle():
            pass
        restoring.adopt(index)

    def begin_restore(self) -> CoreRestoring:
        return CoreRestoring(self, self._replica)

    def restored(self, head: bytes, checksum: int, index: int) -> None:
        self._restore_chain(head, index)
        self._compare(self.index, checksum)

    def _compare(self, index: int, checksum: int) -> None:
        if self._images.setdefault(index, checksum) != checksum:
            raise Violation(f"{self._node} has another image of the state after {index} than others had")

    def digest(self) -> object:
        return state_hash(self._replica.state)


class CoreRestoring:
    """See coterie.core.ports.Restoring."""

    def __init__(self, machine: CoreMachine, replica: Replica) -> None:
        self._machine, self._restoring = machine, replica.begin_restore()
        self._head, self._checksum = b"", 0

    def feed(self, chunk: bytes) -> None:
        if not self._head:
            self._head = chunk
            return
        self._checksum = zlib.crc32(chunk, self._checksum)
        self._restoring.feed(chunk)

    def settle(self) -> bool:
        return self._restoring.settle()

    def adopt(self, index: int) -> None:
        self._machine.restored(self._head, self._checksum, index)
        self._restoring.adopt(index)

    def tidy(self) -> bool:
        return self._restoring.tidy()


def machine_of(name: str, book: Book) -> Callable[[str], SimMachine]:
    """How a node gets its machine, by the name of the kind."""
    if name == "core":
        images: dict[int, int] = {}
        return lambda node: CoreMachine(node, book, images)
    return lambda node: SimMachine(node, book)


def bodies_of(name: str, rng: random.Random) -> Callable[[], bytes]:
    return Commands(rng) if name == "core" else Numbers(rng)
