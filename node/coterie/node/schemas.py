"""JSON schemas of what skills take and give: whether they are such, and what is wrong with a value."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from coterie.node.schema_dialect import Steps, TooMany, counting, dialect, is_counted
from coterie.node.schema_growth import OTHER_LANGUAGE, UNBOUNDED, growth_fault
from coterie.skills.described import Described

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

FAULTS_SHOWN = 20
VALUE_CHARS_MAX = 80
NAMES_SHOWN, NAMES_COMPARED = 20, 100
PLACE_CHARS_MAX = 2_000
SCHEMAS_KEPT = 512
# A check within these takes some 20 ms at most, and comes nowhere near the end of the stack.
HERE_BYTES_MAX, HERE_STEPS_MAX, HERE_LEVELS_MAX = 64 * 1024, 5_000, 30
SCHEMA_LEVELS_MAX = 50
NAMES = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})  # maps from names to schemas
VALUES = frozenset(
    {"const", "default", "dependentRequired", "enum", "examples", "required"}
)  # no schemas inside

Faults = list[tuple[str, str]]
"""Where (a path such as `.items[2]`), and what is wrong there and what to do."""


def schema_fault(schema: Mapping[str, Any]) -> str:
    """Why it is no JSON schema that we check; empty: it is one."""
    from jsonschema import Draft202012Validator, SchemaError

    if _deeper(schema, SCHEMA_LEVELS_MAX):
        return f"is nested deeper than {SCHEMA_LEVELS_MAX} levels"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"is no JSON schema: {error.message[:300]}"
    if used := UNBOUNDED & {key for key, _ in _keywords(schema)}:
        return f"uses {', '.join(sorted(used))}, which only the skill itself can check: take it out"
    if any(key == "$ref" and not str(value).startswith("#") for key, value in _keywords(schema)):
        return "refers to another document; put its parts under $defs"
    return growth_fault(_without_unbounded(schema))


def schema_faults(said: Described) -> Faults:
    """The schemas of a SKILL.md that are none, or that we do not check, and why."""
    named = (("input", said.input), ("output", said.output))
    found = [
        (f"metadata.coterie.{name}", schema_fault(schema)) for name, schema in named if schema is not None
    ]
    return [(field, fault) for field, fault in found if fault]


def faults_by_text(schema: str, content: bytes, published: bool = False) -> Faults:
    """What is wrong with JSON text; nothing: it fits. An empty schema fits all. What we do not check of one
    is left to the skill: one of this node's disk has been looked at by nobody."""
    validator = _validator(schema, published) if schema else None
    return _faults(validator, content) if validator is not None else []


def faults_here(schema: str, content: bytes, published: bool = False) -> Faults | None:
    """The same where it is cheap enough for a node's event loop; None: it is not."""
    if not schema:
        return []
    if len(content) > HERE_BYTES_MAX:
        return None
    try:
        with counting(Steps(HERE_STEPS_MAX)):
            return faults_by_text(schema, content, published)
    except TooMany:
        return None


@lru_cache(SCHEMAS_KEPT)
def _validator(text: str, published: bool) -> Validator | None:
    """A published one was looked at then: a stranger's schema of a few KiB can take seconds to look at."""
    # A twentieth of what a node would load at its start, and many need it late or never.
    from referencing import Registry

    schema = json.loads(text)
    if _deeper(schema, SCHEMA_LEVELS_MAX):
        return None
    schema = _without_unbounded(schema)
    fault = growth_fault(schema) if published else schema_fault(schema)
    return None if fault else dialect()(schema, registry=Registry())


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and maps are within each other more than so often."""
    left = [value]
    for _ in range(levels + 1):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in left]
        left = [each for one in inner if isinstance(one, list) for each in one]
        if not left:
            return False
    return True


def _faults(validator: Validator, content: bytes) -> Faults:
    try:
        value = json.loads(content or b"null")
    except (ValueError, RecursionError) as error:
        if is_counted() and isinstance(error, RecursionError):
            raise TooMany from error
        return [("", f"not JSON ({error}); send UTF-8 JSON")]
    if is_counted() and _deeper(value, HERE_LEVELS_MAX):
        raise TooMany
    found: Faults = []
    try:
        for fault in islice(validator.iter_errors(value), FAULTS_SHOWN):
            found.append((_path(fault)[:PLACE_CHARS_MAX], _said(fault)))
    except RecursionError as error:
        if is_counted():  # here the stack is short, and others stand on it
            raise TooMany from error
        found.append(("", "is nested too deep; send it flatter"))
    except ArithmeticError as error:
        found.append(("", f"has a number that cannot be checked ({error}); send a smaller one"))
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
            said = [
                f"{name[:VALUE_CHARS_MAX]!r} is missing; add {_described(schema, name)}"
                for name in missing[:FAULTS_SHOWN]
            ]
            more = [f"and {len(missing) - FAULTS_SHOWN} more"] if len(missing) > FAULTS_SHOWN else []
            return "; ".join([*said, *more])
        case "additionalProperties" if wanted is False:
            return "; ".join(_unknown(schema, given))
        case "enum":
            return f"{_shown(given)} is none of {_shown(wanted)}; send one of them"
    return error.message[:300]


def _unknown(schema: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    known = list(schema.get("properties", {}))
    strangers = [name for name in given if name not in schema.get("properties", {})]
    listed = ", ".join(known[:NAMES_SHOWN]) + (" …" if len(known) > NAMES_SHOWN else "")
    said = []
    for name in strangers[:FAULTS_SHOWN]:
        short = len(name) <= VALUE_CHARS_MAX
        near = difflib.get_close_matches(name, known[:NAMES_COMPARED], 1) if short else []
        hint = f"did you mean {near[0]!r}?" if near else f"known: {listed or 'none'}"
        said.append(f"{name[:VALUE_CHARS_MAX]!r} is not a field; {hint}")
    if len(strangers) > FAULTS_SHOWN:
        said.append(f"and {len(strangers) - FAULTS_SHOWN} more")
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
        if names or (key not in UNBOUNDED and key != OTHER_LANGUAGE)
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
