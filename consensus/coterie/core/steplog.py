"""The completed steps of a task: appending costs the same however many there are, and so does finding one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from coterie.core.nouns import Step


class StepLog(Sequence[Step]):
    """Grows at its end only. A view shares what was there when it was taken, and stays as it is."""

    __slots__ = ("_count", "_items", "_place")

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self._items = list(steps)
        self._place = {step.key: place for place, step in enumerate(self._items)}
        self._count = len(self._items)

    def append(self, step: Step) -> None:
        """Only the log itself may grow, not a view of it."""
        assert self._count == len(self._items), "a view does not grow"
        self._place[step.key] = self._count
        self._items.append(step)
        self._count += 1

    def find(self, key: str) -> Step | None:
        """The step of that key."""
        place = self._place.get(key, self._count)
        return self._items[place] if place < self._count else None

    def view(self) -> StepLog:
        """What is there now; later steps do not show."""
        view = object.__new__(StepLog)
        view._items, view._place, view._count = self._items, self._place, self._count
        return view

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Step]:
        return (self._items[place] for place in range(self._count))

    @overload
    def __getitem__(self, place: int) -> Step: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Step]: ...
    def __getitem__(self, place: int | slice) -> Step | Sequence[Step]:
        return self._items[: self._count][place] if isinstance(place, slice) else self._items[self._at(place)]

    def _at(self, place: int) -> int:
        if not -self._count <= place < self._count:
            raise IndexError(place)
        return place % self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == self._count and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]


def _same(one: Step, other: object) -> bool:
    return one == other
