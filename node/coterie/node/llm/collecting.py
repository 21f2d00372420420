"""Streams of the two APIs, joined to whole answers. An answer is paid for: what of it is odd is read as well
as it can be."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from coterie.core.llm.nouns import LlmVerdict
from coterie.node.llm.completion import CallFault, Completion, OnText, ToolUse, Usage

FINISH = {"completed": "stop", "incomplete": "length"}
ANSWER_BYTES_MAX = (
    8 * 1024 * 1024
)  # of text and arguments; an answer that goes on ends there, as at max_tokens


def whole_characters(text: str) -> str:
    """Halves of characters, which JSON can carry and UTF-8 cannot, become question marks."""
    return text.encode("utf-8", "replace").decode()


def usage_of(given: Any, read: str, written: str, details: str) -> Usage | None:
    """Under the names of an API. None where there are no numbers: the call counts at its worst then."""
    tokens_in, tokens_out = (_count(getattr(given, name, None)) for name in (read, written))
    if tokens_in is None or tokens_out is None:
        return None
    cached = _count(getattr(getattr(given, details, None), "cached_tokens", None))
    return Usage(tokens_in, tokens_out, cached or 0)


def _count(value: Any) -> int | None:
    """Some providers count in fractions."""
    number = isinstance(value, int | float) and math.isfinite(value)
    return math.ceil(value) if number else None


def _plain(value: Any) -> str:
    """What should be a text: some give arguments as objects, and null for what is empty."""
    if value is None:
        return ""
    return whole_characters(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


@dataclass(slots=True)
class _Room:
    """For the rest of an answer."""

    left: int = ANSWER_BYTES_MAX

    def fit(self, text: str) -> str:
        """As much of it as there is room for."""
        content = text.encode()
        taken = content[: max(0, self.left)].decode("utf-8", "ignore")
        self.left -= len(content)
        return taken

    @property
    def full(self) -> bool:
        return self.left < 0


@dataclass(slots=True)
class _Part:
    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class ChatCollector:
    """Chunks of a chat completion."""

    on_text: OnText
    _text: list[str] = field(default_factory=list)
    _calls: list[_Part] = field(default_factory=list)
    _at: dict[int, _Part] = field(default_factory=dict)  # the newest call of each index
    _room: _Room = field(default_factory=_Room)
    _finish: str = ""
    _model: str = ""
    _id: str = ""
    _usage: Usage | None = None

    @property
    def full(self) -> bool:
        """It ends here: there is no room for more."""
        return self._room.full

    def take(self, chunk: Any) -> None:
        """The next chunk."""
        self._model = _plain(getattr(chunk, "model", None)) or self._model
        self._id = _plain(getattr(chunk, "id", None)) or self._id
        if chunk.usage is not None:
            self._usage = usage_of(chunk.usage, "prompt_tokens", "completion_tokens", "prompt_tokens_details")
        for choice in (getattr(chunk, "choices", None) or ())[:1]:
            self._finish = _plain(getattr(choice, "finish_reason", None)) or self._finish
            delta = getattr(choice, "delta", None)
            if delta is None:
                continue
            if delta.content:
                self._add(delta.content)
            for part in delta.tool_calls or ():
                self._tool(part)

    def _add(self, text: str) -> None:
        text = self._room.fit(_plain(text))
        self._text.append(text)
        self.on_text(text)

    def _tool(self, part: Any) -> None:
        """A further piece of a call; with a name and another id it begins a new one, whatever its index."""
        index, name_of = getattr(part, "index", None) or 0, getattr(part.function, "name", None)
        own, known = _plain(getattr(part, "id", None)), self._at.get(index)
        if known is None or (name_of and own and known.id and own != known.id):
            known = self._at[index] = _Part(index)
            self._calls.append(known)
        known.id = known.id or own
        known.name += self._room.fit(_plain(name_of))
        known.arguments += self._room.fit(_plain(getattr(part.function, "arguments", None)))

    def completion(self) -> Completion:
        """The whole. Raises CallFault for a stream that ended before its end."""
        text = "".join(self._text)
        if self.full:
            return Completion(text, (), "length", self._model, self._id, self._usage)
        if not self._finish:
            raise CallFault("the answer ends in the middle", LlmVerdict.IN_DOUBT, code="LLM_CUT_OFF")
        parts = sorted(self._calls, key=lambda one: one.index)
        calls = tuple(ToolUse(one.id, one.name, one.arguments) for one in parts)
        return Completion(text, calls, self._finish, self._model, self._id, self._usage)


@dataclass(slots=True)
class ResponseCollector:
    """Events of a response; a repeated one is dropped by its number."""

    on_text: OnText
    response_id: str = ""
    newest: int = -1  # number of the newest event
    _text: list[str] = field(default_factory=list)
    _room: _Room = field(default_factory=_Room)
    _chars: int = 0  # of the text
    _told: int = 0  # of these, those that were told
    _final: Any = None

    @property
    def full(self) -> bool:
        """It ends here: there is no room for more."""
        return self._room.full

    @property
    def over(self) -> bool:
        return self._final is not None or self.full

    def take(self, event: Any) -> None:
        """The next event. Raises CallFault where the provider gave up."""
        number = _count(getattr(event, "sequence_number", None))
        if number is not None and number <= self.newest:
            return
        self.newest = number if number is not None else self.newest
        kind = event.type
        if kind == "response.created":
            self.response_id = event.response.id
        elif kind == "response.output_text.delta":
            self._add(event.delta)
        elif kind in ("response.completed", "response.incomplete"):
            self._final = event.response
        elif kind in ("response.failed", "response.cancelled", "error"):
            raise CallFault(f"the provider gave up: {kind}", LlmVerdict.IN_DOUBT, code="LLM_FAILED")

    def _add(self, text: str) -> None:
        text = self._room.fit(_plain(text))
        self._text.append(text)
        fresh = text[max(0, self._told - self._chars) :]
        self._chars += len(text)
        if fresh:
            self._told = self._chars
            self.on_text(fresh)

    def restart(self) -> None:
        """The events come again from the first one; their text is told where it goes on."""
        self._text, self._room, self._chars = [], _Room(), 0

    def completion(self) -> Completion:
        """The whole. Raises CallFault for a stream that ended before its end."""
        text, final = "".join(self._text), self._final
        calls = () if final is None else tuple(map(self._call, filter(_is_call, final.output or ())))
        if self.full:
            return Completion(text, (), "length", "", self.response_id, None)
        if final is None:
            raise CallFault("the answer ends in the middle", LlmVerdict.IN_DOUBT, code="LLM_CUT_OFF")
        finish = "tool_calls" if calls else FINISH.get(final.status, str(final.status))
        usage = usage_of(final.usage, "input_tokens", "output_tokens", "input_tokens_details")
        return Completion(text, calls, finish, _plain(final.model), _plain(final.id), usage)

    def _call(self, item: Any) -> ToolUse:
        return ToolUse(_plain(item.call_id), _plain(item.name), self._room.fit(_plain(item.arguments)))


def _is_call(item: Any) -> bool:
    return bool(item.type == "function_call")
