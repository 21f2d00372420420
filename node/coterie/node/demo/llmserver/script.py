"""What the server answers: rules that look at the request, first match wins; else it repeats what was asked.

A rule is a JSON object. `when` (all of it must hold): contains (in the last message), anywhere (in any
message), tool (the last message is a result of that tool; "*" any), turn (how often the assistant
has spoken), model, path. `times`: how often it applies (default always). Then one of
  fail: {status, code, retry_after}            refuse, unbilled
  disconnect: n, stall: n                      after n pieces of the answer; 0: before its first byte
  answer: {text | json | tool_calls: [{name, arguments}]}
and chunk_ms, first_ms: pauses before each piece, and before the first. In a text, also within arguments,
`{last}` (the last message), `{results}` (what the tools said since then) and `{turn}` are replaced."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any

TOKEN_CHARS = 4
_STANDS = re.compile(r"\{(?:last|results|turn)\}")


@dataclass(frozen=True, slots=True)
class Message:
    """One of a conversation, whichever API it came through."""

    role: str  # system, user, assistant or tool
    text: str
    tool: str = ""  # of a result


@dataclass(frozen=True, slots=True)
class Question:
    """A request as the rules see it."""

    path: str
    model: str
    messages: tuple[Message, ...]
    schema: Any = None  # of the JSON that is wanted
    tools: tuple[str, ...] = ()
    tokens_max: int = 0

    @property
    def last(self) -> Message:
        return self.messages[-1] if self.messages else Message("user", "")

    @property
    def results(self) -> str:
        """What the tools said since the assistant spoke, in their order."""
        said = takewhile(lambda message: message.role == "tool", reversed(self.messages))
        return "\n\n".join(reversed([message.text for message in said]))

    @property
    def turn(self) -> int:
        """How often the assistant has spoken; its words and calls in a row are one time."""
        roles = ["user", *(message.role for message in self.messages)]
        return sum(role == "assistant" != before for before, role in pairwise(roles))


@dataclass(frozen=True, slots=True)
class ToolCall:
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said, and what it cost."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    cut: bool = False  # by the number of tokens asked for
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and how it goes wrong."""

    answer: Answer
    fail: dict[str, Any] | None = None
    disconnect: int | None = None
    stall: int | None = None
    chunk_ms: int = 0
    first_ms: int = 0


@dataclass(slots=True)
class Script:
    """The rules, and how often each may still apply."""

    rules: list[dict[str, Any]] = field(default_factory=list)
    chunk_ms: int = 0
    first_ms: int = 0

    def reply(self, question: Question) -> Reply:
        """What this request gets. Counts the use of a rule."""
        rule = next((rule for rule in self.rules if _applies(rule, question)), {})
        if "times" in rule:
            rule["times"] -= 1
        return Reply(
            _answer(rule.get("answer", {}), question),
            rule.get("fail"),
            rule.get("disconnect"),
            rule.get("stall"),
            rule.get("chunk_ms", self.chunk_ms),
            rule.get("first_ms", self.first_ms),
        )


def _applies(rule: dict[str, Any], question: Question) -> bool:
    when = rule.get("when", {})
    checks: dict[str, Callable[[Any], bool]] = {
        "contains": lambda want: want in question.last.text,
        "anywhere": lambda want: any(want in message.text for message in question.messages),
        "tool": lambda want: question.last.role == "tool" and want in ("*", question.last.tool),
        "turn": lambda want: question.turn == want,
        "model": lambda want: question.model == want,
        "path": lambda want: question.path == want,
    }
    return rule.get("times", 1) > 0 and all(checks[name](want) for name, want in when.items())


def _answer(given: dict[str, Any], question: Question) -> Answer:
    calls = tuple(
        ToolCall(
            _call_id(question, place), call["name"], json.dumps(_filled(call.get("arguments", {}), question))
        )
        for place, call in enumerate(given.get("tool_calls", ()))
    )
    text = "" if calls and "text" not in given else _text(given, question)
    room = question.tokens_max * TOKEN_CHARS if question.tokens_max else len(text)
    said = text[:room]
    tokens_in = tokens(json.dumps([message.text for message in question.messages]))
    out = tokens(said) + sum(tokens(call.arguments) for call in calls)
    return Answer(said, calls, len(said) < len(text), tokens_in, out)


def _call_id(question: Question, place: int) -> str:
    seen = json.dumps([message.text for message in question.messages])
    return "call_" + hashlib.sha256(f"{seen}{place}".encode()).hexdigest()[:16]


def _text(given: dict[str, Any], question: Question) -> str:
    if "json" in given:
        return json.dumps(given["json"])
    if "text" in given:
        return str(_filled(given["text"], question))
    if question.schema is not None:
        return json.dumps(sample(question.schema))
    return f"You said: {question.last.text}"


def _filled(value: Any, question: Question) -> Any:
    """Every text in it, with what stands for something replaced."""
    if isinstance(value, dict):
        return {name: _filled(part, question) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, question) for part in value]
    if not isinstance(value, str):
        return value
    known = {"{last}": question.last.text, "{results}": question.results, "{turn}": str(question.turn)}
    return _STANDS.sub(lambda found: known[found[0]], value)


def tokens(text: str) -> int:
    """As this server counts them: one per four characters, at least one of anything."""
    return -(-len(text) // TOKEN_CHARS)


def sample(schema: Any) -> Any:
    """The smallest value that a JSON schema of the usual kind allows."""
    if not isinstance(schema, dict):
        return None
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: sample(part) for name, part in schema.get("properties", {}).items()}
    simple: dict[str, Any] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "null": None}
    return [sample(schema.get("items", {}))] if kind == "array" else simple.get(kind)
