"""The mcp section: what is wrong with it is named, and secrets are read where they are, and shown nowhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from coterie.node.config import ConfigError, McpServerSettings, load_config, node_settings

NODES = "cluster: {nodes: [{id: n1, host: 127.0.0.1}]}\nsecurity: {allowInsecureLoopback: true}\n"


def servers(tmp_path: Path, text: str) -> dict[str, McpServerSettings]:
    """As node n1 gets them. Raises ConfigError."""
    file = tmp_path / "cluster.yaml"
    file.write_text(NODES + "mcp: {servers: {s: " + text + "}}")
    return dict(node_settings(load_config([file], {}).config, "n1").mcp)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{allow: ['*']}", "mcp.servers.s: give either command"),
        ("{url: 'http://x/mcp', command: [x], allow: ['*']}", "mcp.servers.s: give either command"),
        ("{url: 'http://x/mcp'}", "mcp.servers.s.allow: is missing"),
        ("{url: 'http://x/mcp', allow: []}", "mcp.servers.s.allow"),
        (
            "{url: 'http://x/mcp', allow: ['*'], alow: ['*']}",
            "mcp.servers.s.alow: unknown key; did you mean allow?",
        ),
        ("{url: 'http://x/mcp', allow: ['*'], class: some}", "mcp.servers.s.class"),
        ("{url: 'http://x/mcp', allow: ['*'], env: {A: {env: B}}}", "env and cwd are for a command"),
        ("{command: [python], allow: ['*'], headers: {A: {env: B}}}", "headers are for a url"),
        ("{url: 'http://x/mcp', allow: ['*'], headers: {A: {}}}", "mcp.servers.s.headers.A: give either env"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        servers(tmp_path, text)
    said = [line for line in caught.value.problems if problem in line]
    assert len(said) == 1 and "cluster.yaml:3" in said[0]


def test_programs_and_secrets_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        servers(
            tmp_path, "{command: [no-such-program], allow: ['*'], env: {A: {env: NOT_SET}, B: {file: no}}}"
        )
    said = "\n".join(caught.value.problems)
    assert "mcp.servers.s.command: no program 'no-such-program' on this node" in said
    assert "mcp.servers.s.env.A: environment variable NOT_SET is not set" in said
    assert "mcp.servers.s.env.B" in said and "cannot be read" in said


def test_a_missing_extra_is_named_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_settings_module(), "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'coterie\[mcp\]'"):
        servers(tmp_path, "{url: 'http://x/mcp', allow: ['*']}")
    file = tmp_path / "cluster.yaml"
    file.write_text(NODES)
    assert node_settings(load_config([file], {}).config, "n1").mcp == {}, "and nobody else needs it"


def mcp_settings_module() -> object:
    return sys.modules["coterie.node.config.mcp_settings"]


def test_a_server_with_everything(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("hush\n")
    more = "env: {WORD: {file: word}}, allow: ['read_*'], class: none, timeout: 2m}"
    text = f"{{command: [{sys.executable}, x.py], {more}"
    server = servers(tmp_path, text)["s"]
    assert (server.command, server.url, server.env) == ((sys.executable, "x.py"), "", {"WORD": "hush"})
    assert (server.effects, server.timeout_ms, server.skills) == ("none", 120_000, ("*",))
    assert server.allows("read_file") and not server.allows("write_file")
    assert "hush" not in repr(server)
    web = servers(
        tmp_path, "{url: 'http://x/mcp', headers: {A: {file: word}}, allow: ['*'], skills: ['a-*']}"
    )["s"]
    assert (web.headers, web.effects) == ({"A": "hush"}, "external")
    assert web.serves("a-b") and not web.serves("b")
    assert "hush" not in repr(web)
