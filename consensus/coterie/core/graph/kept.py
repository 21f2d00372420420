"""Remembers what was made of byte strings, the latest ones, as long as these are not too large together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class Kept(Generic[V]):
    """A pure function of bytes; several threads may call it. What raises is not remembered."""

    def __init__(self, make: Callable[[bytes], V], count_max: int, bytes_max: int) -> None:
        self._make, self.count_max, self.bytes_max = make, count_max, bytes_max
        self._known: OrderedDict[bytes, V] = OrderedDict()  # used last is last
        self._lock = Lock()
        self.bytes = self.misses = 0

    def __call__(self, raw: bytes) -> V:
        with self._lock:
            if raw in self._known:
                self._known.move_to_end(raw)
                return self._known[raw]
            self.misses += 1
        value = self._make(raw)
        with self._lock:
            if raw not in self._known:
                self._known[raw] = value
                self.bytes += len(raw)
            self._forget()
        return value

    def _forget(self) -> None:
        """Those that were used longest ago."""
        while len(self._known) > self.count_max or self.bytes > self.bytes_max:
            raw, _ = self._known.popitem(last=False)
            self.bytes -= len(raw)

    def clear(self) -> None:
        with self._lock:
            self._known.clear()
            self.bytes = self.misses = 0

    def __len__(self) -> int:
        return len(self._known)
