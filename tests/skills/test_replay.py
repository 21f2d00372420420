"""An attempt that goes another way than the one before it fails and says where; what has a reason goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from coterie.skills import SkillContext
from coterie.skills.confine import THREAD_NAME
from coterie.skills.context import SyncSkillContext
from coterie.skills.decorator import Handler
from coterie.skills.limits import Limits
from coterie.skills.link import RunFacts
from coterie.skills.registry import Skill
from coterie.skills.replay import BESIDE_MAX, step_names
from coterie.skills.runner import Outcome, run_skill

LOG = logging.getLogger("skill")
REVISION = "c0ffee" * 10
THREADS = ThreadPoolExecutor(2, THREAD_NAME)
ANSWER = {"text": "yes", "tool_calls": [], "finish_reason": "stop", "model": "m", "provider": "p"} | {
    "usage": {"tokens_in": 1, "tokens_out": 1}
}


class Killed(BaseException):
    """The node died here."""


@dataclass
class Journal:
    """What the cluster keeps of a task; a link of each of its runs. Dies after `dies_after` more records."""

    steps: dict[str, bytes] = field(default_factory=dict)
    beside: dict[str, Sequence[str]] = field(default_factory=dict)
    checkpoint: bytes | None = None
    checkpointed: int = 0
    dies_after: int = -1
    called: list[str] = field(default_factory=list)

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        if self.dies_after == 0:
            raise Killed
        self.dies_after -= 1
        self.steps[key] = result
        if beside:
            self.beside[key] = beside

    async def save_checkpoint(self, state: bytes) -> None:
        self.checkpoint, self.checkpointed = state, len(self.steps)

    async def call(self, name: str, args: Any) -> Any:
        """An event, or an answer of a model."""
        await self.record_step(args["key"], json.dumps(ANSWER).encode(), args.get("beside", ()))
        return ANSWER

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(THREADS, function)

    def report_progress(self, percent: float, message: str) -> None: ...

    async def wait(self, reason: str, name: str, seen: int, timeout_ms: int) -> bytes | None: ...

    async def run(self, handler: Handler, attempt: int, dies_after: int = -1) -> Outcome:
        """One attempt."""
        self.dies_after, self.called = dies_after, []
        facts = RunFacts(
            "t", attempt, "n", dict(self.steps), self.checkpoint, checkpointed=self.checkpointed,
            beside=dict(self.beside), revision=REVISION,
        )  # fmt: skip
        ctx = SkillContext(facts, self, LOG)
        skill = Skill("s", "", "", 0, "none", handler, None)
        return await run_skill(skill, ctx, b"null", Limits())

    def note(self, name: str) -> str:
        """What a step does."""
        self.called.append(name)
        return name


async def do(ctx: SkillContext, journal: Journal, *names: str) -> None:
    """These steps, one after the other."""
    for name in names:
        await ctx.step(name, journal.note, name)


def sequence(journal: Journal, *names: str) -> Handler:
    """A skill of these steps."""

    async def run(ctx: SkillContext, given: Any) -> None:
        await do(ctx, journal, *names)

    return run


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    """Of a process whose threads are all the skill's own: those that other tests have left are not."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            monkeypatch.setattr(thread, "name", f"{THREAD_NAME} of another test")
    return Journal()


async def test_an_attempt_that_asks_for_another_step_fails_before_that_is_done(journal: Journal) -> None:
    await journal.run(sequence(journal, "load", "sum", "send"), 1, dies_after=2)
    ended = await journal.run(sequence(journal, "load", "mail", "send"), 2)
    assert (ended.kind, ended.code, ended.retryable) == ("failed", "NOT_DETERMINISTIC", False)
    for said in ("'mail'", "'sum'", "number 2", REVISION[:12]):
        assert said in ended.message
    assert journal.called == []


async def test_the_same_way_goes_on_where_it_was(journal: Journal) -> None:
    skill = sequence(journal, "load", "sum", "sum", "send")
    await journal.run(skill, 1, dies_after=2)
    assert (await journal.run(skill, 2)).kind == "succeeded"
    assert journal.called == ["sum", "send"] and list(journal.steps) == ["load", "sum", "sum#2", "send"]


async def test_an_attempt_that_ends_before_what_was_recorded_fails(journal: Journal) -> None:
    await journal.run(sequence(journal, "load", "sum", "send"), 1, dies_after=2)
    ended = await journal.run(sequence(journal, "load"), 2)
    assert ended.code == "NOT_DETERMINISTIC" and "ends where" in ended.message and "'sum'" in ended.message


async def test_a_plain_function_is_looked_at_too(journal: Journal) -> None:
    def skill(*names: str) -> Handler:
        def run(ctx: SyncSkillContext, given: Any) -> None:
            for name in names:
                ctx.step(name, journal.note, name)

        return run

    await journal.run(skill("load", "sum", "send"), 1, dies_after=2)
    assert (await journal.run(skill("load", "mail"), 2)).code == "NOT_DETERMINISTIC"
    assert (await journal.run(skill("load"), 2)).code == "NOT_DETERMINISTIC"
    assert (await journal.run(skill("load", "sum", "send"), 2)).kind == "succeeded"


