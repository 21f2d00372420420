"""ctx.llm: asking a language model as a step of the task, paid once and within the budgets of the cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.skills import jsonio
from coterie.skills.errors import NonRetryable
from coterie.skills.link import Link
from coterie.skills.replay import Replay

MICRO = 1_000_000
_BUDGET = re.compile(r"\$?(?P<number>\d+(?:\.\d+)?)\s*(?P<scale>[kKM]?)\s*(?P<unit>tokens?|usd|USD|)")
_SCALES = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}


class BadAnswer(NonRetryable):
    """The model's answer is not JSON of the schema it was given, also after being told so."""

    code = "BAD_ANSWER"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called. `arguments` is what it wrote, read as JSON; None: it is no JSON."""

    id: str
    name: str
    arguments: Any
    raw: str


@dataclass(frozen=True, slots=True)
class LlmUsage:
    """What the call came to. `estimated`: the provider did not say, so that the worst case counts."""

    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0
    micro_usd: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class LlmAnswer:
    """A recorded answer: the same in every attempt of the task."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str  # stop, length, tool_calls or what else the provider says
    model: str
    provider: str
    usage: LlmUsage
    data: Any = None  # with a schema: the answer as it asks for
    replayed: bool = False  # recorded by an earlier attempt
    cached: bool = False  # that of an equal request
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def message(self) -> dict[str, Any]:
        """The answer as the next message of the conversation."""
        said: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            said["tool_calls"] = [
                {"id": one.id, "name": one.name, "arguments": one.raw} for one in self.tool_calls
            ]
        return said


