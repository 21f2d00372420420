"""Runs of shipped skills in this process, with a link that records, replays and crashes."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from coterie.skills import Fenced
from coterie.skills.context import SkillContext
from coterie.skills.limits import Limits
from coterie.skills.link import RunFacts
from coterie.skills.registry import SHIPPED_DIR, Skill, discover, load
from coterie.skills.runner import Outcome, run_skill

SHIPPED: dict[str, Skill] = {}


class Crash(Fenced):
    """The attempt ends here, before what it did is recorded."""


class Journal:
    """The cluster's side of one task: what is recorded stays from attempt to attempt."""

    def __init__(self) -> None:
        self.steps: dict[str, bytes] = {}
        self.begun: dict[str, int] = {}
        self.attempt = 0
        self.crash_before_record = False
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.permissions: Mapping[str, Any] | None = None

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        """Recorded, unless the attempt is to die."""
        if self.crash_before_record and key in self.begun:
            raise Crash("the attempt dies here")
        self.steps[key] = result

    async def save_checkpoint(self, state: bytes) -> None:
        raise NotImplementedError

    def report_progress(self, percent: float, message: str) -> None:
        pass

    async def wait(self, reason: str, name: str, seen: int, timeout_ms: int) -> bytes | None:
        raise NotImplementedError

    async def call(self, name: str, args: Any) -> Any:
        """What a node answers."""
        self.asked.append((name, args))
        if name == "agent.permissions":
            return self.permissions
        if name == "effects.begin":
            return self._begin(args)
        if name == "effects.withdraw":
            del self.begun[args["key"]]
            return None
        return self.answers[name](args)

    def _begin(self, args: Any) -> dict[str, Any]:
        tries = self.begun[args["key"]] = self.begun.get(args["key"], 0) + 1
        if tries > 1 and args["on_unknown"] != "retry":
            return {"in_doubt": f"policy {args['on_unknown']}"}
        return {"attempt": self.attempt, "tries": tries}

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(function)


async def attempt(
    skill: str, given: Any, settings: Mapping[str, Any] | None = None, journal: Journal | None = None
) -> Outcome:
    """One attempt of a task of this skill."""
    journal = journal or Journal()
    journal.attempt += 1
    limits = Limits()
    facts = RunFacts("task-1", journal.attempt, "n1", dict(journal.steps), settings=dict(settings or {}))
    ctx = SkillContext(facts, journal, logging.getLogger("test"))
    ctx.effects = _effects(skill)
    return await run_skill(shipped(skill), ctx, json.dumps(given).encode(), limits)


async def value(skill: str, given: Any, settings: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """The result of an attempt that succeeds."""
    outcome = await attempt(skill, given, settings, **more)
    assert outcome.kind == "succeeded", dataclasses.replace(outcome, result=b"")
    return json.loads(outcome.result)


async def refusal(skill: str, given: Any, settings: Mapping[str, Any] | None = None, **more: Any) -> Outcome:
    """The end of an attempt that fails for good."""
    outcome = await attempt(skill, given, settings, **more)
    assert outcome.kind == "failed" and not outcome.retryable, outcome
    return outcome


def shipped(name: str) -> Skill:
    """A shipped skill, loaded as a node does."""
    if not SHIPPED:
        sources, problems = discover([SHIPPED_DIR])
        assert problems == []
        SHIPPED.update({skill.name: skill for source in sources for skill in load(source)})
    return SHIPPED[name]


def _effects(name: str) -> Any:
    return shipped(name).effects


def hide(monkeypatch: pytest.MonkeyPatch, library: str, skill: str, *modules: str) -> None:
    """As if the library were not installed: neither it nor the skill's modules that use it are loaded."""
    package = importlib.import_module(f"coterie.skills.{skill}")
    for module in modules:
        monkeypatch.delattr(package, module, raising=False)
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
