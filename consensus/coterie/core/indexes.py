"""Look-ups derived from the tasks: rebuilt after a restore, never part of the state's identity."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from coterie.core.agentbook import AGENT_TYPE
from coterie.core.limits import Gauges
from coterie.core.live_look_ups import AgentRuns, Pins, Sleepers
from coterie.core.nouns import NodeId, Task, TaskId, TaskState, share
from coterie.core.ordered import Ordered
from coterie.core.quotas import Bucket, Limit
from coterie.core.transitions import HELD, TERMINAL
from coterie.core.workqueue import ORDER_BITS, WorkQueue, profile_of

K = TypeVar("K")

POOL_MAX = 4_096
MORE_THAN_EVER = 1 << 100  # a key above all times
ORDER_MASK = (1 << ORDER_BITS) - 1
RELEASED_MAX = 500  # delayed tasks that one step of the clock puts into the queue


class TaskIndexes:
    """Which tasks are queued, delayed, held by a node, bound by a clock or by their family."""

    __slots__ = (
        "_children",
        "_dead",
        "_pool",
        "_queued",
        "_released",
        "agent_runs",
        "assigned",
        "by_order",
        "by_state",
        "clock_ms",
        "controls",
        "deadlines",
        "delayed",
        "gauges",
        "held_types",
        "live_bytes",
        "pins",
        "queue",
        "queued",
        "reserved",
        "sleepers",
        "usage",
        "waits",
    )

    def __init__(self, limits: Mapping[str, Limit], buckets: Mapping[str, Bucket]) -> None:
        self.clock_ms = 0
        self._released = 1 << ORDER_BITS  # what is delayed under a smaller time_key is in the queue
        self.gauges = Gauges(limits, buckets)
        self.queue = WorkQueue(self.gauges)  # PENDING, and their time has come
        self.delayed: Ordered[TaskId] = Ordered()  # PENDING, but not yet; these three by time_key
        self.deadlines: Ordered[TaskId] = Ordered()
        self.waits: Ordered[TaskId] = Ordered()  # WAITING, but not for ever
        self.by_order: Ordered[TaskId] = Ordered()  # all live tasks
        self.assigned: dict[NodeId, dict[TaskId, int]] = {}  # node -> task -> attempt
        self.held_types: dict[tuple[NodeId, str], int] = {}  # how many of a type a node holds; never 0
        self.reserved: dict[NodeId, tuple[int, int]] = {}  # memory in bytes and GPUs set aside; never both 0
        self.usage: dict[str, tuple[int, int]] = {}  # tenant -> tasks held, sum of their assignment times
        self.by_state: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.live_bytes = 0
        self.queued = 0  # live tasks that no node holds
        self._queued: dict[str, int] = {}  # of each tenant
        self._children: dict[TaskId, dict[TaskId, None]] = {}  # live ones, of each parent
        self._pool: dict[object, object] = {}
        self.controls: OrderedDict[str, None] = OrderedDict()  # request ids of controls, oldest first
        self.sleepers, self.pins, self.agent_runs = Sleepers(), Pins(), AgentRuns()
        self._dead: dict[str, OrderedDict[TaskId, None]] = {}  # dead letters of each tenant, oldest first

    def shared(self, task: Task) -> Task:
        """A new task, with what it has in common with others kept once."""
        if len(self._pool) >= POOL_MAX:
            self._pool.clear()
        return share(task, self._pool)

    # --- tasks come, change and go

    def add(self, task: Task) -> None:
        """A live task that was not there."""
        self.by_order.add(task.order, task.task_id)
        if task.constraints.skill_version:
            self.pins.count(task.constraints.skill_version, 1)
        self._place(task)

    def _place(self, task: Task) -> None:
        self.by_state[task.state] += 1
        if task.state in TERMINAL:
            return
        self.live_bytes += task.bytes_held
        if task.deadline_at_ms:
            self.deadlines.add(time_key(task.deadline_at_ms, task), task.task_id)
        if task.parent_id:
            self._children.setdefault(task.parent_id, {})[task.task_id] = None
        if task.type == AGENT_TYPE and task.agent:
            self.agent_runs.count(task, 1)
        if task.state in HELD:
            self._hold(task)
            return
        self._count(task.tenant, 1)
        if task.state is TaskState.PENDING:
            if self._is_delayed(task):
                self.delayed.add(time_key(task.start_at_ms, task), task.task_id)
            else:
                self.queue.add(task)
        elif task.state is TaskState.WAITING:
            self.sleepers.add(task)
            if _until_ms(task):
                self.waits.add(time_key(_until_ms(task), task), task.task_id)

    def _displace(self, task: Task) -> None:
        """A live one: nothing follows the end of a task."""
        self.by_state[task.state] -= 1
        self.live_bytes -= task.bytes_held
        if task.deadline_at_ms:
            self.deadlines.remove(time_key(task.deadline_at_ms, task))
        if task.parent_id:
            self._drop_child(task)
        if task.type == AGENT_TYPE and task.agent:
            self.agent_runs.count(task, -1)
        if task.state in HELD:
            self._let_go(task)
            return
        self._count(task.tenant, -1)
        if task.state is TaskState.PENDING:
            if self._is_delayed(task):
                self.delayed.remove(time_key(task.start_at_ms, task))
            else:
                self.queue.remove(task)
        elif task.state is TaskState.WAITING:
            self.sleepers.remove(task)
            if _until_ms(task):
                self.waits.remove(time_key(_until_ms(task), task))

    def replace(self, before: Task, after: Task) -> None:
        """Move a task; cheap when nothing that is indexed changed."""
        if before.state in HELD and after.state in HELD:  # its node and attempt are the same
            self.by_state[before.state] -= 1
            self.by_state[after.state] += 1
            self.live_bytes += after.bytes_held - before.bytes_held
        elif before.state is after.state and _same_place(before, after):
            self.live_bytes += after.bytes_held - before.bytes_held
        else:
            self._displace(before)
            if after.state in TERMINAL:
                self.by_order.remove(after.order)
                if before.constraints.skill_version:
                    self.pins.count(before.constraints.skill_version, -1)
            self._place(after)

    def advance(self, clock_ms: int, tasks: Mapping[TaskId, Task]) -> None:
        """The clock has moved: what was delayed until now is queued, rate limits let go.

        When very many were delayed until the same time, the earliest of them are queued: a million at once
        would hold up every node for seconds. The rest follows with the next steps of the clock."""
        self.clock_ms = clock_ms
        self.queue.advance(clock_ms)
        self._released = clock_ms + 1 << ORDER_BITS
        if self.is_behind:
            for key, task_id in list(islice(self.delayed.below(self._released), RELEASED_MAX)):
                self.delayed.remove(key)
                self.queue.add(tasks[task_id])
            self._released = min(self._released, self.delayed.first_key(MORE_THAN_EVER))

    def begin_at(self, clock_ms: int, released_ms: int, released_order: int) -> None:
        """Where the clock stands and how far the release has gone, before the first task is added."""
        self.advance(clock_ms, {})
        if released_ms:
            self._released = released_ms << ORDER_BITS | released_order

    @property
    def released(self) -> tuple[int, int]:
        """Time and order of the first task that is due and not in the queue yet; zeros: all of them are."""
        if self._released == self.clock_ms + 1 << ORDER_BITS:
            return 0, 0
        return self._released >> ORDER_BITS, self._released & ORDER_MASK

    @property
    def is_behind(self) -> bool:
        """Tasks whose time has come are not in the queue yet."""
        return self.delayed.first_key(MORE_THAN_EVER) < self.clock_ms + 1 << ORDER_BITS

    def _is_delayed(self, task: Task) -> bool:
        """A PENDING one that is not in the queue yet."""
        return task.start_at_ms > 0 and time_key(task.start_at_ms, task) >= self._released

    # --- what nodes hold

    def _hold(self, task: Task) -> None:
        self.assigned.setdefault(task.node_id, {})[task.task_id] = task.attempt
        self._sum(task, 1)

    def _let_go(self, task: Task) -> None:
        self.assigned[task.node_id].pop(task.task_id, None)
        self._sum(task, -1)

    def _sum(self, task: Task, by: int) -> None:
        """Keep the sums over what nodes hold."""
        _add(self.held_types, (task.node_id, task.type), by)
        held, since_ms = self.usage.get(task.tenant, (0, 0))
        self.usage[task.tenant] = held + by, since_ms + by * task.assigned_at_ms
        if not held + by:
            del self.usage[task.tenant]
        wanted = task.constraints
        if wanted.memory_bytes or wanted.gpus:
            memory, gpus = self.reserved.get(task.node_id, (0, 0))
            sums = (memory + by * wanted.memory_bytes, gpus + by * wanted.gpus)
            self.reserved[task.node_id] = sums
            if sums == (0, 0):
                del self.reserved[task.node_id]
        if self.gauges.count(profile_of(task), by):
            self.queue.recheck(task.key)

    def held_by(self, node_id: NodeId) -> dict[TaskId, int]:
        """Tasks the node holds, with their attempts."""
        return self.assigned.get(node_id, {})

    def relimit(self, tasks: Mapping[TaskId, Task], *, keyed: bool) -> None:
        """The limits have changed. `keyed`: one that looks at keys, of which there may be very many."""
        self.gauges.forget()
        for held in self.assigned.values():
            for task_id in held:
                self.gauges.count(profile_of(tasks[task_id]), 1)
        if keyed:
            self.queue.recheck_all()

    # --- the queue

    def _count(self, tenant: str, by: int) -> None:
        self.queued += by
        _add(self._queued, tenant, by)

    def queued_of(self, tenant: str) -> int:
        """Live tasks of a tenant that no node holds."""
        return self._queued.get(tenant, 0)

    def anything_due(self, now_ms: int) -> bool:
        """Some task could start now, for all the clock knows."""
        return bool(self.queue) or self.delayed.first_key(MORE_THAN_EVER) < now_ms + 1 << ORDER_BITS

    def next_clock_ms(self) -> int:
        """When something next comes due by itself; 0: nothing does."""
        heads = [keys.first_key(0) >> ORDER_BITS for keys in (self.deadlines, self.delayed, self.waits)]
        heads.append(self.queue.wakes_at_ms())
        return min((head for head in heads if head), default=0)

    # --- families and dead letters

    def children_of(self, task_id: TaskId) -> Collection[TaskId]:
        """Live tasks that name this one as their parent, in no order that means anything."""
        return self._children.get(task_id, {})

    def _drop_child(self, task: Task) -> None:
        siblings = self._children[task.parent_id]
        del siblings[task.task_id]
        if not siblings:
            del self._children[task.parent_id]

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

    def image(self) -> object:
        """Everything that counts, to compare with one built anew."""
        ordered = (self.by_order, self.delayed, self.deadlines, self.waits)
        by_key = [list(keys.items()) for keys in ordered]
        held = {node: tasks for node, tasks in self.assigned.items() if tasks}
        sums = self.held_types, self.reserved, self.usage, self.gauges.running, self.by_state
        counts = self.live_bytes, self.queued, self._queued, self.clock_ms
        families = self._children, {tenant: list(dead) for tenant, dead in self._dead.items()}
        used = self.sleepers.image(), self.pins.image(), self.agent_runs.image()
        return by_key, held, sums, counts, families, used, self.queue.image()


def time_key(at_ms: int, task: Task) -> int:
    """By time, then in the order of submission."""
    return at_ms << ORDER_BITS | task.order


def due(keys: Ordered[TaskId], now_ms: int) -> Iterator[TaskId]:
    """Tasks whose time is not later than now, by time."""
    return (task_id for _, task_id in keys.below(now_ms + 1 << ORDER_BITS))


def _until_ms(task: Task) -> int:
    """Of one that is WAITING."""
    return task.wait.until_ms if task.wait is not None else 0


def _same_place(before: Task, after: Task) -> bool:
    return (
        before.start_at_ms == after.start_at_ms
        and before.not_before_ms == after.not_before_ms
        and before.wait is after.wait
    )


def _add(counts: dict[K, int], key: K, by: int) -> None:
    count = counts.get(key, 0) + by
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)
