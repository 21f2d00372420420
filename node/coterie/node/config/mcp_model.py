"""The mcp section: servers of the Model Context Protocol whose tools tasks may use."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictStr, create_model, model_validator

from coterie.node.config.kinds import FilePath, Section, duration
from coterie.node.config.llm_model import ApiKey, check_url

ServerId = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,31}$")]
Glob = Annotated[StrictStr, Field(min_length=1, max_length=128)]
Word = Annotated[StrictStr, Field(max_length=4_096)]


class McpWays(Section):
    """How a server is reached, and what of it may be used."""

    command: Annotated[tuple[Word, ...], Field(min_length=1, max_length=64)] | None = (
        None  # it speaks on stdio
    )
    url: Annotated[StrictStr, AfterValidator(check_url)] | None = None  # streamable HTTP
    env: dict[StrictStr, ApiKey] = Field(default_factory=dict)  # of the command
    cwd: FilePath | None = None  # of the command
    headers: dict[StrictStr, ApiKey] = Field(default_factory=dict)  # of every request to the url
    allow: Annotated[tuple[Glob, ...], Field(min_length=1, max_length=100)]  # tools, as *-patterns
    skills: Annotated[tuple[Glob, ...], Field(max_length=100)] = ("*",)  # task types that may use it
    timeout: Annotated[int, duration("100ms", "1d")] = 60_000  # of a call

    @model_validator(mode="after")
    def _one_way(self) -> McpWays:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either command, the words of a program to start, or url")
        if self.url is not None and (self.env or self.cwd):
            raise ValueError("env and cwd are for a command; give headers with a url")
        if self.url is None and self.headers:
            raise ValueError("headers are for a url; give env with a command")
        return self


# What a call does, and so what follows one that nobody can tell of: none and idempotent are made again,
# external waits for a person. `class` is a word of Python.
_CLASS: Any = {"class": (Literal["none", "idempotent", "external"], "external")}
McpServer = create_model("McpServer", __base__=McpWays, **_CLASS)


class Mcp(Section):
    """Servers by the id that skills call them by."""

    servers: dict[ServerId, McpServer] = Field(default_factory=dict)  # type: ignore[valid-type]
