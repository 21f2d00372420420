"""How large a JSON schema becomes where its references are followed: a few lines can say a million schemas,
or a schema without an end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SUBSCHEMAS_MAX = 10_000
REFERENCES_MAX = 50  # of which each leads to the next
# Their cost has no bound that follows from the size of the data, or they refer to what is not known before.
UNBOUNDED = frozenset({"pattern", "patternProperties", "$dynamicRef", "$recursiveRef"})
OTHER_LANGUAGE = "$schema"  # the library would go on in the version that is named there
# Words of the language with schemas behind them: one, a list of them, or a map from names to them.
ONE = frozenset(
    [
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
MAPS = frozenset({"dependentSchemas", "properties"})
SAME_VALUE = frozenset({"allOf", "anyOf", "dependentSchemas", "else", "if", "not", "oneOf", "then"})


class _Wrong(Exception):
    """What is wrong with the schema, in words."""


def growth_fault(schema: Mapping[str, Any]) -> str:
    """Why it must not be applied; empty: it may. It is a JSON schema of few levels, and uses no $schema. A
    reference back to what it is in is no fault where it speaks of an inner value: a tree has an end."""
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    resource = DRAFT202012.create_resource(schema)
    resolver = Registry().with_resource("", resource).resolver_with_root(resource)
    try:
        size = _Growth().of_target(schema, resolver, frozenset())
    except _Wrong as wrong:
        return str(wrong)
    return "" if size <= SUBSCHEMAS_MAX else _too_large()


def _too_large() -> str:
    return f"has more than {SUBSCHEMAS_MAX} subschemas where its references are followed; say it in fewer"


class _Growth:
    """Counts subschemas. What a reference leads to is counted once and remembered."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()
        self._looked_at = 0

    def of_target(self, schema: Any, resolver: Any, here: frozenset[int]) -> int:
        """Subschemas of what a reference leads to. `here`: what is applied to the same value around it."""
        mark = id(schema)
        if mark in here:
            raise _Wrong("refers back to itself without an end")
        if mark not in self._sizes and mark not in self._open:
            self._open.add(mark)
            if len(self._open) > REFERENCES_MAX:
                raise _Wrong(f"has more than {REFERENCES_MAX} references of which each leads to the next")
            self._sizes[mark] = self._of(schema, resolver, here | {mark})
            self._open.remove(mark)
        return self._sizes.get(mark, 1)

    def _of(self, schema: Any, resolver: Any, here: frozenset[int]) -> int:
        self._looked_at += 1
        if self._looked_at > SUBSCHEMAS_MAX:
            raise _Wrong(_too_large())
        if not isinstance(schema, Mapping):
            return 1
        if used := (UNBOUNDED | {OTHER_LANGUAGE}) & schema.keys():
            raise _Wrong(f"refers to what uses {', '.join(sorted(used))}, which we do not check")
        if "$id" in schema:
            from referencing.jsonschema import DRAFT202012

            resolver = resolver.in_subresource(DRAFT202012.create_resource(schema))
        size = 1
        if "$ref" in schema:
            found = _looked_up(schema["$ref"], resolver)
            size += self.of_target(found.contents, found.resolver, here)
        for word, value in schema.items():
            around = here if word in SAME_VALUE else frozenset[int]()
            size += sum(self._of(inner, resolver, around) for inner in _schemas_of(word, value))
        return size


def _looked_up(reference: Any, resolver: Any) -> Any:
    from referencing.exceptions import Unresolvable

    try:
        return resolver.lookup(reference)
    except (Unresolvable, ValueError) as error:
        raise _Wrong(f"refers to {str(reference)[:80]!r}, which is not in it") from error


def _schemas_of(word: str, value: Any) -> Iterator[Any]:
    if word in ONE:
        yield value
    elif word in LISTS:
        yield from value
    elif word in MAPS:
        yield from value.values()
