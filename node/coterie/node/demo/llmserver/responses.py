"""The responses API: answers as numbered events, in the background too, asked for again from any number."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

from coterie.node.demo.llmserver.chat import hurdle, text_of
from coterie.node.demo.llmserver.http import Exchange, Hangup
from coterie.node.demo.llmserver.script import Answer, Message, Question, Reply

Event = dict[str, Any]


def question_of(path: str, body: dict[str, Any]) -> Question:
    """A responses request as the rules see it."""
    given = body.get("input", "")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    names = {item["call_id"]: item["name"] for item in items if item.get("type") == "function_call"}
    messages = [Message("system", body["instructions"])] if body.get("instructions") else []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            messages.append(Message("assistant", ""))
        elif kind == "function_call_output":
            messages.append(Message("tool", text_of(item["output"]), names.get(item["call_id"], "")))
        else:
            messages.append(Message(item["role"], text_of(item.get("content"))))
    wanted = (body.get("text") or {}).get("format") or {}
    schema = wanted.get("schema") if wanted.get("type") == "json_schema" else None
    tools = tuple(tool["name"] for tool in body.get("tools") or () if tool.get("type") == "function")
    most = body.get("max_output_tokens") or 0
    return Question(path, str(body["model"]), tuple(messages), schema, tools, most)


class Running:
    """One response in the making: its events so far, and whoever waits for more."""

    def __init__(self, response_id: str, body: dict[str, Any], reply: Reply, chars: int) -> None:
        self.response_id, self._body, self._reply, self._chars = response_id, body, reply, chars
        self.status = "queued" if body.get("background") else "in_progress"
        self.events: list[Event] = []
        self._more = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        return self.status in ("completed", "incomplete", "cancelled")

    async def run(self, faults: bool) -> None:
        """Make all events; with `faults`, also stall where the script says so."""
        reply = replace(self._reply, disconnect=None, stall=self._reply.stall if faults else None)
        for number, event in enumerate(self._events()):
            await hurdle(reply, number)
            if self.over:
                return
            await self._say(event)

    async def _say(self, event: Event) -> None:
        if event["type"] == "response.in_progress":
            self.status = "in_progress"
        elif event["type"] in ("response.completed", "response.incomplete"):
            self.status = event["type"].removeprefix("response.")
            event = {**event, "response": self.document()}
        async with self._more:
            self.events.append({**event, "sequence_number": len(self.events)})
            self._more.notify_all()

    async def follow(self, after: int) -> AsyncIterator[Event]:
        """Events with numbers above `after`, until the last."""
        place = after + 1
        while True:
            async with self._more:
                while len(self.events) <= place and not self.over:
                    await self._more.wait()
            while place < len(self.events):
                yield self.events[place]
                place += 1
            if self.over:
                return

    async def cancel(self) -> None:
        async with self._more:
            if not self.over:
                self.status = "cancelled"
            self._more.notify_all()

    def document(self) -> dict[str, Any]:
        """The response as a whole, as it is now."""
        done = self.status in ("completed", "incomplete")
        answer = self._reply.answer
        usage = {
            "input_tokens": answer.tokens_in,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.tokens_out,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.tokens_in + answer.tokens_out,
        }
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": 1,
            "status": self.status,
            "model": self._body["model"],
            "background": bool(self._body.get("background")),
            "metadata": self._body.get("metadata") or {},
            "output": _items(self.response_id, answer) if done else [],
            "usage": usage if done else None,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    def _events(self) -> Iterator[Event]:
        answer, chars = self._reply.answer, self._chars
        yield {"type": "response.created", "response": self.document()}
        yield {"type": "response.in_progress", "response": self.document()}
        for place, item in enumerate(_items(self.response_id, answer)):
            where = {"output_index": place, "item_id": item["id"]}
            yield {"type": "response.output_item.added", "output_index": place, "item": _empty(item)}
            if item["type"] == "message":
                where["content_index"] = 0
                text = answer.text
                for start in range(0, len(text), chars):
                    yield {
                        "type": "response.output_text.delta",
                        **where,
                        "delta": text[start : start + chars],
                    }
                yield {"type": "response.output_text.done", **where, "text": text}
            else:
                given, kind = item["arguments"], "response.function_call_arguments"
                for start in range(0, len(given), chars):
                    yield {"type": f"{kind}.delta", **where, "delta": given[start : start + chars]}
                yield {"type": f"{kind}.done", **where, "arguments": given, "name": item["name"]}
            yield {"type": "response.output_item.done", "output_index": place, "item": item}
        yield {"type": "response.incomplete" if answer.cut else "response.completed"}


def _items(response_id: str, answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.text or not answer.tool_calls:
        content = [{"type": "output_text", "text": answer.text, "annotations": []}]
        message = {"type": "message", "id": f"msg_{response_id}", "role": "assistant"}
        items.append({**message, "status": "completed", "content": content})
    for call in answer.tool_calls:
        item = {"type": "function_call", "id": f"fc_{call.call_id}", "call_id": call.call_id}
        items.append({**item, "name": call.name, "arguments": call.arguments, "status": "completed"})
    return items


def _empty(item: dict[str, Any]) -> dict[str, Any]:
    emptied: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
    return {**item, "status": "in_progress", **emptied}


async def stream(exchange: Exchange, running: Running, after: int, reply: Reply | None = None) -> None:
    """A response's events as server-sent events. `reply`: also break the connection where it says so."""
    broken_at = reply.disconnect if reply is not None else None
    await exchange.start_events()
    async for event in running.follow(after):
        if broken_at is not None and event["sequence_number"] >= broken_at:
            raise Hangup
        await exchange.event(json.dumps(event), event["type"])
    await exchange.end_events()
