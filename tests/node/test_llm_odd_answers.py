"""Answers of slightly odd providers: they are paid for, so they are read."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from coterie.core.llm.nouns import LlmVerdict
from coterie.node.llm import collecting
from coterie.node.llm.clients import _faults
from coterie.node.llm.collecting import ChatCollector, ResponseCollector
from coterie.node.llm.completion import CallFault, Completion, ToolUse, Usage


def chunk(delta: Any, finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }


def use(name: str | None, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


def chat(*chunks: dict[str, Any]) -> Completion:
    """As the library reads them, without a look at their types."""
    collector = ChatCollector(lambda text: None)
    for one in chunks:
        collector.take(ChatCompletionChunk.construct(**one))
    return collector.completion()


HELLO = chunk({"content": "hi"}, None)


@pytest.mark.parametrize(
    ("chunks", "calls", "usage"),
    [
        ([HELLO, chunk(None)], (), None),
        ([HELLO, chunk({}), {"id": "x", "choices": None}], (), None),
        ([HELLO, chunk({}), {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}], (), Usage(3, 2)),
        ([HELLO, chunk({}, usage={"prompt_tokens": 3.0, "completion_tokens": 2.5})], (), Usage(3, 3)),
        ([HELLO, chunk({}, usage={"prompt_tokens": None, "completion_tokens": "2"})], (), None),
        ([HELLO, chunk({}, usage={})], (), None),
        (
            [HELLO, chunk({"tool_calls": [use("f", {"a": 1}, index=0, id="a")]})],
            [("a", "f", '{"a": 1}')],
            None,
        ),
        ([HELLO, chunk({"tool_calls": [use("f", "{}", id="a")]})], [("a", "f", "{}")], None),
        (
            [HELLO, chunk({"tool_calls": [use(name, "{}", index=0, id=name) for name in "fg"]})],
            [("f", "f", "{}"), ("g", "g", "{}")],
            None,
        ),
        (
            [
                HELLO,
                chunk({"tool_calls": [use("g", "", index=1, id="b"), use("f", None, index=0, id="a")]}, None),
                chunk({"tool_calls": [use(None, "{", index=0, id="other"), use("", "{}", index=1)]}, None),
                chunk({"tool_calls": [use(None, "}", index=0)]}),
            ],
            [("a", "f", "{}"), ("b", "g", "{}")],
            None,
        ),
    ],
)  # fmt: skip
def test_odd_chunks_are_read(chunks: Any, calls: Any, usage: Usage | None) -> None:
    told = chat(*chunks)
    assert [(one.id, one.name, one.arguments) for one in told.tool_calls] == list(calls)
    assert (told.text, told.finish_reason, told.usage) == ("hi", "stop", usage)
    if told.usage is not None:
        assert isinstance(told.usage.tokens_in, int) and isinstance(told.usage.tokens_out, int)


def test_odd_events_are_read() -> None:
    collector = ResponseCollector(lambda text: None)
    collector.take(ResponseTextDeltaEvent.construct(type="response.output_text.delta", delta="hi"))
    item = {"type": "function_call", "call_id": "a", "name": "f", "arguments": {"a": 1}}
    usage = {"input_tokens": 3.0, "output_tokens": 2.5}
    final = {"id": "r", "model": None, "status": "completed", "output": [item], "usage": usage}
    collector.take(ResponseCompletedEvent.construct(type="response.completed", response=final))
    told = collector.completion()
    assert told == Completion("hi", (ToolUse("a", "f", '{"a": 1}'),), "tool_calls", "", "r", Usage(3, 3))


def test_what_comes_again_is_told_once() -> None:
    told: list[str] = []
    collector = ResponseCollector(told.append)

    def say(*texts: str) -> None:
        for text in texts:
            collector.take(ResponseTextDeltaEvent.construct(type="response.output_text.delta", delta=text))

    say("one ", "two ")
    collector.restart()
    say("one", " two thr", "ee")
    response: dict[str, Any] = {"id": "r", "model": "m", "status": "completed", "output": [], "usage": None}
    collector.take(ResponseCompletedEvent.construct(type="response.completed", response=response))
    assert collector.completion().text == "".join(told) == "one two three"


def test_an_answer_without_end_ends_where_there_is_no_more_room() -> None:
    heard: list[str] = []
    collector = ChatCollector(heard.append, _room=collecting._Room(5))
    for text in ("ab", "cdé", "never"):
        if not collector.full:
            collector.take(ChatCompletionChunk.construct(**chunk({"content": text}, None)))
    told = collector.completion()
    assert (told.text, told.finish_reason, told.tool_calls) == ("abcd", "length", ())
    assert "".join(heard) == "abcd"


async def test_what_cannot_be_read_at_all_is_in_doubt() -> None:
    with pytest.raises(CallFault) as fault:
        async with _faults(sent=True):
            chat(chunk({"tool_calls": 5}))
    assert fault.value.verdict is LlmVerdict.IN_DOUBT


@pytest.mark.parametrize("error", [TypeError("no such keyword"), ValueError("NaN is no JSON")])
async def test_what_the_library_does_not_send_is_not_billed(error: Exception) -> None:
    for sent, verdict in ((False, LlmVerdict.UNSENT), (True, LlmVerdict.IN_DOUBT)):
        with pytest.raises(CallFault) as fault:
            async with _faults(sent=sent):
                raise error
        assert fault.value.verdict is verdict and fault.value.permanent is not sent
