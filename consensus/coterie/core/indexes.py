"""Look-ups derived from the tasks: rebuilt after a restore, never part of the state's identity."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import islice

from coterie.core.nouns import NodeId, Task, TaskId, TaskState
from coterie.core.transitions import HELD, TERMINAL

Key = tuple[int, int, TaskId]


class SortedKeys:
    """A sorted list of unique keys. Keys mostly arrive in order, so that inserting is appending."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: list[Key] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def add(self, key: Key) -> None:
        if self._keys and key < self._keys[-1]:
            insort(self._keys, key)
        else:
            self._keys.append(key)

    def remove(self, key: Key) -> None:
        at = bisect_left(self._keys, key)
        if at < len(self._keys) and self._keys[at] == key:
            del self._keys[at]

    def up_to(self, limit: int) -> Iterator[Key]:
        """Keys whose first part is at most `limit`, in order."""
        end = bisect_left(self._keys, (limit + 1,))
        return islice(self._keys, end)

    def first(self) -> Key | None:
        return self._keys[0] if self._keys else None


class TaskIndexes:
    """Which tasks are queued, delayed, held by a node, or bound by a deadline."""

    __slots__ = (
        "assigned",
        "by_state",
        "deadlines",
        "delayed",
        "held_types",
        "live_bytes",
        "pending",
        "reserved",
    )

    def __init__(self) -> None:
        self.pending = SortedKeys()  # (-priority, order, id): ready to be assigned
        self.delayed = SortedKeys()  # (start_at_ms, order, id): PENDING, but not yet
        self.deadlines = SortedKeys()  # (deadline_at_ms, order, id)
        self.assigned: dict[NodeId, dict[TaskId, int]] = {}  # node -> task -> attempt
        self.held_types: dict[tuple[NodeId, str], int] = {}  # how many of a type a node holds; never 0
        self.reserved: dict[NodeId, tuple[int, int]] = {}  # memory in bytes and GPUs set aside; never both 0
        self.by_state: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.live_bytes = 0

    @classmethod
    def of(cls, tasks: Iterable[Task]) -> TaskIndexes:
        indexes = cls()
        for task in tasks:
            indexes.add(task)
        return indexes

    def add(self, task: Task) -> None:
        self.by_state[task.state] += 1
        if task.state in TERMINAL:
            return
        self.live_bytes += task.bytes_held
        if task.deadline_at_ms:
            self.deadlines.add((task.deadline_at_ms, task.order, task.task_id))
        if task.state is TaskState.PENDING:
            self._queue(task).add(_queue_key(task))
        elif task.state in HELD:
            self.assigned.setdefault(task.node_id, {})[task.task_id] = task.attempt
            self._count(task, 1)

    def remove(self, task: Task) -> None:
        self.by_state[task.state] -= 1
        if task.state in TERMINAL:
            return
        self.live_bytes -= task.bytes_held
        if task.deadline_at_ms:
            self.deadlines.remove((task.deadline_at_ms, task.order, task.task_id))
        if task.state is TaskState.PENDING:
            self._queue(task).remove(_queue_key(task))
        elif task.state in HELD:
            self.assigned[task.node_id].pop(task.task_id, None)
            self._count(task, -1)

    def _count(self, task: Task, by: int) -> None:
        """Keep the sums over what a node holds."""
        key = (task.node_id, task.type)
        count = self.held_types.get(key, 0) + by
        if count:
            self.held_types[key] = count
        else:
            del self.held_types[key]
        wanted = task.constraints
        if wanted.memory_bytes or wanted.gpus:
            memory, gpus = self.reserved.get(task.node_id, (0, 0))
            sums = (memory + by * wanted.memory_bytes, gpus + by * wanted.gpus)
            self.reserved[task.node_id] = sums
            if sums == (0, 0):
                del self.reserved[task.node_id]

    def replace(self, before: Task, after: Task) -> None:
        """Move a task; cheap when nothing that is indexed changed."""
        if (
            before.state is after.state
            and before.node_id == after.node_id
            and before.attempt == after.attempt
            and before.start_at_ms == after.start_at_ms
            and after.state not in TERMINAL
        ):
            self.live_bytes += after.bytes_held - before.bytes_held
            return
        self.remove(before)
        self.add(after)

    def held_by(self, node_id: NodeId) -> dict[TaskId, int]:
        """Tasks the node holds, with their attempts."""
        return self.assigned.get(node_id, {})

    def _queue(self, task: Task) -> SortedKeys:
        return self.delayed if task.start_at_ms else self.pending


def _queue_key(task: Task) -> Key:
    if task.start_at_ms:
        return (task.start_at_ms, task.order, task.task_id)
    return (-task.priority, task.order, task.task_id)
