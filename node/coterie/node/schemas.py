"""JSON schemas of what skills take and give: whether they are such, and what is wrong with a value."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from coterie.skills.described import Described

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

FAULTS_SHOWN = 20
VALUE_CHARS_MAX = 80
SCHEMAS_KEPT = 512
# Their cost has no bound that follows from the size of the data, and they are looked at in the node.
UNBOUNDED = frozenset({"pattern", "patternProperties"})
NAMES = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})  # maps from names to schemas
VALUES = frozenset({"const", "default", "enum", "examples", "required"})  # no schemas inside

Faults = list[tuple[str, str]]
"""Where (a path such as `.items[2]`), and what is wrong there and what to do."""


def schema_fault(schema: Mapping[str, Any]) -> str:
    """Why it is no JSON schema that we check; empty: it is one."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"is no JSON schema: {error.message}"
    if used := UNBOUNDED & {key for key, _ in _keywords(schema)}:
        return f"uses {', '.join(sorted(used))}, which only the skill itself can check: take it out"
    if any("$ref" in key and not str(value).startswith("#") for key, value in _keywords(schema)):
        return "refers to another document; put its parts under $defs"
    return ""


def schema_faults(said: Described) -> Faults:
    """The schemas of a SKILL.md that are none, or that we do not check, and why."""
    named = (("input", said.input), ("output", said.output))
    found = [
        (f"metadata.coterie.{name}", schema_fault(schema)) for name, schema in named if schema is not None
    ]
    return [(field, fault) for field, fault in found if fault]


def faults(schema: Mapping[str, Any], content: bytes) -> Faults:
    """What is wrong with JSON text; nothing: it fits."""
    return _faults(_validator_of(schema), content)


def faults_by_text(schema: str, content: bytes) -> Faults:
    """The same for the text of a schema from this node's disk: nobody has checked it, so what we do not check
    of it is left to the skill. An empty one fits all."""
    validator = _validator(schema) if schema else None
    return _faults(validator, content) if validator is not None else []


@lru_cache(SCHEMAS_KEPT)
def _validator(text: str) -> Draft202012Validator | None:
    schema = _without_unbounded(json.loads(text))
    return None if schema_fault(schema) else _validator_of(schema)


def _validator_of(schema: Mapping[str, Any]) -> Draft202012Validator:
    # A twentieth of what a node would load at its start, and many need it late or never.
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(schema, registry=Registry())


def _faults(validator: Draft202012Validator, content: bytes) -> Faults:
    try:
        value = json.loads(content or b"null")
    except (ValueError, RecursionError) as error:
        return [("", f"not JSON ({error}); send UTF-8 JSON")]
    found: Faults = []
    for fault in validator.iter_errors(value):
        found.append((_path(fault), _said(fault)))
        if len(found) >= FAULTS_SHOWN:
            break
    return sorted(found)


def _path(error: ValidationError) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)


def _said(error: ValidationError) -> str:
    """What is wrong, with the value, and what would be right."""
    wanted: Any = error.validator_value
    schema: Any = error.schema
    given: Any = error.instance
    match error.validator:
        case "type":
            types = wanted if isinstance(wanted, list) else [wanted]
            return f"{_shown(given)} is not {_any_of(types)}; send {_any_of(types)}"
        case "anyOf" if types := _types_of(wanted):
            return f"{_shown(given)} is not {_any_of(types)}; send {_any_of(types)}"
        case "required":
            missing = [name for name in wanted if name not in given]
            return "; ".join(f"{name!r} is missing; add {_described(schema, name)}" for name in missing)
        case "additionalProperties" if wanted is False:
            return "; ".join(_unknown(schema, given))
        case "enum":
            return f"{_shown(given)} is none of {_shown(wanted)}; send one of them"
    return error.message[:300]


def _unknown(schema: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    known = list(schema.get("properties", {}))
    said = []
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            said.append(f"{name!r} is not a field; {hint}")
    return said


def _described(schema: Mapping[str, Any], name: str) -> str:
    """What the schema says of a field that is not there."""
    field = schema.get("properties", {}).get(name, {})
    types = _types_of([field]) or _types_of(field.get("anyOf", []))
    about = field.get("description", "") if isinstance(field, Mapping) else ""
    kind = _any_of(types) if types else "it"
    return f"{kind} ({about[:VALUE_CHARS_MAX]})" if about else kind


def _types_of(choices: Any) -> list[str]:
    """The types among which a value may choose; empty where it is not as simple as that."""
    types = [one.get("type") for one in choices if isinstance(one, Mapping)]
    return [str(one) for one in types] if types and all(isinstance(one, str) for one in types) else []


def _any_of(types: list[str]) -> str:
    return " or ".join(one if one == "null" else f"{'an' if one[0] in 'aio' else 'a'} {one}" for one in types)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + " …"


def _without_unbounded(value: Any, names: bool = False) -> Any:
    """`names`: the keys are those of fields, not of the schema's language."""
    if isinstance(value, list):
        return [_without_unbounded(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: inner if key in VALUES and not names else _without_unbounded(inner, key in NAMES and not names)
        for key, inner in value.items()
        if names or key not in UNBOUNDED
    }


def _keywords(value: Any) -> list[tuple[str, Any]]:
    """The words of the schema's language that are used in it, with what follows them."""
    found: list[tuple[str, Any]] = []
    left = [(value, False)]
    while left:
        one, names = left.pop()
        if isinstance(one, list):
            left += [(inner, False) for inner in one]
        elif isinstance(one, Mapping):
            for key, inner in one.items():
                if names:
                    left.append((inner, False))
                elif key not in VALUES:
                    found.append((str(key), inner))
                    left.append((inner, key in NAMES))
    return found
