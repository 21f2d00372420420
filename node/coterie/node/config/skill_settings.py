"""What the operator says to single skills: values as the skill wants them, with secrets by reference only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from coterie.node.config.findings import ConfigError
from coterie.node.config.secret_files import SecretFileError, read_secret
from coterie.node.config.skill_check import setting_faults

SETTINGS_CHARS_MAX: Final = 64 * 1024  # of one skill: they travel with each run
_REFERENCES: Final = ({"env"}, {"file"})


def skill_settings(
    given: Mapping[str, Mapping[str, Any]], env: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The settings with what `{env: NAME}` and `{file: /path}` stand for. Raises ConfigError with every
    secret that is not to be had, and every key of a shipped skill that is unknown, missing or wrong."""
    problems: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for skill, values in sorted(given.items()):
        where = f"skills.settings.{skill}"
        found[skill] = {
            key: _resolved(value, f"{where}.{key}", env, problems) for key, value in values.items()
        }
        if (size := len(json.dumps(found[skill]))) > SETTINGS_CHARS_MAX:
            problems.append(f"{where}: {size} characters as JSON, the limit is {SETTINGS_CHARS_MAX}")
    if not problems:
        for skill, values in found.items():
            problems += setting_faults(skill, values, set(_secrets(given[skill], values)))
    if problems:
        raise ConfigError(problems)
    return found


def without_secrets(given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings that hold no reference to a secret; a key that does is left out with all below it, so that
    nothing is used without the secret that belongs to it."""
    return {
        skill: {key: value for key, value in values.items() if not _has_reference(value)}
        for skill, values in given.items()
    }


def _is_reference(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) not in _REFERENCES:
        return False
    return all(isinstance(one, str) for one in value.values())


def _has_reference(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _is_reference(value) or any(_has_reference(one) for one in value.values())
    return isinstance(value, list | tuple) and any(_has_reference(one) for one in value)


def _secrets(given: Any, found: Any) -> Iterator[str]:
    """What references stand for."""
    if _is_reference(given):
        yield found
    elif isinstance(given, Mapping):
        for key, value in given.items():
            yield from _secrets(value, found[key])
    elif isinstance(given, list | tuple):
        for value, known in zip(given, found, strict=True):
            yield from _secrets(value, known)


def _resolved(value: Any, where: str, env: Mapping[str, str], problems: list[str]) -> Any:
    if isinstance(value, Mapping):
        if _is_reference(value):
            return _secret(value, where, env, problems)
        return {key: _resolved(one, f"{where}.{key}", env, problems) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(one, f"{where}[{place}]", env, problems) for place, one in enumerate(value)]
    return value


def _secret(reference: Mapping[str, str], where: str, env: Mapping[str, str], problems: list[str]) -> str:
    if "env" in reference:
        text = env.get(reference["env"], "").strip()
        if not text:
            problems.append(
                f"{where}: environment variable {reference['env']} is not set; set it, or give a file"
            )
        return text
    path = Path(reference["file"])
    if not path.is_absolute():
        problems.append(f"{where}.file: {path}: write the whole path, from /")
        return ""
    try:
        return read_secret(path)
    except SecretFileError as error:
        problems.append(f"{where}: {error}")
        return ""
