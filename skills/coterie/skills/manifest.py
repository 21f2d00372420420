"""SKILL.md: its front matter read and checked (Agent Skills format; ours sits under metadata.coterie)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.skills.decorator import EFFECTS

FILE_BYTES_MAX = 256 * 1024
NAME_CHARS_MAX = 64
DESCRIPTION_CHARS_MAX = 1_024
VALUES_MAX, LEVELS_MAX = 20_000, 100  # of the front matter, schemas included
TIMEOUT_MS_MAX = 30 * 24 * 3_600_000

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_MS_PER_UNIT = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_COLON_IN_VALUE = re.compile(r"^(\s*[\w-]+:[ \t]+)([^\s\"'\[{|>#&*!].*:.*)$", re.MULTILINE)


class ManifestError(Exception):
    """A SKILL.md that cannot be used; the message names field, value and remedy."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a SKILL.md says. `handler` is empty when the skill is instructions only; timeout 0 is none."""

    name: str
    description: str
    version: str = ""
    handler: str = ""
    timeout_ms: int | None = None
    effects: str = ""
    input: Any = None  # a JSON schema, or the name of a file that holds one
    output: Any = None  # the same
    body: str = field(default="", repr=False)
    warnings: tuple[str, ...] = ()


def read_manifest(path: Path) -> Manifest:
    """Read and check one SKILL.md. Raises ManifestError."""
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise ManifestError(f"the file has {size} bytes, the limit is {FILE_BYTES_MAX}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError("is not UTF-8 text") from error
    return parse_manifest(text, path.parent.name)


def parse_manifest(text: str, folder_name: str) -> Manifest:
    """Check the text of a SKILL.md found in a folder of that name. Raises ManifestError."""
    fields, body = split_front_matter(text)
    warnings: list[str] = []
    description = _text_field(fields, "description")
    if not description:
        raise ManifestError("description: missing; say what the skill does and when to use it")
    if len(description) > DESCRIPTION_CHARS_MAX:
        warnings.append(
            f"description: {len(description)} characters, at most {DESCRIPTION_CHARS_MAX} advised"
        )
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise ManifestError(f"metadata: {metadata!r} is not a map; write keys under it")
    ours = our_metadata(metadata)
    return Manifest(
        name=_name(fields, folder_name, warnings),
        description=description,
        version=str(metadata.get("version", "")),
        handler=str(ours.get("handler", "")),
        timeout_ms=parse_duration_ms(ours["timeout"], "timeout") if "timeout" in ours else None,
        effects=check_effects(ours.get("effects", "")),
        input=ours.get("input"),
        output=ours.get("output"),
        body=body,
        warnings=tuple(warnings),
    )


def parse_duration_ms(value: object, name: str) -> int:
    """Milliseconds of a number of seconds or a text such as "30s", "10m", "1h30m". Raises ManifestError."""
    problem = f'{name}: {value!r} is not a duration; write seconds or text such as "30s" or "10m"'
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ManifestError(problem)
    try:
        duration_ms = float(value) * 1_000
    except ValueError:
        parts = _DURATION_PART.findall(str(value))
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise ManifestError(problem) from None
        duration_ms = sum(float(number) * _MS_PER_UNIT[unit] for number, unit in parts)
    if not 0 <= duration_ms <= TIMEOUT_MS_MAX:
        raise ManifestError(f"{name}: {value!r} is not between 0 and {TIMEOUT_MS_MAX // 1_000} seconds")
    return round(duration_ms)


def check_effects(value: object) -> str:
    """`value` when it is an effect class or empty. Raises ManifestError."""
    if value != "" and value not in EFFECTS:
        raise ManifestError(f"effects: {value!r} is none of {', '.join(EFFECTS)}")
    return str(value)


def check_name(name: str) -> str | None:
    """Why `name` is not a valid skill name, or None."""
    if not _NAME.fullmatch(name):
        return f"name: {name!r} should be lower-case letters, digits and single hyphens"
    if len(name) > NAME_CHARS_MAX:
        return f"name: {name!r} has more than {NAME_CHARS_MAX} characters"
    return None


def split_front_matter(text: str, strict: bool = False) -> tuple[Mapping[str, Any], str]:
    """The fields between the --- lines, and the body. `strict`: as YAML has it, and no other way. Raises
    ManifestError."""
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].strip() != "---":
        raise ManifestError("no front matter; the first line must be ---")
    for index, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return _parse_yaml("".join(lines[1:index]), strict), "".join(lines[index + 1 :])
    raise ManifestError("the front matter has no closing --- line")


def _parse_yaml(text: str, strict: bool) -> Mapping[str, Any]:
    # Imported here because only the node's extra brings it, and the skill API must work without.
    import yaml

    from coterie.skills.yaml_extent import TooMuch, load_yaml

    try:
        fields = load_yaml(text, VALUES_MAX, LEVELS_MAX)
    except TooMuch as error:
        raise ManifestError(f"the front matter is too much: {error}") from error
    except (yaml.YAMLError, ValueError):
        # The format's guide asks readers to accept values with an unquoted colon.
        quoted = _COLON_IN_VALUE.sub(lambda match: match[1] + json.dumps(match[2].rstrip()), text)
        try:
            fields = load_yaml(text if strict else quoted, VALUES_MAX, LEVELS_MAX)
        except (yaml.YAMLError, ValueError) as error:
            first_line = " ".join(str(error).split())
            raise ManifestError(f"the front matter is not YAML: {first_line}") from error
    if not isinstance(fields, Mapping):
        raise ManifestError("the front matter is not a map of keys to values")
    return fields


def _text_field(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise ManifestError(f"{name}: {value!r} is not text")
    return str(value).strip()


def _name(fields: Mapping[str, Any], folder_name: str, warnings: list[str]) -> str:
    name = _text_field(fields, "name")
    if not name:
        raise ManifestError("name: missing; give the folder's name")
    if any(character in name for character in "/\\#") or not name.isprintable() or len(name) > 128:
        raise ManifestError(f"name: {name!r} should be lower-case letters, digits and single hyphens")
    if problem := check_name(name):
        warnings.append(problem)
    if name.replace("_", "-") != folder_name.replace("_", "-"):
        warnings.append(f"name: {name!r} differs from its folder {folder_name!r}")
    return name


def our_metadata(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """`metadata.coterie`, a map or the JSON text of one. Raises ManifestError."""
    ours = metadata.get("coterie") or {}
    if isinstance(ours, str):
        try:
            ours = json.loads(ours)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"metadata.coterie: not JSON ({error})") from error
    if not isinstance(ours, Mapping):
        raise ManifestError(f"metadata.coterie: {ours!r} is not a map")
    return ours
