"""How much a YAML text stands for, found without composing it: composing recurses on the C stack, where
50,000 brackets end the process, and a few lines of aliases can stand for billions of values."""

from __future__ import annotations

from typing import Any, Final

import yaml

DEPTH_MAX: Final = 30
CHARS_A_VALUE: Final = 100  # so much of a long text counts as one value more
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class TooMuch(ValueError):
    """The text is small and what it stands for is not."""


class _Extent:
    """Counts values, keys included, and aliases as often as they stand for something."""

    def __init__(self, values_max: int, levels_max: int) -> None:
        self._values_max, self._levels_max = values_max, levels_max
        self._count = 0
        self._sizes: dict[str, int] = {}  # by anchor
        self._open: list[tuple[str | None, int]] = []  # anchors of what we are in, and the count before it

    def take(self, event: yaml.Event) -> None:
        """The next one. Raises TooMuch."""
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            self._note(anchor, before)
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._size_of(event.anchor))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._count))
            self._add(1)
        elif isinstance(event, yaml.ScalarEvent):
            before = self._count
            self._add(1 + len(event.value) // CHARS_A_VALUE)
            self._note(event.anchor, before)

    def _size_of(self, anchor: str | None) -> int:
        if any(anchor == one for one, _ in self._open):
            raise TooMuch(f"{anchor} is within itself")
        return self._sizes.get(anchor or "", 1)

    def _note(self, anchor: str | None, before: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = self._count - before

    def _add(self, count: int) -> None:
        self._count += count
        if self._count > self._values_max or len(self._open) > self._levels_max + 1:
            raise TooMuch(f"more than {self._values_max} values or {self._levels_max} levels")


def load_yaml(text: str, values_max: int, levels_max: int = DEPTH_MAX) -> Any:
    """As yaml.safe_load. Raises ValueError that says what is wrong, TooMuch where it is too much."""
    check_extent(text, values_max, levels_max)
    loader = _LOADER(text)
    try:
        return loader.get_single_data()
    except (KeyError, AttributeError, TypeError, ArithmeticError) as error:
        # An explicit tag that does not fit.
        raise ValueError(f"a value does not fit its tag ({error})") from error
    finally:
        loader.dispose()


def check_extent(text: str, values_max: int, levels_max: int = DEPTH_MAX) -> None:
    """Raises TooMuch for more values or levels, yaml.YAMLError for what is no YAML."""
    extent = _Extent(values_max, levels_max)
    for event in yaml.parse(text, Loader=_LOADER):
        extent.take(event)
