"""A map sorted by integer keys, in chunks: adding and removing stay cheap at a million entries, a walk over
the first few costs nothing, and an entry takes two pointers beside its key."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")

CHUNK = 512


class Ordered(Generic[V]):
    """Keys are unique. It must not change while somebody walks over it."""

    __slots__ = ("_keys", "_size", "_tops", "_values")

    def __init__(self) -> None:
        self._keys: list[list[int]] = []
        self._values: list[list[V]] = []
        self._tops: list[int] = []  # the last key of each chunk
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, key: int, value: V) -> None:
        """Cheapest at the end, where most keys go."""
        self._size += 1
        tops = self._tops
        if not tops or (key > tops[-1] and len(self._keys[-1]) >= CHUNK):
            self._keys.append([key])
            self._values.append([value])
            tops.append(key)
            return
        at = len(tops) - 1 if key > tops[-1] else bisect_left(tops, key)
        keys = self._keys[at]
        place = len(keys) if key > keys[-1] else bisect_left(keys, key)
        keys.insert(place, key)
        self._values[at].insert(place, value)
        tops[at] = keys[-1]
        if len(keys) > 2 * CHUNK:
            self._split(at)

    def _split(self, at: int) -> None:
        keys, values = self._keys[at], self._values[at]
        self._keys[at : at + 1] = [keys[:CHUNK], keys[CHUNK:]]
        self._values[at : at + 1] = [values[:CHUNK], values[CHUNK:]]
        self._tops[at : at + 1] = [keys[CHUNK - 1], keys[-1]]

    def remove(self, key: int) -> V:
        """The key must be there."""
        at = bisect_left(self._tops, key)
        keys = self._keys[at]
        place = bisect_left(keys, key)
        assert keys[place] == key, f"no key {key}"
        del keys[place]
        value = self._values[at].pop(place)
        self._size -= 1
        if keys:
            self._tops[at] = keys[-1]
        else:
            del self._keys[at], self._values[at], self._tops[at]
        return value

    def first(self) -> tuple[int, V] | None:
        """The entry with the smallest key."""
        return (self._keys[0][0], self._values[0][0]) if self._tops else None

    def first_key(self, default: int) -> int:
        """The smallest key."""
        return self._keys[0][0] if self._tops else default

    def items(self) -> Iterator[tuple[int, V]]:
        """All entries in the order of their keys."""
        for keys, values in zip(self._keys, self._values, strict=True):
            yield from zip(keys, values, strict=True)

    def values(self) -> Iterator[V]:
        """All values in the order of their keys."""
        for values in self._values:
            yield from values

    def after(self, key: int, count: int) -> list[tuple[int, V]]:
        """The first entries with a greater key, at most so many; the cost is that of these."""
        found: list[tuple[int, V]] = []
        at = bisect_right(self._tops, key)
        place = bisect_right(self._keys[at], key) if at < len(self._keys) else 0
        while at < len(self._keys) and len(found) < count:
            end = place + count - len(found)
            found += zip(self._keys[at][place:end], self._values[at][place:end], strict=True)
            at, place = at + 1, 0
        return found

    def before(self, key: int, count: int) -> list[tuple[int, V]]:
        """The last entries with a smaller key, greatest first, at most so many."""
        found: list[tuple[int, V]] = []
        at = min(bisect_left(self._tops, key), len(self._keys) - 1)
        place = bisect_left(self._keys[at], key) if at >= 0 else 0
        while at >= 0 and len(found) < count:
            start = max(0, place - count + len(found))
            part = zip(self._keys[at][start:place], self._values[at][start:place], strict=True)
            found += reversed(list(part))
            at -= 1
            place = len(self._keys[at]) if at >= 0 else 0
        return found

    def below(self, limit: int) -> Iterator[tuple[int, V]]:
        """Entries with a key smaller than `limit`, in order."""
        for key, value in self.items():
            if key >= limit:
                return
            yield key, value
