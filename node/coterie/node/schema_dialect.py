"""The words of JSON schemas as we check them: their steps are counted, and none is quadratic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

CHARS_A_STEP = 64  # of a text that is compared, or of what is said of a fault, which shows the whole value
WHOLE = frozenset({"const", "enum", "uniqueItems"})  # words that look at a value down to its leaves
# These walk through all that was applied to the value, and what its references lead to, uncounted.
WALKING = frozenset({"unevaluatedItems", "unevaluatedProperties"})
WALK_STEPS = 20

Word = Callable[..., "Iterator[ValidationError] | None"]


class TooMany(Exception):
    """The check took as many steps as it may."""


class Steps:
    """How many a check may still take."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, count: int) -> None:
        """Raises TooMany."""
        self._left -= count
        if self._left < 0:
            raise TooMany

    def take_whole(self, value: Any, times: int) -> None:
        """As many as the value has parts, so often. Raises TooMany."""
        left = [value]
        while left:
            one = left.pop()
            if isinstance(one, str):
                self.take(times * (len(one) // CHARS_A_STEP))
            elif isinstance(one, list | dict):
                self.take(times * len(one))
                left += one if isinstance(one, list) else [*one.values(), *one]


_counted: ContextVar[Steps | None] = ContextVar("steps of a check", default=None)


@contextmanager
def counting(steps: Steps) -> Iterator[None]:
    """Checks within take of these."""
    before = _counted.set(steps)
    try:
        yield
    finally:
        _counted.reset(before)


def is_counted() -> bool:
    """Whether the check that runs has a limit."""
    return _counted.get() is not None


@cache
def dialect() -> type[Validator]:
    """Validators of our kind."""
    from jsonschema import Draft202012Validator, validators

    words: dict[str, Word] = {
        **Draft202012Validator.VALIDATORS,
        "required": _required,
        "uniqueItems": _unique,
    }
    extend: Any = validators.extend  # has no types
    ours: type[Validator] = extend(
        Draft202012Validator, {name: _with_steps(name, word) for name, word in words.items()}
    )
    return ours


def _with_steps(name: str, word: Word) -> Word:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        steps = _counted.get()
        if steps is not None:
            steps.take(1 + _size(value) + _size(instance))
            if name in WALKING:
                steps.take(WALK_STEPS)
            if name in WHOLE:
                steps.take_whole(instance, max(1, _size(value)))
        for error in word(validator, value, instance, schema) or ():
            if steps is not None:
                steps.take(1 + len(error.message) // CHARS_A_STEP)
            yield error

    return check


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """All that is missing is one fault."""
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, dict) and not all(name in instance for name in names):
        yield ValidationError("fields are missing")


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """By their texts: comparing each with each takes minutes for what fits into a request."""
    from jsonschema.exceptions import ValidationError

    if not wanted or not isinstance(instance, list):
        return
    seen: set[str] = set()
    for place, one in enumerate(instance):
        text = json.dumps(_canonical(one), sort_keys=True)
        if text in seen:
            yield ValidationError(f"item {place} is there before; send each once")
            return
        seen.add(text)


def _canonical(value: Any) -> Any:
    """Equal for equal values: to JSON, 1 and 1.0 are the same number."""
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    if isinstance(value, dict):
        return {name: _canonical(one) for name, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
