"""The agent loop with a node dying at every moment there is: the same result, nothing paid or done again; and
bugs planted in the loop, each of which these tests must find."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from coterie.skills import LlmAnswer
from coterie.skills.agent import handler
from coterie.skills.agent.builtin import Builtins, Place
from coterie.skills.agent.handler import Ending, Loop
from coterie.skills.agent.memory import Memory
from coterie.skills.agent.plan import GONE
from coterie.skills.agent.talk import Talk
from coterie.skills.runner import Outcome
from tests.skills.agent_world import Message, World, call, deaths, differences, digest, loaded, quiet, tool

ASKED = "How long is the sum?"
PART = {"agent": "b", "task": "write it up"}


def everything(thought: int, seen: Sequence[Message]) -> dict[str, Any]:
    """Uses all that an agent has, and answers with a hash of the whole conversation."""
    turns = [
        [call("sum", rows=[1, 2]), call("fail", why="x"), call("fly"), call("sum", rows=[3])],
        [call("read_manual", tool="send"), call("remember", text="The sum is two rows long.")],
        [call("handoff", **PART), call("recall", query="how long is the sum?")],
        [call("ask_human", question="May I?"), call("send", to="all")],
        [call("sum", rows=[5]), call("nowhere"), call("sum", rows=[6])],
    ]
    if thought <= len(turns):
        return {"tool_calls": turns[thought - 1]}
    return {"text": digest(seen)}


def restless(thought: int, seen: Sequence[Message]) -> dict[str, Any]:
    """Never has enough of it, until it may call no more."""
    told = seen[-1]["content"].startswith("You may call no more tools")
    return {"text": digest(seen)} if told else {"tool_calls": [call("sum", rows=[thought])]}


def noting(thought: int, seen: Sequence[Message]) -> dict[str, Any]:
    """Fills its window, makes notes, and answers from them."""
    if "Put the work so far" in seen[-1]["content"]:
        return {"text": f"NOTES {digest(seen)}"}
    if any("NOTES" in str(one["content"]) for one in seen):
        return {"text": digest(seen)}
    return {"tool_calls": [call("sum", rows=["x" * 900])]}


def handing_over(thought: int, seen: Sequence[Message]) -> dict[str, Any]:
    return {"tool_calls": [call("handoff", **PART, final=True), call("sum", rows=[9])]}


def results(world: World) -> list[str]:
    return [one["content"] for one in world.seen[-1] if one["role"] == "tool"]


def value(outcome: Outcome) -> dict[str, Any]:
    assert outcome.kind == "succeeded", outcome
    given: dict[str, Any] = json.loads(outcome.result)
    return given


async def check_everything() -> None:
    world, outcome = await quiet(everything, ASKED)
    assert results(world) == [
        '{"sum": {"rows": [1, 2]}}',
        "error: CHILD_FAILED: child t~t1.1 ended as FAILED: NO_LUCK: it did not work",
        "error: there is no tool 'fly'; there are: sum, fail, send, nowhere, "
        "handoff, remember, recall, ask_human, read_manual",
        '{"sum": {"rows": [3]}}',
        "Read me first.",
        "Kept.",
        "b did: write it up",
        "- The sum is two rows long.",
        "a person says 0",
        '{"send": {"to": "all"}}',
        '{"sum": {"rows": [5]}}',
        "error: CALL_REFUSED: no node has it",
        '{"sum": {"rows": [6]}}',
    ]  # fmt: skip
    ended = value(outcome)
    assert (ended["turns"], ended["calls"], ended["finish"]) == (6, 13, "answer")
    assert ended["usage"] == {"tokens_in": 240, "tokens_out": 60, "micro_usd": 42}
    assert len(world.asked_of_people) == 1, "send waits for a person"
    assert not list(differences(world, outcome, await deaths(everything, ASKED)))


async def check_bounds() -> None:
    for loop, finish, turns in (
        ({"max_steps": 3}, "max_steps", 3),
        ({"budget_tokens": 100}, "budget", 3),
        ({"max_steps": 2, "budget_tokens": 50}, "max_steps", 2),
    ):
        world, outcome = await quiet(restless, loop=loop)
        ended = value(outcome)
        assert (ended["finish"], ended["turns"], ended["calls"]) == (finish, turns, turns - 1)
        assert not list(differences(world, outcome, await deaths(restless, loop=loop)))


async def check_stop() -> None:
    world, outcome = await quiet(restless, stop=["sum"])
    assert (value(outcome)["finish"], value(outcome).get("data")) == ("stop", {"sum": {"rows": [1]}})
    assert not list(differences(world, outcome, await deaths(restless, stop=["sum"])))


async def check_notes() -> None:
    world, outcome = await quiet(noting, loop={"window": 1_000})
    assert value(outcome)["finish"] == "answer" and sum(name.startswith("notes") for name in world.paid) == 1
    assert not list(differences(world, outcome, await deaths(noting, loop={"window": 1_000})))


async def check_handover() -> None:
    world, outcome = await quiet(handing_over)
    assert (value(outcome)["finish"], value(outcome)["answer"]) == ("handoff", "b did: write it up")
    assert world.begun == {"t1.0": 1, "t1.1": 1}
    assert not list(differences(world, outcome, await deaths(handing_over)))


def deaf(thought: int, seen: Sequence[Message]) -> dict[str, Any]:
    """Calls tools also when it may call no more."""
    return {"tool_calls": [call("sum", rows=[thought])]}


@pytest.mark.parametrize(
    ("loop", "key"), [({"max_steps": 2}, "max_steps"), ({"budget_tokens": 50}, "budget_tokens")]
)
async def test_a_run_without_an_answer_is_no_success(loop: dict[str, Any], key: str) -> None:
    _, outcome = await quiet(deaf, loop=loop)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("failed", "NO_ANSWER", False)
    assert f"raise loop.{key}" in outcome.message


async def test_what_a_tool_of_the_loop_does_not_take_is_told_and_not_passed_over() -> None:
    def careless(thought: int, seen: Sequence[Message]) -> dict[str, Any]:
        calls = [call("remember", text="x", importance=3), call("handoff", **PART, urgent=True)]
        return {"tool_calls": calls} if thought == 1 else {"text": "so be it"}

    world, _ = await quiet(careless)
    assert results(world) == [
        "error: importance: unknown argument; known: text",
        "error: urgent: unknown argument; known: agent, task, context, final",
    ]
    assert not world.kept and not world.begun


def planning(thought: int, seen: Sequence[Message]) -> dict[str, Any]:
    """Adds nodes, some of which it may not add."""
    turns = [
        [call("add_nodes", nodes={"x": {"agent": "c"}}), call("add_nodes", nodes=["x"])],
        [call("add_nodes", nodes={"x": {"agent": "b"}, "y": {"agent": "b"}})],
    ]
    return {"tool_calls": turns[thought - 1]} if thought <= len(turns) else {"text": digest(seen)}


async def check_planning() -> None:
    world, outcome = await quiet(planning, loop={"add_nodes": True})
    assert results(world) == [
        "error: AGENT_FORBIDS: agent 'c' is none of them",
        "error: nodes: a map of nodes by their ids is expected, not ['x']",
        "Added: x, y.",
    ]
    assert list(world.added) == ["x", "y"]
    assert not list(differences(world, outcome, await deaths(planning, loop={"add_nodes": True})))


CHECKS = [check_planning, check_everything, check_bounds, check_stop, check_notes, check_handover]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_a_death_at_any_moment_changes_nothing(check: Callable[[], Any]) -> None:
    await check()


async def test_results_stay_when_their_tools_are_gone() -> None:
    """What another node knows of the tools, or the same one later, is no part of what was recorded."""
    calm, _ = await quiet(everything, ASKED)
    gone = [tool(one["name"], manual=GONE) for one in loaded()["tools"]]
    for world, outcome in await deaths(everything, ASKED, later={"tools": gone}):
        assert value(outcome)["finish"] == "answer" and world.begun == calm.begun
        assert [one for one in results(world) if one != GONE] in (
            results(calm),
            results(calm)[:4] + results(calm)[5:],
        )


# Bugs, planted.


def unrecorded_recall() -> tuple[type, str, Any]:
    async def recall(self: Memory, step: str, query: str) -> list[str]:
        return await self._search(query)

    return Memory, "recall", recall


def forgotten_tool_result() -> tuple[type, str, Any]:
    original = Builtins.call

    async def manual(self: Builtins, name: str, given: Any, at: Place) -> str:
        if name == "read_manual" and self.ctx.attempt > 1:
            return "(read before)"
        return await original(self, name, given, at)

    return Builtins, "call", manual


def paid_again() -> tuple[type, str, Any]:
    async def think(self: Loop, last: str) -> LlmAnswer:
        name = f"think{self.turn}.{self.ctx.attempt}"
        return self._paid(await self.ctx.llm(self.talk.messages(last=bool(last)), name=name))

    return Loop, "_think", think


def lost_handoff() -> tuple[type, str, Any]:
    return Builtins, "handoff", lambda self, given, at: "Done."


def handoff_that_is_not_final() -> tuple[type, str, Any]:
    return Loop, "_stopped", lambda self, calls, results: None


def no_budget() -> tuple[type, str, Any]:
    return Loop, "_last", lambda self: "max_steps" if self.turn >= self.agent.max_steps else ""


def no_last_step() -> tuple[type, str, Any]:
    def last(self: Loop) -> str:
        used = self.spent["tokens_in"] + self.spent["tokens_out"]
        return "budget" if self.turn > 8 or 0 < self.agent.budget_tokens <= used else ""

    return Loop, "_last", last


def spent_only_in_this_attempt() -> tuple[type, str, Any]:
    def paid(self: Loop, answer: LlmAnswer) -> LlmAnswer:
        for name in self.spent:
            self.spent[name] += 0 if answer.replayed else getattr(answer.usage, name)
        return answer

    return Loop, "_paid", paid


def dropped_error() -> tuple[Any, str, Any]:
    original = handler._text_of
    return handler, "_text_of", lambda result: "" if isinstance(result, Exception) else original(result)


def unasked() -> tuple[type, str, Any]:
    async def approve(self: Loop, call: Any, name: str) -> None: ...

    return Loop, "_approve", approve


def results_of_others() -> tuple[type, str, Any]:
    original = Talk.add
    return Talk, "add", lambda self, answer, texts: original(self, answer, texts[::-1])


def unrecorded_notes() -> tuple[type, str, Any]:
    async def shorten(self: Loop) -> None:
        self.talk.shorten(f"NOTES of attempt {self.ctx.attempt}")

    return Loop, "_shorten", shorten


def no_stop() -> tuple[type, str, Any]:
    def stopped(self: Loop, calls: Any, results: Any) -> Ending | None:
        final = calls[0].name == "handoff" and calls[0].arguments.get("final")
        return Ending("handoff", str(results[0]["answer"])) if final else None

    return Loop, "_stopped", stopped


BUGS = [
    unrecorded_recall, forgotten_tool_result, paid_again, lost_handoff, handoff_that_is_not_final, no_budget,
    no_last_step, spent_only_in_this_attempt, dropped_error, unasked, results_of_others, unrecorded_notes,
    no_stop,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
async def test_a_planted_bug_is_found(
    bug: Callable[[], tuple[Any, str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*bug())
    with pytest.raises(AssertionError):
        for check in CHECKS:
            await check()
