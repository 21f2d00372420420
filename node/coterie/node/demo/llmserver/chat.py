"""The chat completions API: reading requests, writing answers whole or as a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from coterie.node.demo.llmserver.http import Exchange, Hangup
from coterie.node.demo.llmserver.script import Answer, Message, Question, Reply

STALL_S = 3_600.0


def text_of(content: Any) -> str:
    """The text of a message's content, whole or in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def question_of(path: str, body: dict[str, Any]) -> Question:
    """A chat request as the rules see it."""
    names = {
        call["id"]: call["function"]["name"]
        for message in body["messages"]
        for call in message.get("tool_calls") or ()
    }
    messages = tuple(
        Message(one["role"], text_of(one.get("content")), names.get(one.get("tool_call_id"), ""))
        for one in body["messages"]
    )
    wanted = body.get("response_format") or {}
    schema = wanted.get("json_schema", {}).get("schema") if wanted.get("type") == "json_schema" else None
    tools = tuple(tool["function"]["name"] for tool in body.get("tools") or ())
    most = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    return Question(path, str(body["model"]), messages, schema, tools, most)


def finish_of(answer: Answer) -> str:
    if answer.tool_calls:
        return "tool_calls"
    return "length" if answer.cut else "stop"


def usage_of(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.tokens_in,
        "completion_tokens": answer.tokens_out,
        "total_tokens": answer.tokens_in + answer.tokens_out,
    }


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "index": place,
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for place, call in enumerate(answer.tool_calls)
    ]


def whole(answer_id: str, model: str, answer: Answer) -> dict[str, Any]:
    """An answer that is no stream."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.tool_calls:
        message["tool_calls"] = _calls(answer)
    choice = {"index": 0, "message": message, "finish_reason": finish_of(answer)}
    head = {"id": answer_id, "object": "chat.completion", "created": 1, "model": model}
    return {**head, "choices": [choice], "usage": usage_of(answer)}


def pieces(answer: Answer, chars: int) -> Iterator[dict[str, Any]]:
    """The deltas of a stream."""
    yield {"role": "assistant", "content": ""}
    for start in range(0, len(answer.text), chars):
        yield {"content": answer.text[start : start + chars]}
    for call in _calls(answer):
        arguments = call["function"].pop("arguments")
        yield {"tool_calls": [{**call, "function": {**call["function"], "arguments": ""}}]}
        for start in range(0, len(arguments), chars):
            part = {"index": call["index"], "function": {"arguments": arguments[start : start + chars]}}
            yield {"tool_calls": [part]}


async def hurdle(reply: Reply, piece: int) -> None:
    """What stands before the piece of that number: a pause, a stall, the end of the connection."""
    if reply.disconnect is not None and piece >= reply.disconnect:
        raise Hangup
    if reply.stall is not None and piece >= reply.stall:
        await asyncio.sleep(STALL_S)
    pause_ms = reply.chunk_ms + (reply.first_ms if piece == 0 else 0)
    if pause_ms:
        await asyncio.sleep(pause_ms / 1000)


async def stream(exchange: Exchange, answer_id: str, body: dict[str, Any], reply: Reply, chars: int) -> None:
    """The answer as server-sent events."""
    head = {"id": answer_id, "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    await hurdle(reply, 0)
    await exchange.start_events()
    for number, delta in enumerate(pieces(reply.answer, chars)):
        if number:
            await hurdle(reply, number)
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        await exchange.event(json.dumps({**head, "choices": [choice]}))
    last = {"index": 0, "delta": {}, "finish_reason": finish_of(reply.answer)}
    await exchange.event(json.dumps({**head, "choices": [last]}))
    if (body.get("stream_options") or {}).get("include_usage"):
        await exchange.event(json.dumps({**head, "choices": [], "usage": usage_of(reply.answer)}))
    await exchange.event("[DONE]")
    await exchange.end_events()
