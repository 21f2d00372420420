"""Hosts, jobs and conditions for the tests of skills."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.node.skillhost import SkillHost, SkillHostOptions, SkillJob, SkillOutcome
from coterie.node.skillhost.nouns import SkillWait, Suspended
from coterie.skills import Fenced
from coterie.skills.limits import Limits
from coterie.skills.registry import SHIPPED_DIR

SAMPLES = Path(__file__).with_name("samples.py")
WAIT_S = 20.0


@dataclass
class RecordingPort:
    """A port that keeps what it gets, and can be told to refuse."""

    steps: dict[str, bytes] = field(default_factory=dict)
    beside: dict[str, tuple[str, ...]] = field(default_factory=dict)
    checkpoints: list[Any] = field(default_factory=list)
    progress: list[tuple[float, str]] = field(default_factory=list)
    signals: dict[str, list[bytes | None]] = field(default_factory=dict)
    waits: list[SkillWait] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    answer: Any = None
    refuse: Exception | None = None
    reported: asyncio.Event = field(default_factory=asyncio.Event)

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse
        self.steps[key] = result
        if beside:
            self.beside[key] = tuple(beside)

    async def save_checkpoint(self, state: bytes) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.checkpoints.append(json.loads(state))
        self.reported.set()

    async def wait(self, wait: SkillWait) -> bytes | None:
        """The n-th signal of a name that it was given; suspended where there is none."""
        if self.refuse is not None:
            raise self.refuse
        self.waits.append(wait)
        told = self.signals.get(wait.name, [])
        if len(told) <= wait.seen:
            raise Suspended
        return told[wait.seen]

    async def call(self, name: str, args: bytes) -> bytes:
        self.calls.append((name, json.loads(args)))
        if self.refuse is not None:
            raise self.refuse
        return json.dumps(self.answer).encode()

    def report_progress(self, percent: float, message: str) -> None:
        self.progress.append((percent, message))
        self.reported.set()


class Bench:
    """A started host, and short ways to use it."""

    def __init__(self, host: SkillHost) -> None:
        self.host = host
        self.logged: list[tuple[str, int, str, str]] = []
        self._count = 0
        host.on_skill_log = lambda *record: self.logged.append(record)

    def job(self, skill: str, given: Any = None, **changes: Any) -> SkillJob:
        self._count += 1
        fields: dict[str, Any] = {
            "task_id": f"task-{self._count}",
            "attempt": 1,
            "skill": skill,
            "payload": json.dumps(given).encode(),
            "steps": {},
            "checkpoint": None,
            "timeout_ms": 0,
        }
        return SkillJob(**(fields | changes))

    async def run(
        self, skill: str, given: Any = None, *, port: RecordingPort | None = None, **changes: Any
    ) -> SkillOutcome:
        job = self.job(skill, given, **changes)
        return await asyncio.wait_for(self.host.run(job, port or RecordingPort()), WAIT_S)

    async def value(self, skill: str, given: Any = None, **changes: Any) -> Any:
        outcome = await self.run(skill, given, **changes)
        assert outcome.kind == "succeeded", outcome
        return json.loads(outcome.result)

    async def begin(
        self, skill: str, given: Any = None, **changes: Any
    ) -> tuple[asyncio.Task[SkillOutcome], SkillJob]:
        """Start a run and return once the skill has said something."""
        port = RecordingPort()
        job = self.job(skill, given, **changes)
        task = asyncio.create_task(self.host.run(job, port))
        await asyncio.wait_for(port.reported.wait(), WAIT_S)
        self.port = port
        return task, job


def options(*skill_dirs: Path, **changes: Any) -> SkillHostOptions:
    """Options for a small host with the samples and the shipped skills."""
    limits = Limits(**changes.pop("limits", {}))
    fields: dict[str, Any] = {"node_id": "n1", "max_children": 4} | changes
    return SkillHostOptions(skill_dirs=skill_dirs or (SAMPLES, SHIPPED_DIR), limits=limits, **fields)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fail with its name when it does not come."""
    give_up_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_at, f"waited in vain: {what}"
        await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def children_of(pid: int) -> set[int]:
    """All living descendants of a process, near and far."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{int(name)}/stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                parents[int(name)] = int(fields[1])
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= level
    return found


def open_fds(pid: int | None = None) -> int:
    """Open descriptors of a process; by default of this one."""
    return len(os.listdir(f"/proc/{pid or 'self'}/fd"))


def as_steps(results: Mapping[str, Any]) -> dict[str, bytes]:
    """Step results as a node would hand them to a resumed run."""
    return {key: json.dumps(value).encode() for key, value in results.items()}


FENCED = Fenced("attempt 1 was deposed")
