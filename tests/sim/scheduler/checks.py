"""What must hold after every command, found from the tasks alone: none of the core's look-ups is asked."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

from coterie.core.breakers import BreakerState
from coterie.core.commands import (
    Accepted,
    AssignTask,
    Command,
    FinishTask,
    MoveTask,
    Outcome,
    ReleaseTask,
)
from coterie.core.nouns import NodeId, Task, TaskId, TaskState
from coterie.core.quotas import Limit
from coterie.core.state import ClusterState

HELD = {TaskState.SCHEDULED, TaskState.RUNNING}
ENDED_BADLY = {TaskState.FAILED, TaskState.CANCELLED, TaskState.TIMED_OUT, TaskState.DEAD_LETTERED}
ENDED = ENDED_BADLY | {TaskState.SUCCEEDED}
STARTS_KEPT = 200
REBALANCE_MS = 300  # the interval at which the coordinator of the simulation looks


class Violation(AssertionError):
    """A promise that was broken."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


class Checks:
    """Looks at every command and its outcome."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._ends: dict[TaskId, TaskState] = {}
        self._attempts: dict[TaskId, int] = {}
        self._starts: dict[tuple[str, ...], deque[int]] = defaultdict(lambda: deque(maxlen=STARTS_KEPT))
        self._probes: dict[tuple[str, int], dict[tuple[TaskId, int], int]] = defaultdict(dict)
        self._moves: dict[TaskId, int] = {}
        self.moves = 0
        self.assignments = self.waits_longest_ms = 0
        self.submitted: set[TaskId] = set()

    def after(self, command: Command, outcome: Outcome) -> None:
        for event in self._state.outbox:
            self._one_end(event.task)
            if event.type == "submitted":
                self.submitted.add(event.task.task_id)
        if not isinstance(outcome, Accepted) or outcome.duplicate:
            return
        if isinstance(command, MoveTask):
            self._moved(self._state.tasks[command.task_id])
        elif isinstance(command, AssignTask):
            self._assigned(self._state.tasks[command.task_id])
        elif isinstance(command, FinishTask | ReleaseTask):
            last = self._attempts.get(command.task_id)
            require(command.attempt == last, f"{command} was believed, the latest attempt is {last}")

    def _one_end(self, task: Task) -> None:
        end = self._ends.get(task.task_id)
        require(end is None, f"{task.task_id} changed after its end {end}")
        if task.state in ENDED:
            self._ends[task.task_id] = task.state

    # --- what an assignment may not exceed

    def _assigned(self, task: Task) -> None:
        self.assignments += 1
        before = self._attempts.get(task.task_id, 0)
        require(task.attempt > before, f"attempt {task.attempt} of {task.task_id} after {before}")
        self._attempts[task.task_id] = task.attempt
        held = [other for other in self._state.tasks.values() if other.state in HELD]
        node = self._state.nodes[task.node_id]
        on_node = sum(other.node_id == node.node_id for other in held)
        require(on_node <= node.capacity, f"{node.node_id} holds {on_node} of {node.capacity}")
        for limit in self._state.limits.values():
            counter = counter_of(limit, task)
            if counter is not None:
                self._within(limit, counter, held)
        self._through_breakers(task, held)
        waited = task.assigned_at_ms - max(task.created_at_ms, task.not_before_ms)
        self.waits_longest_ms = max(self.waits_longest_ms, waited)

    def _within(self, limit: Limit, counter: tuple[str, ...], held: Sequence[Task]) -> None:
        running = sum(counter_of(limit, other) == counter for other in held)
        if limit.concurrent:
            require(running <= limit.concurrent, f"{running} run under {limit}")
        if not limit.rate_count:
            return
        now, starts = self._state.meta.clock_ms, self._starts[counter]
        starts.append(now)
        for count, start in enumerate(reversed(starts), 1):
            require(count <= allowed(limit, now - start), f"{count} starts in {now - start} ms under {limit}")

    def _moved(self, task: Task) -> None:
        """Nobody is sent to and fro: two intervals at least lie between two moves of a task."""
        now, before = self._state.meta.clock_ms, self._moves.get(task.task_id)
        require(before is None or now - before >= 2 * REBALANCE_MS, f"{task.task_id} moves again at once")
        self._moves[task.task_id] = now
        self.moves += 1

    def _through_breakers(self, task: Task, held: Sequence[Task]) -> None:
        """Nothing passes an open breaker, and no more than its probes a half-open one."""
        now, policy = self._state.meta.clock_ms, self._state.meta.policy
        lease_ms = max(policy.breaker_recovery_ms, 1_000)
        for key in (f"node:{task.node_id}", f"skill:{task.type}", f"skill:{task.type}@{task.node_id}"):
            breaker = self._state.breakers.get(key)
            if breaker is None or breaker.state is not BreakerState.OPEN:
                continue
            require(now >= breaker.until_ms, f"{task.task_id} passed {key}, which is open")
            probes = self._probes[key, breaker.number]
            probes[task.task_id, task.attempt] = now + lease_ms
            live = [other for other in held if probes.get((other.task_id, other.attempt), 0) > now]
            require(len(live) <= policy.breaker_probes, f"{len(live)} probes of {key} at once")

    # --- the order of a plan

    def order_of(self, commands: Sequence[Command], now_ms: int) -> None:
        """Among tasks that are alike in everything but age and class, a plan leaves none that is before one
        that it takes."""
        taken = [self._state.tasks[c.task_id] for c in commands if isinstance(c, AssignTask)]
        if not taken:
            return
        queued: dict[tuple[object, ...], list[Task]] = defaultdict(list)
        for task in self._state.tasks.values():
            if task.state is TaskState.PENDING and task.start_at_ms <= now_ms:
                queued[_alike(task)].append(task)
        for kind, tasks in queued.items():
            order = sorted(tasks, key=self._rank)
            mine = [task for task in taken if _alike(task) == kind]
            for place, task in enumerate(mine):
                require(task is order[place], f"{task.task_id} goes before {order[place].task_id}")

    def _rank(self, task: Task) -> tuple[int, int]:
        ageing_ms = self._state.meta.policy.ageing_ms
        since_ms = max(task.created_at_ms, task.not_before_ms)
        return since_ms + (4 - task.priority) * ageing_ms, task.order

    # --- at any time, at the end

    def families(self) -> None:
        """Nobody outlives a parent that ended badly."""
        for task in self._state.tasks.values():
            ended = self._ends.get(task.parent_id) in ENDED_BADLY
            orphan = ended and not task.cancel_requested
            require(not orphan, f"{task.task_id} outlives its parent {task.parent_id}")

    def all_ended(self) -> None:
        live = [(task.task_id, task.state.name, task.wait) for task in self._state.tasks.values()]
        require(not live, f"{len(live)} tasks never ended: {live[:5]}")
        missing = self.submitted - self._ends.keys()
        require(not missing, f"lost: {sorted(missing)[:5]}")

    def believed_once(self) -> None:
        """The node that a task names is the only one that the look-ups give it to."""
        holders: dict[TaskId, list[NodeId]] = defaultdict(list)
        for node_id, held in self._state.indexes.assigned.items():
            for task_id in held:
                holders[task_id].append(node_id)
        for task in self._state.tasks.values():
            wanted = [task.node_id] if task.state in HELD else []
            require(holders.pop(task.task_id, []) == wanted, f"{task.task_id} should be on {wanted}")
        require(not holders, f"nodes hold what is not there: {dict(holders)}")


def _alike(task: Task) -> tuple[object, ...]:
    return task.tenant, task.type, task.agent, task.key


def counter_of(limit: Limit, task: Task) -> tuple[str, ...] | None:
    """The limit and the values it counts apart; None when it does not count the task."""
    parts = [limit.limit_id]
    for want, value in (
        (limit.tenant, task.tenant),
        (limit.agent, task.agent),
        (limit.type, task.type),
        (limit.key, task.key),
    ):
        if (want == "*" and not value) or want not in ("", "*", value):
            return None
        parts.append(value if want == "*" else "")
    return tuple(parts)


def allowed(limit: Limit, window_ms: int) -> float:
    """Starts that a window of that many ms, both ends included, may hold."""
    if limit.burst:
        return limit.burst + limit.rate_count * window_ms / limit.rate_period_ms
    periods = window_ms // limit.rate_period_ms + 1
    return limit.rate_count * periods
