"""A Raft cluster in one event loop: real engines, real files and fsync, links in memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from coterie.raft.engine import RaftEngine
from coterie.raft.errors import BadFrame, FatalRaftError
from coterie.raft.options import RaftOptions

PATIENCE_S = 30.0


class ListMachine:
    """Remembers every entry in order; the result of an entry is its position."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.indexes: list[int] = []
        self.times: list[int] = []
        self.restored_at: list[int] = []

    def apply(self, index: int, at_ms: int, entry: bytes) -> object:
        self.entries.append(entry)
        self.indexes.append(index)
        self.times.append(at_ms)
        return len(self.entries)

    def freeze(self) -> Iterator[bytes]:
        return iter([entry for entry in self.entries])

    def restore(self, chunks: Iterable[bytes], index: int) -> None:
        self.entries = list(chunks)
        self.indexes, self.times = [], []
        self.restored_at.append(index)

    def digest(self) -> str:
        return hashlib.sha256(b"\0".join(self.entries)).hexdigest()


class Cluster:
    """Nodes that can be cut off, stopped and started again."""

    def __init__(self, root: Path, count: int = 3, **settings: object) -> None:
        self.ids = tuple(f"n{number}" for number in range(1, count + 1))
        self.root, self.settings = root, settings
        self.engines: dict[str, RaftEngine] = {}
        self.machines: dict[str, ListMachine] = {}
        self.fatal: dict[str, FatalRaftError] = {}
        self.hooked: list[tuple[str, int]] = []
        self._links: dict[tuple[str, str], Callable[[bytes], None]] = {}
        self._cut: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()

    def options(self, node: str) -> RaftOptions:
        defaults: dict[str, object] = {"election_timeout_ms": 300, "heartbeat_ms": 50}
        return RaftOptions(
            node_id=node,
            peers=self.ids,
            data_dir=self.root / node,
            **(defaults | self.settings),  # type: ignore[arg-type]
        )

    async def start(self, *nodes: str) -> None:
        for node in nodes or self.ids:
            await self._start(node)
        for node in nodes or self.ids:
            for other in self.engines:
                if other != node and (node, other) not in self._links:
                    self.connect(node, other)

    async def _start(self, node: str) -> None:
        async def hook(index: int) -> None:
            self.hooked.append((node, index))

        machine = ListMachine()
        engine = RaftEngine(
            self.options(node),
            machine,
            on_fatal=lambda error: self.fatal.__setitem__(node, error),
            on_change=self._changed.set,
            before_compaction=hook,
        )
        await engine.start()
        self.engines[node], self.machines[node] = engine, machine

    async def stop(self, *nodes: str) -> None:
        for node in nodes or tuple(self.engines):
            for other in self.ids:
                self.disconnect(node, other)
            engine = self.engines.pop(node, None)
            if engine is not None:
                await engine.stop()

    def connect(self, a: str, b: str) -> None:
        for here, there in ((a, b), (b, a)):
            self._links[here, there] = self._pipe(here, there)
        for here, there in ((a, b), (b, a)):
            self.engines[here].link_up(there, self._links[here, there], self.engines[there].disk_id)

    def _pipe(self, here: str, there: str) -> Callable[[bytes], None]:
        loop = asyncio.get_running_loop()

        def deliver(frame: bytes) -> None:
            if self._links.get((here, there)) is not write or (here, there) in self._cut:
                return
            try:
                self.engines[there].receive(here, frame)
            except BadFrame as error:
                raise AssertionError("our own frames must be good") from error

        def write(frame: bytes) -> None:
            loop.call_soon(deliver, frame)

        return write

    def disconnect(self, a: str, b: str) -> None:
        for here, there in ((a, b), (b, a)):
            write = self._links.pop((here, there), None)
            if write is not None and here in self.engines:
                self.engines[here].link_down(there, write)

    def isolate(self, node: str) -> None:
        for other in self.ids:
            if other != node:
                self._cut |= {(node, other), (other, node)}

    def cut_one_way(self, here: str, there: str) -> None:
        self._cut.add((here, there))

    def heal(self) -> None:
        self._cut.clear()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition; the engines' bells wake us, and a slow poll for what has no bell."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while not condition():
            left = deadline - asyncio.get_running_loop().time()
            assert left > 0, f"not within {PATIENCE_S} s: {what}; {self.describe()}"
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, 0.02))
            except TimeoutError:
                continue

    async def leader(self, *among: str) -> str:
        """The node that leads, and that the others follow."""
        nodes = among or tuple(self.engines)

        def agreed() -> bool:
            names = {self.engines[node].leader for node in nodes}
            return len(names) == 1 and "" not in names and all(self.engines[n].has_quorum for n in nodes)

        await self.until(agreed, f"one leader among {nodes}")
        return self.engines[nodes[0]].leader

    async def followers(self) -> list[str]:
        leader = await self.leader()
        return [node for node in self.engines if node != leader]

    async def same_state(self) -> None:
        def same() -> bool:
            applied = {engine.applied_index for engine in self.engines.values()}
            return (
                len(applied) == 1
                and len({m.digest() for n, m in self.machines.items() if n in self.engines}) == 1
            )

        await self.until(same, "equal states")

    def describe(self) -> str:
        return "; ".join(
            f"{node}: leader {engine.leader!r} term {engine.term} commit {engine.commit_index} "
            f"applied {engine.applied_index}"
            for node, engine in self.engines.items()
        )


@contextlib.asynccontextmanager
async def running(root: Path, count: int = 3, **settings: Any) -> AsyncIterator[Cluster]:
    cluster = Cluster(root, count, **settings)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
    assert cluster.fatal == {}
