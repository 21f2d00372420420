"""The parts of the agent loop that are plain functions: input, conversation, memory."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from coterie.skills import LlmAnswer, LlmUsage, ToolCall
from coterie.skills.agent.memory import best
from coterie.skills.agent.plan import Tool, read_agent, read_request
from coterie.skills.agent.talk import KEPT_TURNS, Talk, clipped
from coterie.skills.errors import BadInput

LOADED: dict[str, Any] = {
    "id": "a",
    "system": "You are A.",
    "model": "m",
    "temperature": 0.0,
    "max_tokens": 100,
    "effort": "low",
    "tools": [
        {
            "skill": "shared/find",
            "name": "shared_find",
            "description": "finds",
            "parameters": {"type": "object"},
            "options": {"timeout": 3},
            "manual": "",
        }
    ],
    "approve": ["shared/*"],
    "handoff": [{"id": "b", "about": "numbers"}],
    "stop": ["done"],
    "loop": {
        "max_steps": 5,
        "budget_tokens": None,
        "window": 1_000,
        "result_chars": 300,
        "parallel": 2,
        "ask_human": True,
    },
}
AGENT = read_agent("r", LOADED)


def answer(text: str = "", *calls: str, tokens_in: int = 10) -> LlmAnswer:
    made = tuple(ToolCall(f"c{n}", name, {}, "{}") for n, name in enumerate(calls))
    return LlmAnswer(text, made, "stop", "m", "p", LlmUsage(tokens_in, 5))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (None, "input"),
        ({}, "prompt, messages"),
        ({"prompt": "x", "messages": []}, "prompt, messages"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"prompt": "x", "schema": "text"}, "schema"),
        ({"prompt": "x", "promt": "y"}, "promt"),
        ({"prompt": "x", "user": 1}, "user"),
    ],
)
def test_bad_input_is_named(given: Any, field: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_request(given)
    assert field in str(refused.value)


def test_context_is_shown_after_the_prompt() -> None:
    request = read_request({"prompt": "Add up", "context": {"ä": [1, 2]}})
    assert [one["role"] for one in request.messages] == ["user", "user"]
    assert '"ä"' in request.messages[1]["content"]
    assert read_request("Add up").messages == ({"role": "user", "content": "Add up"},)


def test_a_revision_is_read() -> None:
    assert AGENT.tools["shared_find"] == Tool(
        "shared_find", "shared/find", "finds", {"type": "object"}, {"timeout": 3}
    )
    extra = {"reasoning_effort": "low"}
    assert AGENT.think == {"model": "m", "temperature": 0.0, "max_tokens": 100, "extra": extra}
    assert AGENT.handoff == {"b": "numbers"} and AGENT.asks_people and AGENT.budget_tokens == 0


def test_results_belong_to_their_calls_and_are_clipped() -> None:
    talk = Talk.of(AGENT, read_request("go"), ["likes tea"])
    talk.add(answer("", "one", "two"), ["short", "x" * 1_000])
    system, user, thought, first, second = talk.messages()
    assert "likes tea" in system["content"] and user["content"] == "go"
    assert [call["id"] for call in thought["tool_calls"]] == ["c0", "c1"]
    assert (first["tool_call_id"], first["content"]) == ("c0", "short")
    assert len(second["content"]) < 400 and "700 of 1000 characters left out" in second["content"]


def test_the_last_question_says_so() -> None:
    talk = Talk.of(AGENT, read_request("go"), [])
    assert "no more tools" in talk.messages(last=True)[-1]["content"]
    assert talk.messages() == talk.head


@pytest.mark.parametrize("tokens_in", [10, 900])
def test_a_full_window_keeps_the_newest_turns(tokens_in: int) -> None:
    talk = Talk.of(replace(AGENT, result_chars=2_000), read_request("go"), [])
    sizes = 10 if tokens_in == 900 else 600
    while not talk.is_full:
        talk.add(answer("thought", "one", tokens_in=tokens_in), [f"{len(talk.turns)}" * sizes])
        assert len(talk.turns) < 10
    asked = talk.to_summarize()
    newest = talk.turns[-KEPT_TURNS:]
    assert "assistant: thought\n  calls one {}" in asked[-1]["content"]
    assert newest[0][1]["content"] not in asked[-1]["content"]
    talk.shorten("all in few words")
    assert talk.turns == newest
    assert "all in few words" in json.dumps(talk.messages())
    assert not talk.is_full


def test_few_turns_are_never_put_into_fewer_words() -> None:
    talk = Talk.of(replace(AGENT, result_chars=100_000), read_request("go"), [])
    talk.add(answer("", "one"), ["x" * 100_000])
    assert not talk.is_full


def test_clipping_keeps_beginning_and_end() -> None:
    assert clipped("abc", 3) == "abc"
    text = clipped("a" * 50 + "b" * 50, 20)
    assert text.startswith("a" * 15) and text.endswith("b" * 5)


def test_memories_are_found_by_rare_words_first() -> None:
    texts = ["the cat sat on the mat", "the dog sat on the log", "prices rose by 3 % in May", "nothing"]
    assert best("What did prices do in may?", texts)[0] == texts[2]
    assert best("where is the dog", texts)[0] == texts[1]
    assert best("unrelated", texts) == []
    assert best("anything", []) == []
    assert len(best("the", ["the"] * 9)) == 5
