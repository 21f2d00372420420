"""What a node is told about MCP servers, secrets included."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from coterie.node.config.findings import ConfigError
from coterie.node.config.llm_settings import secret
from coterie.node.config.mcp_model import Mcp, McpWays

EXTRA = "mcp.servers needs the library mcp, which is not installed here: pip install 'coterie[mcp]'"


@dataclass(frozen=True, slots=True)
class McpServerSettings:
    """One server. Either `command` or `url` is empty."""

    name: str
    command: tuple[str, ...]
    url: str
    env: Mapping[str, str] = field(repr=False)
    cwd: Path | None
    headers: Mapping[str, str] = field(repr=False)
    allow: tuple[str, ...]
    skills: tuple[str, ...]
    effects: str  # none, idempotent or external
    timeout_ms: int

    def allows(self, tool: str) -> bool:
        """Whether tasks may call that tool."""
        return any(fnmatchcase(tool, glob) for glob in self.allow)

    def serves(self, task_type: str) -> bool:
        """Whether tasks of that type may use it at all."""
        return any(fnmatchcase(task_type, glob) for glob in self.skills)


def mcp_settings(section: Mcp, env: Mapping[str, str]) -> dict[str, McpServerSettings]:
    """Resolve the section. Raises ConfigError with every secret and program that is not to be had."""
    if not section.servers:
        return {}
    problems = [] if find_spec("mcp") else [EXTRA]
    servers = {name: _server(name, one, env, problems) for name, one in sorted(section.servers.items())}
    if problems:
        raise ConfigError(problems)
    return servers


def _server(name: str, given: McpWays, env: Mapping[str, str], problems: list[str]) -> McpServerSettings:
    where = f"mcp.servers.{name}"
    if given.command and shutil.which(given.command[0], path=env.get("PATH")) is None:
        problems.append(f"{where}.command: no program {given.command[0]!r} on this node; install it")
    return McpServerSettings(
        name=name,
        command=given.command or (),
        url=given.url or "",
        env={key: secret(f"{where}.env.{key}", one, env, problems) for key, one in given.env.items()},
        cwd=given.cwd,
        headers={
            key: secret(f"{where}.headers.{key}", one, env, problems) for key, one in given.headers.items()
        },
        allow=given.allow,
        skills=given.skills,
        effects=vars(given)["class"],
        timeout_ms=given.timeout,
    )
