"""What a node is told about language models, keys included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coterie.node.config.findings import ConfigError
from coterie.node.config.llm_model import ApiKey, Llm, LlmProvider

MICRO = 1_000_000
SECRET_BYTES_MAX = 16_384


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider. Prices are micro-USD for a million tokens."""

    name: str
    base_url: str
    api_key: str = field(repr=False)  # empty: none is asked for
    model: str
    responses_api: bool
    background: bool
    idempotency_keys: bool
    price_in: int
    price_out: int
    timeout_ms: int
    stall_timeout_ms: int
    tries_max: int
    output_tokens_max: int
    bytes_per_token: int


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """The providers by name; `default_provider` is empty where each call must say."""

    default_provider: str = ""
    on_unknown: str = "retry"
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)


def llm_settings(section: Llm, env: Mapping[str, str]) -> LlmSettings:
    """Resolve the section. Raises ConfigError with every key that is not to be had."""
    problems: list[str] = []
    providers = {
        name: _provider(
            name, provider, secret(f"llm.providers.{name}.apiKey", provider.api_key, env, problems)
        )
        for name, provider in sorted(section.providers.items())
    }
    if problems:
        raise ConfigError(problems)
    only = next(iter(providers)) if len(providers) == 1 else ""
    return LlmSettings(section.default or only, section.on_unknown, providers)


def _provider(name: str, given: LlmProvider, key: str) -> ProviderSettings:
    prices = vars(given.price)
    responses = given.api == "responses"
    return ProviderSettings(
        name=name,
        base_url=given.base_url,
        api_key=key,
        model=given.model,
        responses_api=responses,
        background=responses if given.background == "auto" else given.background,
        idempotency_keys=given.idempotency_keys,
        price_in=round(prices["in"] * MICRO),
        price_out=round(prices["out"] * MICRO),
        timeout_ms=given.timeout,
        stall_timeout_ms=given.stall_timeout,
        tries_max=given.max_tries,
        output_tokens_max=given.max_output_tokens,
        bytes_per_token=given.bytes_per_token,
    )


def secret(where: str, given: ApiKey | None, env: Mapping[str, str], problems: list[str]) -> str:
    """The secret itself, one line; empty where none is given. What is wrong is added to `problems`."""
    if given is None:
        return ""
    if given.env is not None:
        key = env.get(given.env, "").strip()
        if not key:
            problems.append(f"{where}: environment variable {given.env} is not set; set it, or give a file")
        return key
    assert given.file is not None
    return _secret_of_file(where, given.file, problems)


def _secret_of_file(where: str, path: Path, problems: list[str]) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            key = file.read(SECRET_BYTES_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{where}: {path} cannot be read: {getattr(error, 'strerror', None) or error}")
        return ""
    if not key or not key.isprintable():
        problems.append(f"{where}: {path} holds no key; write it there as one line")
    return key
