"""The llm section: which language models there are, how they are reached, and what they cost."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr, create_model, model_validator

from coterie.node.config.kinds import FilePath, Name, Section, duration

USD_MAX = 1_000_000


def check_url(value: str) -> str:
    if not value.startswith(("http://", "https://")) or len(value) > 1_000:
        raise ValueError(f"{value!r} is no address of an API: give http(s)://host[:port]/v1")
    return value.rstrip("/")


class ApiKey(Section):
    """Where the key is: an environment variable of the node, or a file that only it can read."""

    env: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    file: FilePath | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ApiKey:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either env, the name of an environment variable, or file")
        return self


_USD = Annotated[float, Field(ge=0, le=USD_MAX, strict=False)]
_PRICES: Any = {"in": (_USD, 0.0), "out": (_USD, 0.0)}  # USD for a million tokens; `in` is a word of Python
Price = create_model("Price", __base__=Section, **_PRICES)


class LlmProvider(Section):
    """An OpenAI-compatible API."""

    base_url: Annotated[StrictStr, AfterValidator(check_url)]
    api_key: ApiKey | None = None  # none: the API asks for none
    model: Name
    api: Literal["chat", "responses"] = "chat"
    # Answers are made at the provider in the background and can be asked for again; auto: with `responses`
    background: StrictBool | Literal["auto"] = "auto"
    idempotency_keys: StrictBool = False  # it answers a repeated key with the first answer, for one bill
    price: Price = Price()  # type: ignore[valid-type]
    timeout: Annotated[int, duration("100ms", "1d")] = 600_000  # of a whole call
    stall_timeout: Annotated[int, duration("100ms", "1d")] = 60_000  # without a token
    max_tries: Annotated[StrictInt, Field(ge=1, le=20)] = 4
    max_output_tokens: Annotated[StrictInt, Field(ge=1, le=10_000_000)] = 4_096  # where a call says nothing
    # of a prompt; 1 is the worst case of every tokenizer, more lets a call cost more than was set aside
    bytes_per_token: Annotated[StrictInt, Field(ge=1, le=16)] = 1

    @model_validator(mode="after")
    def _background_needs_responses(self) -> LlmProvider:
        if self.background is True and self.api != "responses":
            raise ValueError("background: true needs api: responses")
        return self


class Llm(Section):
    """Language models for ctx.llm."""

    default: Name | None = None  # the provider of calls that name none; none: the only one
    providers: dict[Name, LlmProvider] = Field(default_factory=dict)
    on_unknown: Literal["retry", "ask", "fail"] = "retry"  # what follows a call that may have been billed
