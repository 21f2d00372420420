"""How large a JSON schema becomes where its references are followed: a few lines can say a million schemas,
or a schema without an end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
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
ASIDE = frozenset({"$defs", "definitions"})  # maps whose schemas apply where a reference leads to them
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
    growth = _Growth(schema)
    try:
        size = growth.of_target(schema, resolver, None)
        growth.check_ends()
    except _Wrong as wrong:
        return str(wrong)
    return "" if size <= SUBSCHEMAS_MAX else _too_large()


def _too_large() -> str:
    return f"has more than {SUBSCHEMAS_MAX} subschemas where its references are followed; say it in fewer"


class _Growth:
    """Counts subschemas. What a reference leads to is counted once and remembered."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._checked = frozenset(_places(root))
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()
        self._same_value: dict[
            int, set[int]
        ] = {}  # targets that a target applies to the value it is applied to
        self._looked_at = 0

    def check_ends(self) -> None:
        """Raises _Wrong where a target comes to be applied again to the value it is applied to."""
        try:
            TopologicalSorter(self._same_value).prepare()
        except CycleError as error:
            raise _Wrong("refers back to itself without an end") from error

    def of_target(self, schema: Any, resolver: Any, owner: int | None) -> int:
        """Subschemas of what a reference leads to. `owner`: the target that applies it to its own value."""
        mark = id(schema)
        if owner is not None:
            self._same_value.setdefault(owner, set()).add(mark)
        if mark not in self._sizes and mark not in self._open:
            self._open.add(mark)
            if len(self._open) > REFERENCES_MAX:
                raise _Wrong(f"has more than {REFERENCES_MAX} references of which each leads to the next")
            self._sizes[mark] = self._of(schema, resolver, mark)
            self._open.remove(mark)
        return self._sizes.get(mark, 1)

    def _of(self, schema: Any, resolver: Any, owner: int | None) -> int:
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
            if not isinstance(found.contents, bool) and id(found.contents) not in self._checked:
                raise _Wrong(f"refers to {schema['$ref'][:80]!r}, where no schema stands; put it under $defs")
            size += self.of_target(found.contents, found.resolver, owner)
        for word, value in schema.items():
            around = owner if word in SAME_VALUE else None
            size += sum(self._of(inner, resolver, around) for inner in _schemas_of(word, value))
        return size


def _looked_up(reference: Any, resolver: Any) -> Any:
    from referencing.exceptions import Unresolvable

    try:
        return resolver.lookup(reference)
    except (Unresolvable, ValueError) as error:
        raise _Wrong(f"refers to {str(reference)[:80]!r}, which is not in it") from error


def _places(root: Mapping[str, Any]) -> Iterator[int]:
    """Marks of the schemas that stand where the language looks for them, and were checked to be such."""
    left: list[Any] = [root]
    while left:
        schema = left.pop()
        if isinstance(schema, Mapping):
            yield id(schema)
            for word, value in schema.items():
                left += value.values() if word in ASIDE else _schemas_of(word, value)


def _schemas_of(word: str, value: Any) -> Iterator[Any]:
    if word in ONE:
        yield value
    elif word in LISTS:
        yield from value
    elif word in MAPS:
        yield from value.values()
