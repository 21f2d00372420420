"""`skill-registry.yaml`: what an operator says of skills, as a list. Each key has effect, or is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coterie.client.skills import SkillPolicy
from coterie.node.units import parse_duration_ms
from coterie.skills.described import parse_rate, parse_resources, parse_retry
from coterie.skills.manifest import ManifestError

KEYS = (
    "id", "name", "version", "location", "owner", "aliases", "visibility", "resource_requirements",
    "resources", "handlers", "rate_limit", "timeout", "retry", "retry_policy",
)  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class RegistryError(Exception):
    """A file that cannot be taken over. `problems` holds one line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Registered:
    """One entry: the skill, what is said of it, and where its folder is (None: on the nodes' disks)."""

    skill_id: str
    policy: SkillPolicy
    location: Path | None


def read_registry(path: Path) -> list[Registered]:
    """All entries of the file. Raises RegistryError with all that is wrong."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RegistryError([f"{path}: {error}"]) from error
    entries = document.get("skills") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or len(document) != 1:
        raise RegistryError([f"{path}: write one key, skills, with a list"])
    problems: list[str] = []
    found = [_entry(given, f"skills[{place}]", path.parent, problems) for place, given in enumerate(entries)]
    names = [one.skill_id for one in found]
    problems += [
        f"skills: {name} is there twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if problems:
        raise RegistryError(problems)
    return found


def _entry(given: Any, at: str, base: Path, problems: list[str]) -> Registered:
    if not isinstance(given, Mapping):
        problems.append(f"{at}: is not a map")
        return Registered("", SkillPolicy(), None)
    fields = {_snake(str(key)): value for key, value in given.items()}
    problems += [f"{at}.{key}: unknown key; known: {', '.join(KEYS)}" for key in fields if key not in KEYS]
    skill_id = str(fields.get("id", ""))
    if not _ID.fullmatch(skill_id):
        problems.append(f"{at}.id: {skill_id!r} is not a name such as shared/web-search")
    at = f"{at} ({skill_id})"
    values: dict[str, Any] = {
        "title": str(fields.get("name", "")),
        "version": str(fields.get("version", "")),
        "owner": str(fields.get("owner", "")),
        "private": _is_private(fields, at, problems),
        "aliases": _names(fields, "aliases", at, problems),
        "handlers": _names(fields, "handlers", at, problems),
    }
    if values["version"] == "latest":
        values["version"] = ""  # whatever is live: tasks are bound to a hash when they are submitted
    values |= _read_values(fields, at, problems)
    location = base / str(fields["location"]) if fields.get("location") else None
    if location is not None and not location.is_dir():
        problems.append(f"{at}.location: there is no folder {location}")
    return Registered(skill_id, SkillPolicy(**values), location)


def _read_values(fields: Mapping[str, Any], at: str, problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    readers: Mapping[str, Callable[[Any], dict[str, Any]]] = {
        "resource_requirements": _resources,
        "resources": _resources,
        "rate_limit": _rate,
        "timeout": lambda value: {"timeout_ms": parse_duration_ms(value)},
        "retry": _retry,
        "retry_policy": _retry,
    }
    for key, read in readers.items():
        if key in fields:
            try:
                values |= read(fields[key])
            except (ValueError, ManifestError) as error:
                problems.append(f"{at}.{key}: {error}")
    return values


def _is_private(fields: Mapping[str, Any], at: str, problems: list[str]) -> bool:
    visibility = fields.get("visibility", "public")
    if visibility not in ("private", "public"):
        problems.append(f"{at}.visibility: {visibility!r} is neither private nor public")
    if visibility == "private" and not fields.get("owner"):
        problems.append(f"{at}.owner: missing; a private skill belongs to an agent")
    return bool(visibility == "private")


def _names(fields: Mapping[str, Any], key: str, at: str, problems: list[str]) -> tuple[str, ...]:
    given = fields.get(key) or []
    if not isinstance(given, list) or not all(isinstance(one, str) and one for one in given):
        problems.append(f"{at}.{key}: {given!r} is not a list of names")
        return ()
    return tuple(given)


def _resources(given: Any) -> dict[str, Any]:
    """The seed form has the timeout among the resources."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r} is not a map of cpu, memory, gpu and timeout")
    rest = {key: value for key, value in given.items() if key != "timeout"}
    values: dict[str, Any] = dict(parse_resources(rest))
    if "timeout" in given:
        values["timeout_ms"] = parse_duration_ms(given["timeout"])
    return values


def _rate(given: Any) -> dict[str, Any]:
    count, period_ms = parse_rate(given)
    return {"rate_count": count, "rate_period_ms": period_ms}


def _retry(given: Any) -> dict[str, Any]:
    names = {
        "attempts_max": "max_attempts",
        "backoff_initial_ms": "initial_backoff_ms",
        "backoff_max_ms": "max_backoff_ms",
    }
    return {names[name]: value for name, value in parse_retry(given).items()}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower().replace("-", "_")
