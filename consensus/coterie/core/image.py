"""The live tasks as they were at one moment, read while they go on changing.

Copying a million of them would hold up the node. So nothing is copied at first: a task is put aside when it
changes or goes before it was read (copy on write), and the walk follows the order of submission, in which
every task has a number of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

from coterie.core.nouns import Task, TaskId
from coterie.core.ordered import Ordered

PORTION = 200  # tasks looked up at a time


class TaskImage:
    """Every task with an order up to `newest`. Whoever changes one calls `keep` before, as long as the image
    is not closed."""

    __slots__ = ("_aside", "_first_aside", "_newest", "_orders", "_others", "_passed", "_tasks")

    def __init__(
        self, tasks: Mapping[TaskId, Task], orders: Ordered[TaskId], newest: int, others: list[TaskImage]
    ) -> None:
        """`tasks` and their `orders` go on changing; `others`: the open images, and this one."""
        self._tasks, self._orders, self._newest, self._others = tasks, orders, newest, others
        self._passed = 0  # up to this order, tasks were read
        self._aside: dict[int, Task] = {}  # by order, not read yet
        self._first_aside: list[int] = []  # a heap of their orders
        others.append(self)

    def keep(self, task: Task) -> None:
        """It is about to change, or to go."""
        if self._passed < task.order <= self._newest and task.order not in self._aside:
            self._aside[task.order] = task
            heappush(self._first_aside, task.order)

    def close(self) -> None:
        """It is not read any more."""
        if self in self._others:
            self._others.remove(self)
        self._aside.clear()

    def __iter__(self) -> Iterator[Task]:
        """In the order of submission; to be read once."""
        while self._passed < self._newest:
            yield from self._portion()

    def _portion(self) -> list[Task]:
        found = self._orders.after(self._passed, PORTION)
        top = found[-1][0] if len(found) == PORTION else self._newest
        self._passed = min(top, self._newest)
        was = {order: self._tasks[task_id] for order, task_id in found if order <= self._passed}
        while self._first_aside and self._first_aside[0] <= self._passed:
            order = heappop(self._first_aside)
            was[order] = self._aside.pop(order)
        return [was[order] for order in sorted(was)]
