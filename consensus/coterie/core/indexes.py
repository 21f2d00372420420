"""Look-ups derived from the tasks: rebuilt after a restore, never part of the state's identity."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
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
        "_children",
        "_dead",
        "_queued",
        "assigned",
        "by_state",
        "deadlines",
        "delayed",
        "held_types",
        "live_bytes",
        "pending",
        "queued",
        "reserved",
        "waits",
    )

    def __init__(self) -> None:
        self.waits = SortedKeys()  # (until_ms, order, id): WAITING, but not for ever
        self._children: dict[TaskId, dict[TaskId, None]] = {}  # live ones, of each parent
        self.queued = 0  # live tasks that no node holds
        self._queued: dict[str, int] = {}  # of each tenant
        self._dead: dict[str, OrderedDict[TaskId, None]] = {}  # dead letters of each tenant, oldest first
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
            self._sum(task, 1)
        elif task.state is TaskState.WAITING and task.wait is not None and task.wait.until_ms:
            self.waits.add((task.wait.until_ms, task.order, task.task_id))
        if task.state not in HELD:
            self._count(task.tenant, 1)
        if task.parent_id:
            self._children.setdefault(task.parent_id, {})[task.task_id] = None

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
            self._sum(task, -1)
        elif task.state is TaskState.WAITING and task.wait is not None and task.wait.until_ms:
            self.waits.remove((task.wait.until_ms, task.order, task.task_id))
        if task.state not in HELD:
            self._count(task.tenant, -1)
        if task.parent_id:
            self._drop_child(task)

    def _sum(self, task: Task, by: int) -> None:
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

    def _count(self, tenant: str, by: int) -> None:
        self.queued += by
        count = self._queued.get(tenant, 0) + by
        if count:
            self._queued[tenant] = count
        else:
            self._queued.pop(tenant, None)

    def queued_of(self, tenant: str) -> int:
        """Live tasks of a tenant that no node holds."""
        return self._queued.get(tenant, 0)

    def relimit(self) -> None:
        """The limits have changed."""

    def bucket_changed(self, name: str) -> None:
        """A rate limit's bucket was taken from."""

    def _drop_child(self, task: Task) -> None:
        siblings = self._children[task.parent_id]
        del siblings[task.task_id]
        if not siblings:
            del self._children[task.parent_id]

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

    def children_of(self, task_id: TaskId) -> Collection[TaskId]:
        """Live tasks that name this one as their parent, in no order that means anything."""
        return self._children.get(task_id, {})

    def dead_of(self, tenant: str) -> Collection[TaskId]:
        """Dead letters of a tenant, oldest first."""
        return self._dead.get(tenant, {})

    def add_dead_letter(self, task: Task) -> None:
        self._dead.setdefault(task.tenant, OrderedDict())[task.task_id] = None

    def remove_dead_letter(self, task: Task) -> None:
        of_tenant = self._dead[task.tenant]
        del of_tenant[task.task_id]
        if not of_tenant:
            del self._dead[task.tenant]

    def _queue(self, task: Task) -> SortedKeys:
        return self.delayed if task.start_at_ms else self.pending


def _queue_key(task: Task) -> Key:
    if task.start_at_ms:
        return (task.start_at_ms, task.order, task.task_id)
    return (-task.priority, task.order, task.task_id)
