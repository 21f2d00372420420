"""Streams of the two APIs, joined to whole answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coterie.core.llm.nouns import LlmVerdict
from coterie.node.llm.completion import CallFault, Completion, OnText, ToolUse, Usage

FINISH = {"completed": "stop", "incomplete": "length"}


def whole_characters(text: str) -> str:
    """Halves of characters, which JSON can carry and UTF-8 cannot, become question marks."""
    return text.encode("utf-8", "replace").decode()


@dataclass(slots=True)
class _Part:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class ChatCollector:
    """Chunks of a chat completion."""

    on_text: OnText
    _text: list[str] = field(default_factory=list)
    _calls: dict[int, _Part] = field(default_factory=dict)
    _finish: str = ""
    _model: str = ""
    _id: str = ""
    _usage: Usage | None = None

    def take(self, chunk: Any) -> None:
        """The next chunk."""
        self._model, self._id = chunk.model or self._model, chunk.id or self._id
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            cached = (details.cached_tokens or 0) if details is not None else 0
            self._usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens, cached)
        for choice in chunk.choices[:1]:
            self._finish = choice.finish_reason or self._finish
            if choice.delta.content:
                self._add(choice.delta.content)
            for part in choice.delta.tool_calls or ():
                self._tool(part)

    def _add(self, text: str) -> None:
        text = whole_characters(text)
        self._text.append(text)
        self.on_text(text)

    def _tool(self, part: Any) -> None:
        known = self._calls.setdefault(part.index, _Part())
        known.id = part.id or known.id
        if part.function is not None:
            known.name += part.function.name or ""
            known.arguments += part.function.arguments or ""

    def completion(self) -> Completion:
        """The whole. Raises CallFault for a stream that ended before its end."""
        if not self._finish:
            raise CallFault("the answer ends in the middle", LlmVerdict.IN_DOUBT, code="LLM_CUT_OFF")
        calls = tuple(ToolUse(one.id, one.name, one.arguments) for _, one in sorted(self._calls.items()))
        return Completion("".join(self._text), calls, self._finish, self._model, self._id, self._usage)


@dataclass(slots=True)
class ResponseCollector:
    """Events of a response; a repeated one is dropped by its number."""

    on_text: OnText
    response_id: str = ""
    newest: int = -1  # number of the newest event
    _text: list[str] = field(default_factory=list)
    _final: Any = None

    @property
    def over(self) -> bool:
        return self._final is not None

    def take(self, event: Any) -> None:
        """The next event. Raises CallFault where the provider gave up."""
        if event.sequence_number <= self.newest:
            return
        self.newest = event.sequence_number
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
        text = whole_characters(text)
        self._text.append(text)
        self.on_text(text)

    def completion(self) -> Completion:
        """The whole. Raises CallFault for a stream that ended before its end."""
        final = self._final
        if final is None:
            raise CallFault("the answer ends in the middle", LlmVerdict.IN_DOUBT, code="LLM_CUT_OFF")
        calls = tuple(
            ToolUse(item.call_id, item.name, item.arguments)
            for item in final.output
            if item.type == "function_call"
        )
        finish = "tool_calls" if calls else FINISH.get(final.status, str(final.status))
        usage = None
        if final.usage is not None:
            details = final.usage.input_tokens_details
            cached = details.cached_tokens if details is not None else 0
            usage = Usage(final.usage.input_tokens, final.usage.output_tokens, cached)
        return Completion("".join(self._text), calls, finish, final.model, final.id, usage)
