"""A model for tests in one process: it answers as a function says, and what it answered stays recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.skills.shipped.support import Crash, Journal

Talk = Sequence[dict[str, Any]]


class Model(Journal):
    """A journal whose node asks `say(talk)`; `asked_keys` is what was paid for, in order."""

    def __init__(self, say: Callable[[Talk], str], dies_after: int = 0) -> None:
        super().__init__()
        self.say, self.dies_after = say, dies_after
        self.asked_keys: list[str] = []
        self.talks: list[Talk] = []
        self.options: list[dict[str, Any]] = []
        self.finish: Callable[[Talk], str] = lambda talk: "stop"
        self.answers["llm.call"] = self._ask

    def _ask(self, args: dict[str, Any]) -> dict[str, Any]:
        if self.dies_after and len(self.asked_keys) == self.dies_after:
            self.dies_after = 0
            raise Crash("the attempt dies here")
        self.asked_keys.append(args["key"])
        self.talks.append(args["messages"])
        self.options.append(args)
        record = {
            "text": self.say(args["messages"]),
            "tool_calls": [],
            "finish_reason": self.finish(args["messages"]),
            "model": "m",
            "provider": "p",
            "usage": {"tokens_in": 1, "tokens_out": 1},
        }
        self.steps[args["key"]] = json.dumps(record).encode()
        return record


def text_in(talk: Talk) -> str:
    """The text that the first question of a talk is about."""
    asked = next(one["content"] for one in talk if one["role"] == "user")
    mark = asked.rpartition("</")[2].rstrip(">\n")
    return str(asked.split(f"<{mark}>\n")[-1].removesuffix(f"\n</{mark}>"))
