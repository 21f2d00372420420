"""What comes back from a model, and what can go wrong on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coterie.core.llm.nouns import COUNT_MAX, LlmVerdict

OnText = Callable[[str], None]  # the next piece of the answer's text
OBJECT = "llm.completion"  # the first field of a recorded answer


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them, as far as that can be."""

    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens_in", "tokens_out", "tokens_cached"):
            object.__setattr__(self, name, max(0, min(getattr(self, name) or 0, COUNT_MAX)))


@dataclass(frozen=True, slots=True)
class ToolUse:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. `usage` is None where the provider did not say."""

    text: str
    tool_calls: tuple[ToolUse, ...]
    finish_reason: str
    model: str
    response_id: str
    usage: Usage | None

    def record(self, facts: dict[str, Any]) -> dict[str, Any]:
        """As it is recorded, and as the skill gets it."""
        calls = [{"id": one.id, "name": one.name, "arguments": one.arguments} for one in self.tool_calls]
        return {
            "object": OBJECT,
            "text": self.text,
            "tool_calls": calls,
            "finish_reason": self.finish_reason,
            "model": self.model,
            "response_id": self.response_id,
            **facts,
        }


class CallFault(Exception):
    """A call of a provider went wrong. `verdict` says what is counted, `permanent` that it would again."""

    def __init__(
        self,
        message: str,
        verdict: LlmVerdict,
        *,
        code: str = "LLM_FAILED",
        permanent: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.verdict, self.code, self.permanent = verdict, code, permanent
        self.retry_after_s = retry_after_s


def in_doubt(fault: CallFault) -> CallFault:
    """The same of a call that was sent before, and may have been billed then."""
    return CallFault(str(fault), LlmVerdict.IN_DOUBT, code=fault.code, permanent=fault.permanent)


class Gone(Exception):
    """The provider does not know the answer that was asked for again."""
