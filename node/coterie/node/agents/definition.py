"""From the files of an agent to what its loop needs: everything wrong with them is said at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from coterie.node.agents import files as f
from coterie.node.agents.model import AgentConfig, RegistryEntry, ToolsConfig
from coterie.skills.yaml_extent import load_yaml

# No part of it can take what another one may: its time grows with the length of the line alone.
_LABEL = re.compile(r"[-*]\s*+\**+\s*+(?P<label>[^:*\s][^:*]{0,39}?)\**\s*+:\s*+(?P<value>.+)")
_PLACEHOLDER = re.compile(r"^[_<\[(]|^https?://\.\.\.$|^\.\.\.$|^(tbd|todo|none)$", re.IGNORECASE)
Section = TypeVar("Section", bound=BaseModel)
VALUES_MAX = 20_000  # of a YAML file, aliases counted each time
SHOWN_MAX = 100  # problems
VALUE_CHARS_MAX, MESSAGE_CHARS_MAX = 80, 300
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = VALUE_CHARS_MAX


@dataclass(frozen=True, slots=True)
class Definition:
    """An agent. `identity` are the labels of IDENTITY.md, lower case."""

    config: AgentConfig
    tools: ToolsConfig
    identity: dict[str, str]
    texts: dict[str, str]
    registry: RegistryEntry | None = None

    @property
    def agent_id(self) -> str:
        return self.config.id

    @property
    def name(self) -> str:
        return self.identity.get("name") or self.config.name or self.config.id

    @property
    def version(self) -> str:
        registered = self.registry.version if self.registry else ""
        return self.config.version or self.identity.get("version", "") or registered

    @property
    def domains(self) -> tuple[str, ...]:
        """What it is good at, for those who look for an agent."""
        registered = self.registry.domains if self.registry else ()
        return tuple(dict.fromkeys((*self.config.capabilities, *registered)))

    @property
    def concurrent(self) -> int:
        """How many runs of it at once in the whole cluster; 0: as many as there is room for."""
        limits = [self.config.rate_limits.concurrent_sessions or 0]
        limits.append(self.registry.replicas if self.registry else 0)
        return min((limit for limit in limits if limit), default=0)

    def system_prompt(self) -> str:
        """Who the agent is, in a fixed order, so that providers can cache it."""
        about = [f"You are {self.name}. {self.config.description}".strip()]
        shown = [
            f"{label}: {value}" for label, value in self.identity.items() if label not in ("name", "avatar")
        ]
        parts = [*about, *(["\n".join(shown)] if shown else [])]
        return "\n\n".join([*parts, *(self.texts[name].strip() for name in self.texts)])


def read_definition(files: f.Files) -> Definition:
    """Raises AgentProblems with everything that is wrong."""
    problems = f.size_problems(files)
    short = {name: text for name, text in files.items() if len(text) <= f.FILE_CHARS_MAX}
    config = _config(short.get(f.CONFIG, ""), problems) if files.keys() & {f.CONFIG} <= short.keys() else None
    tools = _tools(short.get(f.TOOLS, "{}"), problems)
    registry = _registry(short.get(f.REGISTRY, ""), problems)
    identity = dict(_identity(short.get(f.IDENTITY, "")))
    if config is not None:
        problems += _contradictions(config, identity, registry)
    if problems or config is None or tools is None:
        more = [f"agent: and {len(problems) - SHOWN_MAX} problems more"] if len(problems) > SHOWN_MAX else []
        raise f.AgentProblems([*problems[:SHOWN_MAX], *more])
    texts = {name: files[name] for name in (f.SOUL, f.RULES, f.USER, f.MEMORY) if files.get(name, "").strip()}
    return Definition(config, tools, identity, texts, registry)


def skill_name(bound: str, known: Container[str]) -> str:
    """`shared/web-search` is that skill, or web-search out of the folder `shared`."""
    return bound if bound in known else bound.rpartition("/")[2]


def read_registry(text: str) -> dict[str, dict[str, Any]]:
    """The entries of an agent-registry.yaml as they are written, by id. Raises AgentProblems."""
    problems: list[str] = []
    document = _yaml(text, "agent-registry.yaml", problems)
    entries = document.get("agents") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise f.AgentProblems([*problems, "agent-registry.yaml: agents: a list is expected"])
    for place, entry in enumerate(entries):
        _section(RegistryEntry, entry, f"agent-registry.yaml: agents[{place}]", problems)
    if problems:
        raise f.AgentProblems(problems)
    return {entry["id"]: entry for entry in entries}


def _config(text: str, problems: list[str]) -> AgentConfig | None:
    before = len(problems)
    document = _yaml(text, f.CONFIG, problems)
    if len(problems) > before:
        return None
    if isinstance(document, dict) and set(document) == {"agent"}:
        return _section(AgentConfig, document["agent"], f"{f.CONFIG}: agent", problems)
    return _section(AgentConfig, document, f.CONFIG, problems)


def _tools(text: str, problems: list[str]) -> ToolsConfig | None:
    return _json_section(ToolsConfig, text, f.TOOLS, problems)


def _registry(text: str, problems: list[str]) -> RegistryEntry | None:
    if not text:
        return None
    return _json_section(RegistryEntry, text, "agent-registry.yaml", problems)


def _json_section(kind: type[Section], text: str, name: str, problems: list[str]) -> Section | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{name}: not JSON: {error}")
        return None
    return _section(kind, document, name, problems)


def _yaml(text: str, name: str, problems: list[str]) -> Any:
    try:
        return load_yaml(text, VALUES_MAX)
    except (yaml.YAMLError, ValueError) as error:
        problems.append(f"{name}: not YAML: {' '.join(str(error).split())}")
        return {}


def _section(kind: type[Section], value: object, name: str, problems: list[str]) -> Section | None:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=True):
            path = ".".join(str(part)[:VALUE_CHARS_MAX] for part in detail["loc"])
            problems.append(f"{name}{_sep(name, path)}{path}: {_said(kind, detail)}")
        return None


def _sep(name: str, path: str) -> str:
    if not path:
        return ""
    return ": " if name.endswith((".yaml", ".json")) else "."


_PLAIN = {
    "tuple_type": "a list is expected",
    "dict_type": "a mapping is expected",
    "model_type": "a mapping is expected",
    "bool_type": "true or false is expected",
    "bool_parsing": "true or false is expected",
    "int_type": "a whole number is expected",
    "int_parsing": "a whole number is expected",
    "string_type": "a text is expected",
}


def _said(kind: type[BaseModel], detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        known = _keys_at(kind, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1, cutoff=0.6)
        return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known: {', '.join(known)}"
    if detail["type"] == "missing":
        return "missing"
    message = _PLAIN.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")[:MESSAGE_CHARS_MAX]
    return f"{message[0].lower()}{message[1:]} (it is {_SHORT.repr(detail['input'])})"


def _keys_at(kind: type[BaseModel], path: Sequence[object]) -> list[str]:
    """The keys of the section at that path, as far as it can be told."""
    found: type[BaseModel] = kind
    for part in path:
        info = found.model_fields.get(str(part)) or next(
            (field for field in found.model_fields.values() if field.alias == part), None
        )
        if info is None:
            continue  # a position in a list
        inner = [
            one for one in (info.annotation, *getattr(info.annotation, "__args__", ())) if _is_model(one)
        ]
        if not inner:
            return []
        found = inner[0]
    return list(found.model_fields)


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _identity(text: str) -> Iterator[tuple[str, str]]:
    """`- Label: value` lines; placeholders that nobody has filled in are none."""
    for line in text.splitlines():
        found = _LABEL.match(line.strip())
        if found and not _PLACEHOLDER.match(found["value"]):
            yield found["label"].strip().lower(), found["value"]


def _contradictions(
    config: AgentConfig, identity: dict[str, str], registry: RegistryEntry | None
) -> Iterable[str]:
    if identity.get("id", config.id) not in (config.id, *config.aliases):
        yield f"{f.IDENTITY}: ID: {identity['id']} is not agent.id {config.id}; write the same"
    if registry is not None and registry.id not in (config.id, *config.aliases):
        yield f"agent-registry.yaml: {registry.id} is not agent.id {config.id}"
    storage = config.memory.storage
    if storage.backend != "replicated" or storage.connection_string:
        yield (
            f"{f.CONFIG}: agent.memory.storage: {storage.backend} is not supported: memory is kept by the "
            "cluster itself; remove storage (and never write a password into this file)"
        )
    names = [binding.skill_id for binding in config.skills]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{f.CONFIG}: agent.skills: {name} is bound twice; remove one"
    if config.model.max_tokens * 2 > config.loop.window:
        yield (
            f"{f.CONFIG}: agent.loop.window: {config.loop.window} tokens leave no room beside an answer of "
            f"agent.model.max_tokens {config.model.max_tokens}; it is at least twice that"
        )
    permissions = config.permissions
    if permissions.paths and not permissions.file_access:
        yield f"{f.CONFIG}: agent.permissions.paths: mean nothing without file_access: true"
    if permissions.allowed_endpoints and not permissions.network_access:
        yield f"{f.CONFIG}: agent.permissions.allowed_endpoints: mean nothing without network_access"
