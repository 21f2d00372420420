"""The llm section: what is wrong with it is named, and keys are read where they are, and shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.node.config import ConfigError, LlmSettings, load_config, node_settings

NODES = "cluster: {nodes: [{id: n1, host: 127.0.0.1}]}\nsecurity: {allowInsecureLoopback: true}\n"


def settings(tmp_path: Path, text: str) -> LlmSettings:
    """As node n1 gets them. Raises ConfigError."""
    file = tmp_path / "cluster.yaml"
    file.write_text(NODES + text)
    return node_settings(load_config([file], {}).config, "n1").llm


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("llm: {default: main}", "llm.default: main: no provider has this name; known: none"),
        ("llm: {providers: {a: {model: m}}}", "llm.providers.a.baseUrl: is missing"),
        ("llm: {providers: {a: {baseUrl: ftp://x, model: m}}}", "'ftp://x' is no address of an API"),
        (
            "llm: {providers: {a: {baseUrl: 'http://x/v1', model: m, modle: x}}}",
            "llm.providers.a.modle: unknown key; did you mean model?",
        ),
        (
            "llm: {providers: {a: {baseUrl: 'http://x/v1', model: m, background: true}}}",
            "llm.providers.a: background: true needs api: responses",
        ),
        (
            "llm: {providers: {a: {baseUrl: 'http://x/v1', model: m, apiKey: {}}}}",
            "llm.providers.a.apiKey: give either env",
        ),
        (
            "llm: {providers: {a: {baseUrl: 'http://x/v1', model: m, price: {in: -1}}}}",
            "llm.providers.a.price.in: -1: must be at least 0",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    said = [line for line in caught.value.problems if problem in line]
    assert len(said) == 1 and "cluster.yaml:3" in said[0]


@pytest.mark.parametrize(
    "text",
    [
        "llm: {providers: {a: {baseUrl: 'http://x/v1', model: m, apiKey: sk-hidden}}}",
        "mcp: {servers: {a: {url: 'http://x/v1', allow: ['*'], headers: {Authorization: sk-hidden}}}}",
        "mcp: {servers: {a: {command: [x], allow: ['*'], env: {TOKEN: sk-hidden}}}}",
    ],
)
def test_a_secret_that_stands_in_the_file_itself_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    assert "expected env or file" in str(caught.value) and "sk-hidden" not in str(caught.value)


def test_a_provider_with_everything(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    llm = settings(
        tmp_path,
        "llm: {providers: {a: {baseUrl: 'http://x/v1/', model: m, api: responses, apiKey: {file: key},"
        " price: {in: 0.15, out: 0.6}, timeout: 2m}}}",
    )
    provider = llm.providers["a"]
    assert (llm.default_provider, llm.on_unknown) == ("a", "retry")
    assert (provider.base_url, provider.api_key, provider.background) == ("http://x/v1", "sk-1", True)
    assert (provider.price_in, provider.price_out, provider.timeout_ms) == (150_000, 600_000, 120_000)
    assert "sk-1" not in repr(llm)


def test_a_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "llm: {providers: {a: {baseUrl: 'http://x/v1', model: m, apiKey: {env: THE_KEY}}}}"
    with pytest.raises(ConfigError, match="environment variable THE_KEY is not set"):
        settings(tmp_path, text)
    monkeypatch.setenv("THE_KEY", "sk-2")
    assert settings(tmp_path, text).providers["a"].api_key == "sk-2"


@pytest.mark.parametrize(("content", "problem"), [(None, "cannot be read"), ("", "holds no key")])
def test_a_key_file_must_hold_a_key(tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    with pytest.raises(ConfigError, match=problem):
        settings(tmp_path, "llm: {providers: {a: {baseUrl: 'http://x/v1', model: m, apiKey: {file: key}}}}")


def test_without_providers_there_is_no_default(tmp_path: Path) -> None:
    assert settings(tmp_path, "") == LlmSettings()