@pytest.mark.parametrize("first", ["step", "effect", "emit", "llm"])
async def test_every_recorded_call_is_looked_at(journal: Journal, first: str) -> None:
    async def run(ctx: SkillContext, given: Any) -> None:
        if ctx.attempt == 1:
            await do(ctx, journal, "load")
        elif first == "step":
            await do(ctx, journal, "other")
        elif first == "effect":
            await ctx.effect("other", journal.note, "x")
        elif first == "emit":
            await ctx.emit("other")
        else:
            await ctx.llm("other")
        raise Killed

    await journal.run(run, 1)
    assert (await journal.run(run, 2)).code == "NOT_DETERMINISTIC"
    assert list(journal.steps) == ["load"] and journal.called == []


@pytest.mark.parametrize("dies_after", range(6))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_steps_side_by_side_may_end_in_any_order(
    journal: Journal, dies_after: int, order: tuple[int, ...]
) -> None:
    pauses = {1: order, 2: (0, 0, 0)}

    async def branch(ctx: SkillContext, number: int) -> None:
        for name in (f"a{number}", f"b{number}"):
            await asyncio.sleep(pauses[ctx.attempt][number] / 1_000)
            await do(ctx, journal, name)

    async def run(ctx: SkillContext, given: Any) -> None:
        await asyncio.gather(*(branch(ctx, number) for number in range(3)))
        await do(ctx, journal, "end")

    await journal.run(run, 1, dies_after)
    assert (await journal.run(run, 2)).kind == "succeeded"
    assert sorted(journal.steps) == ["a0", "a1", "a2", "b0", "b1", "b2", "end"]


async def test_another_step_after_steps_side_by_side_is_found(journal: Journal) -> None:
    async def run(ctx: SkillContext, given: Any) -> None:
        await asyncio.gather(*(do(ctx, journal, name) for name in ("a", "b")))
        await do(ctx, journal, "sum" if ctx.attempt == 1 else "mail")
        if ctx.attempt == 1:
            raise Killed

    await journal.run(run, 1)
    assert (await journal.run(run, 2)).code == "NOT_DETERMINISTIC"


async def test_a_step_that_failed_may_fare_better(journal: Journal) -> None:
    async def run(ctx: SkillContext, given: Any) -> None:
        for number in range(3):
            try:
                await ctx.step(f"try-{number}", fail if (ctx.attempt, number) < (1, 2) else int)
                break
            except ConnectionError:
                continue
        await do(ctx, journal, "after")
        if ctx.attempt == 1:
            raise Killed

    await journal.run(run, 1)
    assert list(journal.steps) == ["try-2", "after"] and journal.beside == {"try-2": ("try-0", "try-1")}
    assert (
        await journal.run(run, 2)
    ).kind == "succeeded"  # try-0 works now: nothing is said of what followed


async def test_nothing_is_expected_after_a_step_that_a_person_recorded(journal: Journal) -> None:
    await journal.run(sequence(journal, "load", "send"), 1)
    journal.beside["send"] = ("*",)
    assert (await journal.run(sequence(journal, "load", "again", "send"), 2)).kind == "succeeded"
    assert (await journal.run(sequence(journal, "load"), 2)).code == "NOT_DETERMINISTIC"


async def test_a_step_within_a_step_is_recorded_first(journal: Journal) -> None:
    async def run(ctx: SkillContext, given: Any) -> None:
        async def outer() -> None:
            await ctx.llm("inner")
            await do(ctx, journal, "inner")
            if ctx.attempt == 1:
                raise Killed

        await ctx.step("outer", outer)

    await journal.run(run, 1)
    assert list(journal.steps) == ["llm", "inner"]
    assert (await journal.run(run, 2)).kind == "succeeded"
    assert list(journal.steps) == ["llm", "inner", "outer"]


async def test_steps_from_before_a_checkpoint_need_not_be_asked_for(journal: Journal) -> None:
    async def run(ctx: SkillContext, given: Any) -> None:
        for number in range(ctx.restored or 0, 4):
            await do(ctx, journal, f"part-{number}")
            if number == 1:
                await ctx.checkpoint(2)

    await journal.run(run, 1, dies_after=3)
    assert journal.checkpointed == 2 and list(journal.steps) == ["part-0", "part-1", "part-2"]
    ended = await journal.run(sequence(journal, "part-3"), 2)
    assert ended.code == "NOT_DETERMINISTIC" and "'part-2'" in ended.message  # that came after it
    assert (await journal.run(run, 3)).kind == "succeeded"


async def test_names_beside_a_step_are_few_and_are_names() -> None:
    assert step_names(["a"]) == ("a",)
    for bad in ("a", ["a"] * (BESIDE_MAX + 1), [1], ["x" * 161], {"a": 1}):
        with pytest.raises(ValueError, match="beside"):
            step_names(bad)


async def test_many_failed_steps_are_told_bit_by_bit(journal: Journal) -> None:
    async def run(ctx: SkillContext, given: Any) -> None:
        for number in range(BESIDE_MAX + 1):
            with pytest.raises(ConnectionError):
                await ctx.step(f"try-{number}", fail)
        await do(ctx, journal, "a", "b", "c")

    await journal.run(run, 1)
    assert [len(journal.beside.get(name, ())) for name in "abc"] == [BESIDE_MAX, 1, 0]


def fail() -> None:
    """Something out there is broken."""
    raise ConnectionError
