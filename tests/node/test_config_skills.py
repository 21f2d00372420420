"""Settings of skills: free values, secrets by reference, what is not to be had is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coterie.node.config import ConfigError, load_config, node_settings

NODES = "cluster: {nodes: [{id: n1, host: 127.0.0.1}]}\nsecurity: {allowInsecureLoopback: true}\n"


def settings(tmp_path: Path, text: str) -> Mapping[str, Mapping[str, Any]]:
    """As node n1 gets them. Raises ConfigError."""
    file = tmp_path / "cluster.yaml"
    file.write_text(NODES + text)
    return node_settings(load_config([file], {}).config, "n1").skill_settings


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
