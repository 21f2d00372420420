"""A link to no cluster, behind the real SkillContext, and sample documents."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie.skills import jsonio
from coterie.skills.context import SkillContext
from coterie.skills.document_map import handler as mapper
from coterie.skills.link import RunFacts


class FakeLink:
    """Keeps what a skill records."""

    def __init__(self) -> None:
        self.steps: dict[str, bytes] = {}
        self.checkpoints: list[bytes] = []
        self.progress: list[tuple[float, str]] = []

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        self.steps[key] = result

    async def save_checkpoint(self, state: bytes) -> None:
        self.checkpoints.append(state)

    async def wait(self, reason: str, name: str, seen: int, timeout_ms: int) -> bytes | None:
        return None

    async def call(self, name: str, args: Any) -> Any:
        raise NotImplementedError(name)

    def report_progress(self, percent: float, message: str) -> None:
        self.progress.append((percent, message))

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        return function()


def context(
    link: FakeLink,
    attempt: int = 1,
    steps: dict[str, bytes] | None = None,
    checkpoint: bytes | None = None,
    task_id: str = "task-1",
    settings: Mapping[str, Any] | None = None,
) -> SkillContext:
    """The context a child process would make for this run."""
    facts = RunFacts(task_id, attempt, "node-1", steps or {}, checkpoint, 8 * 1024 * 1024, 8 * 1024 * 1024)
    facts = replace(facts, settings=dict(settings or {}))
    return SkillContext(facts, link, logging.getLogger("test"))


async def mapped(path: str, text: str) -> dict[str, Any]:
    """The result of document-map as another program sees it: through JSON."""
    result = await mapper.run(context(FakeLink()), {"path": path, "text": text})
    decoded: dict[str, Any] = jsonio.decode(jsonio.encode(result, "the result", 1 << 20))
    return decoded


SOURCE = '''"""Reads things. It reads them one by one, and then it stops."""

import os
from . import sibling
from .deep.er import name
from ..outer import thing


class Reader:
    """A reader."""

    def read(self, items, *, limit=3):  # TODO: read faster
        # FIXME this is wrong
        for item in items:
            if item and limit:
                return item
            elif limit > 2:
                continue
            elif limit > 1:
                pass
            else:
                with open(item) as file:
                    return [line for line in file if line]
        return "# XXX not a comment"


def undocumented():
    def inner():
        return 1 if os else 2
    return inner
'''
