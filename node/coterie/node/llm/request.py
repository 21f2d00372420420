"""What a skill asks a model for: checked, in one form whatever the API, with its worst case and its hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
)

from coterie.node.config import LlmSettings, ProviderSettings
from coterie.skills import CallRefused
from coterie.skills.replay import BESIDE_MAX, STEP_KEY_CHARS_MAX

MESSAGE_TOKENS = 16  # that a provider adds for each message, at most
MILLION = 1_000_000
DAY_MS = 86_400_000
ASKED = {"messages", "tools", "tool_choice", "output_schema", "temperature", "extra"}

# Parameters by which a call would cost more than its worst case, or be another one than was intended.
NOT_EXTRA = frozenset(
    [
        *("model", "messages", "input", "prompt", "conversation", "previous_response_id"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"),
        *("stream", "stream_options", "store", "background", "timeout"),
        *(
            "extra_body",
            "extra_query",
            "extra_headers",
        ),  # words of a library: what would stand in them goes here
    ]
)

Role = Literal["system", "developer", "user", "assistant", "tool"]


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolUse(_Given):
    """A call of a tool that the model asked for."""

    id: Annotated[StrictStr, Field(max_length=256)]
    name: Annotated[StrictStr, Field(max_length=256)]
    arguments: StrictStr


class Message(_Given):
    """One message: `content` is text, or a list of parts as the API takes them."""

    role: Role
    content: StrictStr | list[dict[str, Any]] | None = None
    tool_calls: list[ToolUse] = Field(default_factory=list)
    tool_call_id: Annotated[StrictStr, Field(max_length=256)] | None = None


class Tool(_Given):
    """A function that the model may ask for; `parameters` is a JSON schema."""

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: StrictStr = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


StepName = Annotated[StrictStr, Field(max_length=STEP_KEY_CHARS_MAX)]


class CallArgs(_Given):
    """The arguments of the call llm.call."""

    key: Annotated[StrictStr, Field(min_length=1, max_length=140)]
    messages: Annotated[list[Message], Field(min_length=1)]
    model: Annotated[StrictStr, Field(max_length=200)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: Annotated[StrictStr, Field(max_length=64)] | None = None  # auto, none, required or a name
    output_schema: dict[str, Any] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1, le=10_000_000)] | None = None
    budget_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    budget_micro_usd: Annotated[StrictInt, Field(ge=1)] | None = None
    cache_ttl_ms: Annotated[StrictInt, Field(ge=0, le=366 * DAY_MS)] = 0
    on_unknown: Literal["retry", "ask", "fail"] | None = None
    timeout_ms: Annotated[StrictInt, Field(ge=1, le=DAY_MS)] | None = None
    extra: dict[str, Any] = Field(default_factory=dict)  # further parameters, given on as they are
    stream: StrictBool = True  # tell watchers the words as they come
    beside: Annotated[tuple[StepName, ...], Field(max_length=BESIDE_MAX)] = ()  # see coterie.skills.replay

    @field_validator("extra")
    @classmethod
    def _keeps_the_worst_case(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if wrong := sorted(NOT_EXTRA & extra.keys()):
            raise ValueError(f"may not hold {', '.join(wrong)}: these are the call's own")
        return extra


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """A checked call, ready to be sent."""

    args: CallArgs
    provider: ProviderSettings
    model: str
    max_tokens: int
    tokens_in_max: int
    request_hash: str
    cache_key: str  # empty: its answer is not kept

    @property
    def tokens_max(self) -> int:
        """The worst case."""
        return self.tokens_in_max + self.max_tokens

    @property
    def micro_usd_max(self) -> int:
        return cost(self.provider, self.tokens_in_max, self.max_tokens)


def cost(provider: ProviderSettings, tokens_in: int, tokens_out: int) -> int:
    """In micro-USD, rounded up."""
    return -(-(tokens_in * provider.price_in + tokens_out * provider.price_out) // MILLION)


def read_request(settings: LlmSettings, tenant: str, given: Any) -> LlmRequest:
    """Check the arguments of a skill. Raises CallRefused naming every wrong field."""
    try:
        args = CallArgs.model_validate(given)
    except ValidationError as error:
        raise CallRefused(_said(error), code="BAD_LLM_CALL") from error
    provider, model = _choose(settings, args.model)
    tokens_in = tokens_in_max(args, provider)
    max_tokens = _room(args, provider, tokens_in)
    digest = _hash([provider.base_url, model, max_tokens, _asked(args)])
    kept = _hash([tenant, digest]) if args.cache_ttl_ms else ""
    return LlmRequest(args, provider, model, max_tokens, tokens_in, digest, kept)


def _said(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False)
    faults = (f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in details[:10])
    return "; ".join(faults)


def _choose(settings: LlmSettings, wanted: str | None) -> tuple[ProviderSettings, str]:
    """The provider and its model: `provider/model`, a provider, a model of the default one, or neither."""
    if not settings.providers:
        text = "no language model is configured; give llm.providers one (coterie dev: --model-url URL)"
        raise CallRefused(text, code="NO_PROVIDER")
    name, _, rest = (wanted or "").partition("/")
    if name in settings.providers:
        provider = settings.providers[name]
        return provider, rest or provider.model
    default = settings.providers.get(settings.default_provider)
    if default is None:
        known = ", ".join(settings.providers)
        raise CallRefused(
            f"model: {wanted!r} names no provider, and llm.default is not set; write one of {known}, "
            "alone or followed by /model",
            code="NO_PROVIDER",
        )
    return default, wanted or default.model


def _asked(args: CallArgs) -> dict[str, Any]:
    """What decides about the answer."""
    ignored = {
        "key",
        "budget_tokens",
        "budget_micro_usd",
        "cache_ttl_ms",
        "on_unknown",
        "timeout_ms",
        "stream",
        "beside",
    }
    return args.model_dump(exclude=ignored | {"max_tokens"}, exclude_defaults=True)


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tokens_in_max(args: CallArgs, provider: ProviderSettings) -> int:
    """No tokenizer makes more tokens than a text has bytes."""
    asked = json.dumps(_asked(args), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return -(-len(asked) // provider.bytes_per_token) + MESSAGE_TOKENS * (len(args.messages) + 1)


def _room(args: CallArgs, provider: ProviderSettings, tokens_in: int) -> int:
    """How many tokens the answer may have: within the call's own budget too. Raises CallRefused for none."""
    most = args.max_tokens or provider.output_tokens_max
    if args.budget_tokens is not None:
        most = min(most, args.budget_tokens - tokens_in)
    if args.budget_micro_usd is not None and provider.price_out:
        left = args.budget_micro_usd * MILLION - tokens_in * provider.price_in
        most = min(most, left // provider.price_out)
    if most < 1:
        text = f"budget: the prompt alone may take {tokens_in} tokens; nothing is left for an answer"
        raise CallRefused(text, code="BUDGET_EXHAUSTED")
    return most
