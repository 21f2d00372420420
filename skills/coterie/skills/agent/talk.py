"""The conversation of a run: what the model sees, kept within its window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.skills.agent.plan import Agent, Request
from coterie.skills.models import LlmAnswer

CHARS_PER_TOKEN = 3  # a low guess: too early is better than refused
KEPT_TURNS = 2  # in full, when the rest is put into fewer words
SUMMARY = (
    "Put the work so far into few words for yourself, who will go on with it: what was asked, what was found "
    "(figures, names and places exactly), what was decided, what failed, what is left to do."
)
LAST_TURN = "You may call no more tools. Answer now, with what you have, and say what is missing."


@dataclass(slots=True)
class Talk:
    """`head`: what stays in full. `turns`: each a thought and the results of its calls."""

    agent: Agent
    head: list[dict[str, Any]]
    turns: list[list[dict[str, Any]]] = field(default_factory=list)
    summary: str = ""
    tokens: int = 0  # of the newest question, by what the provider counted

    @classmethod
    def of(cls, agent: Agent, request: Request, recalled: Sequence[str]) -> Talk:
        system = [agent.system]
        if recalled:
            system.append("What you remember:\n" + "\n".join(f"- {line}" for line in recalled))
        first = {"role": "system", "content": "\n\n".join(system)}
        return cls(agent, [first, *request.messages])

    def messages(self, *, last: bool = False) -> list[dict[str, Any]]:
        """What to ask the model with."""
        shown = list(self.head)
        if self.summary:
            shown.append({"role": "user", "content": f"Your notes of the work so far:\n{self.summary}"})
        for turn in self.turns:
            shown.extend(turn)
        if last:
            shown.append({"role": "user", "content": LAST_TURN})
        return shown

    def add(self, answer: LlmAnswer, results: Sequence[str]) -> None:
        """A turn: each result belongs to the call at its place."""
        said = [
            {"role": "tool", "tool_call_id": call.id, "content": clipped(text, self.agent.result_chars)}
            for call, text in zip(answer.tool_calls, results, strict=True)
        ]
        self.tokens = answer.usage.tokens_in
        self.turns.append([answer.message, *said])

    @property
    def is_full(self) -> bool:
        """Whether the next thought, its answer and one more result may not fit. By what is recorded alone, so
        that every attempt finds the same."""
        chars = sum(len(json.dumps(message, ensure_ascii=False)) for message in self.messages())
        room = self.agent.window - int(self.agent.think.get("max_tokens", 0))
        used = max(chars // CHARS_PER_TOKEN, self.tokens)
        return used > room * 4 // 5 and len(self.turns) > KEPT_TURNS

    def to_summarize(self) -> list[dict[str, Any]]:
        """What the model is shown to make its notes: all but the newest turns, as one text."""
        old = [message for turn in self.turns[:-KEPT_TURNS] for message in turn]
        lines = [f"Notes until then:\n{self.summary}"] if self.summary else []
        lines += [_line(message) for message in old]
        text = clipped("\n\n".join(lines), self.agent.window * CHARS_PER_TOKEN // 2)
        return [*self.head, {"role": "user", "content": f"{SUMMARY}\n\nThe work so far:\n\n{text}"}]

    def shorten(self, summary: str) -> None:
        """From now on the old turns are these notes."""
        self.summary, self.tokens = summary, 0
        del self.turns[:-KEPT_TURNS]


def clipped(text: str, chars: int) -> str:
    """The beginning and the end, where it is too long, and how much is missing between them."""
    if len(text) <= chars:
        return text
    note = f"\n[… {len(text) - chars} of {len(text)} characters left out …]\n"
    head = chars * 3 // 4
    return text[:head] + note + text[len(text) - (chars - head) :]


def _line(message: dict[str, Any]) -> str:
    calls = "".join(f"\n  calls {one['name']} {one['arguments']}" for one in message.get("tool_calls", ()))
    return f"{message['role']}: {message['content']}{calls}"
