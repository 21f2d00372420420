"""What the operator says to single skills: any values, with secrets by reference only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from coterie.node.config.findings import ConfigError
from coterie.node.config.secret_files import SecretFileError, read_secret

SETTINGS_CHARS_MAX: Final = 64 * 1024  # of one skill: they travel with each run
_REFERENCES: Final = ({"env"}, {"file"})


def skill_settings(
    given: Mapping[str, Mapping[str, Any]], env: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The settings with what `{env: NAME}` and `{file: /path}` stand for. Raises ConfigError with every
    secret that is not to be had."""
    problems: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for skill, values in sorted(given.items()):
        where = f"skills.settings.{skill}"
        found[skill] = {
            key: _resolved(value, f"{where}.{key}", env, problems) for key, value in values.items()
        }
        if (size := len(json.dumps(found[skill]))) > SETTINGS_CHARS_MAX:
            problems.append(f"{where}: {size} characters as JSON, the limit is {SETTINGS_CHARS_MAX}")
    if problems:
        raise ConfigError(problems)
    return found


def _resolved(value: Any, where: str, env: Mapping[str, str], problems: list[str]) -> Any:
    if isinstance(value, Mapping):
        if set(value) in _REFERENCES and all(isinstance(one, str) for one in value.values()):
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
