"""Settings of skills: free values, secrets by reference, what is not to be had is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coterie.node.config import ConfigError, NodeSettings, load_config, node_settings

NODES = "cluster: {nodes: [{id: n1, host: 127.0.0.1}]}\nsecurity: {allowInsecureLoopback: true}\n"


def of_node(tmp_path: Path, text: str) -> NodeSettings:
    """As node n1 gets them. Raises ConfigError."""
    file = tmp_path / "cluster.yaml"
    file.write_text(NODES + text)
    return node_settings(load_config([file], {}).config, "n1")


def settings(tmp_path: Path, text: str) -> Mapping[str, Mapping[str, Any]]:
    return of_node(tmp_path, text).skill_settings


def test_values_are_kept_and_secrets_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_USER", "me")
    secret = tmp_path / "secret"
    secret.write_text("s3\n")
    secret.chmod(0o600)
    given = settings(
        tmp_path,
        "skills:\n  settings:\n    mail:\n      smtpHost: h\n      accounts: [{user: {env: MAIL_USER},"
        f" password: {{file: {secret}}}, limits: {{per_day: 1.5}}}}]\n    shared/other: {{on: true}}\n",
    )
    account = {"user": "me", "password": "s3", "limits": {"per_day": 1.5}}
    assert given == {"mail": {"smtpHost": "h", "accounts": [account]}, "shared/other": {"on": True}}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            "{env: NO_SUCH_VARIABLE}",
            "skills.settings.mail.keys[0]: environment variable NO_SUCH_VARIABLE is not",
        ),
        ("{file: secret}", "skills.settings.mail.keys[0].file: secret: write the whole path"),
        ("{file: /no/such/file}", "skills.settings.mail.keys[0]: /no/such/file: cannot be read"),
        ("x" * 66_000, "skills.settings.mail: 66"),
    ],
)
def test_what_is_not_to_be_had_is_named(tmp_path: Path, value: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, f"skills: {{settings: {{mail: {{keys: [{value}]}}}}}}")
    assert [line for line in caught.value.problems if line.startswith(problem)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("web-fetch: {}", "skills.settings.web-fetch.hosts: is missing; add it"),
        (
            "web-fetch: {hosts: ['*'], timeoutMs: 5}",
            "web-fetch.timeoutMs: unknown key; did you mean timeoutS?",
        ),
        ("web-fetch: {hosts: ['*'], zzz: 5}", "web-fetch.zzz: unknown key; known: bytesMax, caFile, hosts"),
        ("web-fetch: {hosts: ['*'], timeoutS: soon}", "web-fetch.timeoutS: 'soon': "),
        ("web-fetch: {hosts: ['http://x']}", "web-fetch.hosts: 'http://x' is not a host"),
        ("file-management: {paths: [srv]}", "file-management.paths[0]: 'srv': "),
        (
            "communication: {channels: {m: {kind: smtp, host: h}}}",
            "communication.channels.m.sender: is missing",
        ),
        ("communication: {channels: {m: {kind: pigeon}}}", "communication.channels.m: "),
        (
            "web-search: {engines: {own: {kind: local, pth: /x}}}",
            "web-search.engines.own.pth: unknown key; did you mean path?",
        ),
        ("k8s-deploy: {clusters: {a: {server: x, namespaces: [b]}}}", "k8s-deploy.clusters.a.server: 'x': "),
        ("translate: {chunkChars: 1}", "skills.settings.translate.chunkChars: 1: must be at least 200"),
    ],
)
def test_what_a_shipped_skill_does_not_take_keeps_a_node_from_starting(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, f"skills: {{settings: {{{text}}}}}")
    assert [line for line in caught.value.problems if problem in line], caught.value.problems


def test_a_secret_that_does_not_fit_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_URL", "s3cret-url")
    store = "{endpoint: {env: S3_URL}, accessKey: a, secretKey: b}"
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, f"skills: {{settings: {{object-storage: {{stores: {{a: {store}}}}}}}}}")
    assert "skills.settings.object-storage.stores.a.endpoint: a value that is not shown: " in str(
        caught.value
    )
    assert "s3cret" not in str(caught.value)


def test_confined_skills_are_told_what_stands_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "s3cret")
    both = "{hosts: [a.example], accounts: [{name: x, key: {env: KEY}}], limits: {most: 3}}"
    node = of_node(tmp_path, f"skills: {{settings: {{shared/fetch: {both}}}}}")
    assert node.confined_settings == {"shared/fetch": {"hosts": ["a.example"], "limits": {"most": 3}}}
    assert node.skill_settings["shared/fetch"]["accounts"] == [{"name": "x", "key": "s3cret"}]


def test_a_name_that_is_nearly_a_shipped_skill_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(NODES + "skills: {settings: {web-fecth: {hosts: []}, shared/mine: {}}}")
    [said] = [one for one in load_config([file], {}).warnings if "web-f" in one]
    assert "skills.settings.web-fecth" in said and "web-fetch is" in said
    assert not [one for one in load_config([file], {}).warnings if "shared/mine" in one]
