"""A cluster of the core whose events go into a real ledger, and what a node makes of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from coterie.core.commands import Command, Outcome, ReleaseTask, StartTask
from coterie.core.nouns import TaskId
from coterie.core.state import ClusterState
from coterie.node.blob_errors import BlobDamaged
from coterie.node.clock import Clock
from coterie.node.debugger.gather import Historian
from coterie.node.debugger.model import History
from coterie.node.errors import ApiError, not_found
from coterie.node.ledger import Ledger
from coterie.node.ledger.feed import feed
from coterie.node.llm.completion import OBJECT
from coterie.node.reads import Reader
from tests.core.runs.world import World
from tests.node.fakes import FakeEngine

START_MS = 1_700_000_000_000


class Recorded(World):
    """`blobs`: contents by their hashes."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(now_ms=START_MS)
        self.ledger = ledger
        self.blobs: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        engine: Any = FakeEngine()
        self.reader = Reader(engine, self._state, ledger, Clock(), lambda: False)
        self.historian = Historian(self._state, self.reader, ledger, self._read)

    @classmethod
    @asynccontextmanager
    async def at(cls, folder: Path) -> AsyncIterator[Recorded]:
        ledger = await Ledger.open(folder / "ledger.db")
        try:
            yield cls(ledger)
        finally:
            await ledger.close()

    def _state(self) -> ClusterState:
        return self.state

    async def _read(self, sha256: str) -> AsyncIterator[bytes]:
        if sha256 not in self.blobs:
            raise not_found("BLOB", sha256)
        yield self.blobs[sha256][:10]
        if sha256 in self.damaged:
            raise BlobDamaged("not what was stored")
        yield self.blobs[sha256][10:]

    def do(self, command: Command) -> Outcome:
        before = len(self.events)
        outcome = super().do(command)
        feed(self.ledger, self.index, self.events[before:])
        return outcome

    def start(self, name: str, node: str = "n1") -> None:
        """Assigned to the node, and begun there."""
        self.assign(name, node)
        self.do(StartTask(TaskId(name), self.task(name).attempt))

    def lose(self, name: str, reason: str) -> None:
        self.do(ReleaseTask(TaskId(name), self.task(name).attempt, reason, lost=True))

    async def history(self, task_id: str, tasks_max: int = 500) -> History:
        return await self.historian.of(TaskId(task_id), 5.0, tasks_max)

    async def refusal(self, task_id: str) -> str:
        """The reason of the refusal."""
        try:
            await self.history(task_id)
        except ApiError as error:
            return error.reason
        return ""


def answer_of_model(text: str, micro_usd: int, **more: Any) -> bytes:
    """An answer as a step records it."""
    usage = {"tokens_in": 100, "tokens_out": 20, "tokens_cached": 0, "micro_usd": micro_usd}
    facts = {"provider": "main", "call": 1, "attempt": 1, "stream": 1, "usage": usage}
    return json.dumps({"object": OBJECT, "text": text, "model": "m-1", **facts, **more}).encode()