class Models:
    """What a context offers to those who ask models."""

    _link: Link
    _replay: Replay

    def _claim_key(self, name: str) -> str:
        raise NotImplementedError

    def llm(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        name: str = "llm",
        schema: Any = None,
        budget: int | str | None = None,
        repairs: int = 1,
        **options: Any,
    ) -> Coroutine[Any, Any, LlmAnswer]:
        """Await this: ask a language model; the answer is a recorded step of the task.

        The node calls the provider. What is meant to be spent is committed before the call, and the answer
        with what it cost after it. If the node dies in between, the next attempt asks the provider for that
        same answer, where it can; else the call is in doubt, counts at its worst, and is repeated or not by
        `on_unknown`.

        `messages`: a prompt, or messages {role, content, tool_calls, tool_call_id}. `schema`: a JSON schema
        or a pydantic model; `answer.data` is then such a value, and an answer that is not is sent back
        `repairs` times, past the cache. `budget`: of this call: tokens (2000, "2k") or money ("$0.05").
        `options`: model ("provider", "provider/model" or "model"), tools [{name, description, parameters}],
        tool_choice, temperature, max_tokens, cache_ttl (seconds for which equal requests of the tenant get
        the same answer), on_unknown (retry, ask, fail), timeout (seconds), stream (False: watchers see no
        tokens), extra (further parameters of the API, beside those of the call).
        Raises CallRefused (code BUDGET_EXHAUSTED, LLM_REFUSED, LLM_IN_DOUBT, BAD_LLM_CALL …), CallFailed,
        BadAnswer, Fenced.
        """
        talk = [_message(one) for one in _talk(messages)]
        given = _options(options) | _budget(budget)
        if schema is not None:
            given["output_schema"] = _json_schema(schema)
        return self._ask_llm(self._claim_key(name), talk, given, schema, repairs)

    async def _ask_llm(
        self, key: str, talk: list[dict[str, Any]], given: dict[str, Any], schema: Any, repairs: int
    ) -> LlmAnswer:
        for repair in range(repairs + 1):
            step = f"{key}.repair{repair}" if repair else key
            record, replayed = await self._llm_step(step, {**given, "messages": talk})
            answer = _answer(record, replayed)
            if schema is None or answer.tool_calls:
                return answer
            data, fault = _fitting(schema, answer.text)
            if not fault:
                return _with_data(answer, data)
            again = f"That does not fit the schema: {fault}. Answer again, with nothing but the JSON."
            talk = [*talk, _message(answer.message), {"role": "user", "content": again}]
            given = {name: value for name, value in given.items() if name != "cache_ttl_ms"}  # it may err too
        raise BadAnswer(f"the answer does not fit the schema: {fault}")

    async def _llm_step(self, key: str, args: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        recorded = self._replay.result(key)
        if recorded is not None:
            known: dict[str, Any] = jsonio.decode(recorded)
            return known, True
        beside = self._replay.beside(key)
        told = {"beside": beside} if beside else {}
        made: dict[str, Any] = await self._link.call("llm.call", {**args, "key": key, **told})
        self._replay.recorded(key, beside)
        return made, False


def _talk(messages: str | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _message(given: Mapping[str, Any]) -> dict[str, Any]:
    """A message in the form of the call; tool calls may come in the form of the chat API too."""
    message = dict(given)
    if message.get("tool_calls"):
        message["tool_calls"] = [_tool_call(one) for one in message["tool_calls"]]
    return message


def _tool_call(given: Mapping[str, Any]) -> dict[str, Any]:
    inner = given.get("function", given)
    arguments = inner.get("arguments", "")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": given["id"], "name": inner["name"], "arguments": text}


def _tool(given: Mapping[str, Any]) -> dict[str, Any]:
    inner = given.get("function", given)
    kept = ("name", "description", "parameters")
    return {name: inner[name] for name in kept if inner.get(name) is not None}


OPTIONS = ("model", "tool_choice", "temperature", "max_tokens", "on_unknown", "stream", "extra")
_OTHERS = ("tools", "cache_ttl", "timeout")


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - {*OPTIONS, *_OTHERS})
    if unknown:
        known = ", ".join(sorted((*OPTIONS, *_OTHERS)))
        raise ValueError(f"llm: unknown option {unknown[0]!r}; known: {known}")
    options = {name: given[name] for name in OPTIONS if given.get(name) is not None}
    if given.get("tools"):
        options["tools"] = [_tool(tool) for tool in given["tools"]]
    for name in ("cache_ttl", "timeout"):
        if given.get(name) is not None:
            options[f"{name}_ms"] = round(given[name] * 1_000)
    return options


def _budget(given: int | str | None) -> dict[str, int]:
    """2000, "2k tokens", "$0.05" or "0.05 usd"."""
    if given is None:
        return {}
    match = _BUDGET.fullmatch(str(given).strip())
    if match is None:
        raise ValueError(f"budget: {given!r} is neither tokens, as in '2k tokens', nor money, as in '$0.05'")
    number = float(match["number"]) * _SCALES[match["scale"]]
    money = str(given).strip().startswith("$") or match["unit"].lower() == "usd"
    return {"budget_micro_usd": round(number * MICRO)} if money else {"budget_tokens": round(number)}


def _json_schema(schema: Any) -> Any:
    return schema.model_json_schema() if hasattr(schema, "model_json_schema") else schema


def _fitting(schema: Any, text: str) -> tuple[Any, str]:
    """The value, and what is wrong with it. Of a plain JSON schema only the JSON is checked."""
    try:
        data = json.loads(text)
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()  # NaN, half a character: no JSON
        return (schema.model_validate(data) if hasattr(schema, "model_validate") else data), ""
    except (ValueError, RecursionError) as error:
        return None, str(error)[:1_000]


def _answer(record: Mapping[str, Any], replayed: bool) -> LlmAnswer:
    calls = tuple(
        ToolCall(one["id"], one["name"], _arguments(one["arguments"]), one["arguments"])
        for one in record["tool_calls"]
    )
    return LlmAnswer(
        record["text"],
        calls,
        record["finish_reason"],
        record["model"],
        record["provider"],
        LlmUsage(**record["usage"]),
        replayed=replayed,
        cached=bool(record.get("cached")),
        raw=record,
    )


def _arguments(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None


def _with_data(answer: LlmAnswer, data: Any) -> LlmAnswer:
    values = {name: getattr(answer, name) for name in LlmAnswer.__slots__}
    return LlmAnswer(**{**values, "data": data})
