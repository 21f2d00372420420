"""The children a task has asked for, and how they ended: kept until the task itself has ended.

Invariants: a place is given once and never changes; a child ends at most once; what is open is begun and not
ended. Both lists only grow, so that adding to them costs the same however many children there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from coterie.core.nouns import NO_DATA, Data, TaskError, TaskId, TaskState

CHILDREN_MAX = 20_000  # of one task
GENERATIONS_MAX = 16  # above a task: children of children
CHILD_OVERHEAD_BYTES = 400
ID_CHARS_MAX = 128


@dataclass(frozen=True, slots=True)
class Child:
    """A task that a running task has asked for."""

    task_id: TaskId
    group: str  # what is waited for together
    digest: bytes = b""  # of its type and payload: tells asking again from asking for something else


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended."""

    place: int  # of the child in its family, from 0
    state: TaskState
    result: Data = NO_DATA
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class FamilyPart:
    """Some of a family, as an image of the state holds it."""

    parent_id: TaskId
    begun: tuple[Child, ...] = ()
    ended: tuple[ChildEnd, ...] = ()


@dataclass(slots=True)
class Group:
    """Children that are waited for together: their places in the order in which they were asked for."""

    places: list[int] = field(default_factory=list)
    open: int = 0
    failed: int = 0
    first_failed: int = -1  # the place of the first one that ended without success


class Family:
    """The children of one task. Derived look-ups are kept beside the two lists."""

    __slots__ = ("_begun", "_counts", "_ended", "_ends", "_groups", "_places", "bytes_held")

    def __init__(self) -> None:
        self._counts: tuple[int, int] | None = None  # of a view
        self._begun: list[Child] = []
        self._ended: list[ChildEnd] = []
        self._places: dict[TaskId, int] = {}
        self._ends: dict[int, ChildEnd] = {}
        self._groups: dict[str, Group] = {}
        self.bytes_held = 0

    def begin(self, child: Child) -> None:
        place = len(self._begun)
        self._begun.append(child)
        self._places[child.task_id] = place
        group = self._groups.setdefault(child.group, Group())
        group.places.append(place)
        group.open += 1
        self.bytes_held += CHILD_OVERHEAD_BYTES

    def end(self, end: ChildEnd) -> None:
        self._ended.append(end)
        self._ends[end.place] = end
        group = self._groups[self._begun[end.place].group]
        group.open -= 1
        if end.state is not TaskState.SUCCEEDED:
            group.failed += 1
            group.first_failed = end.place if group.first_failed < 0 else group.first_failed
        self.bytes_held += len(end.result.inline)

    def add(self, part: FamilyPart) -> None:
        """What an image of the state holds of it. ValueError: a child ended that never began."""
        for child in part.begun:
            self.begin(child)
        for end in part.ended:
            if not 0 <= end.place < len(self._begun):
                raise ValueError(f"{part.parent_id}: child {end.place} ended, {len(self._begun)} began")
            self.end(end)

    def __len__(self) -> int:
        return len(self._begun)

    def __getitem__(self, place: int) -> Child:
        return self._begun[place]

    def place_of(self, task_id: TaskId) -> int | None:
        return self._places.get(task_id)

    def end_of(self, place: int) -> ChildEnd | None:
        return self._ends.get(place)

    def group(self, name: str) -> Group:
        """An empty one when nothing was asked for under that name."""
        return self._groups.get(name) or Group()

    def open_in(self, name: str) -> list[TaskId]:
        """Children of the group that have not ended, in the order in which they were asked for."""
        return [self._begun[place].task_id for place in self.group(name).places if place not in self._ends]

    def view(self) -> Family:
        """What is there now, to be read by `parts`; what comes later does not show."""
        view = object.__new__(Family)
        view._begun, view._ended = self._begun, self._ended
        view._counts = len(self._begun), len(self._ended)
        return view

    def parts(self, parent_id: TaskId, size: int) -> Iterator[FamilyPart]:
        """In portions of at most `size` records."""
        begun, ended = self._counts or (len(self._begun), len(self._ended))
        for first in range(0, begun, size):
            yield FamilyPart(parent_id, begun=tuple(self._begun[first : min(first + size, begun)]))
        for first in range(0, ended, size):
            yield FamilyPart(parent_id, ended=tuple(self._ended[first : min(first + size, ended)]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Family) and (self._begun, self._ended) == (other._begun, other._ended)

    __hash__ = None  # type: ignore[assignment]


def child_id(parent_id: str, key: str) -> str:
    """The id of the child that a task calls `key`: the same in every attempt. Empty when it is too long."""
    name = f"{parent_id}~{key}"
    return name if len(name) <= ID_CHARS_MAX else ""
