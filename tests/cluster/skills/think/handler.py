"""Calls of a language model, one after the other or together."""

from __future__ import annotations

import asyncio
from typing import Any


async def run(ctx: Any, input: dict[str, Any]) -> dict[str, Any]:
    async def ask(given: dict[str, Any]) -> dict[str, Any]:
        options = dict(given)
        answer = await ctx.llm(options.pop("prompt"), **options)
        calls = [[one.name, one.arguments] for one in answer.tool_calls]
        found = {"text": answer.text, "data": answer.data, "tool_calls": calls, "cached": answer.cached}
        return {**found, "tokens": answer.usage.tokens_in + answer.usage.tokens_out}

    if input.get("parallel"):
        answers = await asyncio.gather(*(ask(given) for given in input["asks"]))
    else:
        answers = [await ask(given) for given in input["asks"]]
    return {"attempt": ctx.attempt, "answers": answers}
