"""Optimistic assignment: the node that takes a task proposes its assignment together with the submission.

One commit less on the way of a task. The state machine checks the assignment like any other and refuses it
when the node is full, draining or gone by then, or an older task of the kind waits; then, and while work is
queued, the coordinator assigns.
The same for the tasks that a run of a workflow makes when it begins, or when one of its tasks succeeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from coterie.core.commands import AssignTask, Command, FinishTask, SubmitTask
from coterie.core.graph.reading import graph_of
from coterie.core.nouns import NodeId
from coterie.core.routing import Placeable, Pool, RoutingRules, choose
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.foresee import Foreseen, after_success, at_the_beginning
from coterie.core.runs.outline import is_large
from coterie.core.state import ClusterState
from coterie.core.view import View
from coterie.node.clock import Clock
from coterie.node.loads import LoadBook

WithNext = Callable[[Command], AbstractContextManager[list[Command]]]  # see Optimist.with_next
FORESEEN_MAX = 256  # assignments that travel with one command


def alone(command: Command) -> AbstractContextManager[list[Command]]:
    """Nothing travels with the command."""
    return nullcontext([command])


class Optimist:
    """Chooses nodes by this node's replica and the latest load reports, its own promises included."""

    def __init__(
        self,
        me: NodeId,
        state: Callable[[], ClusterState],
        book: LoadBook,
        clock: Clock,
        leader: Callable[[], str],
        rules: Callable[[], RoutingRules],
    ) -> None:
        self._me, self._state, self._book, self._clock = me, state, book, clock
        self._leader, self._rules = leader, rules
        self._promised: Counter[NodeId] = Counter()  # proposed, not yet applied here

    @contextmanager
    def with_assignments(self, submits: Sequence[SubmitTask]) -> Iterator[tuple[list[Command], list[int]]]:
        """The commands to propose, and where in them each submission stands. Promises hold until the exit."""
        commands: list[Command] = []
        places: list[int] = []
        promised: Counter[NodeId] = Counter()
        pool = self._pool()
        for submit in submits:
            places.append(len(commands))
            commands.append(submit)
            assignment = self._assign(submit, pool)
            if assignment is not None:
                commands.append(assignment)
                promised[assignment.node_id] += 1
        self._promised += promised
        try:
            yield commands, places
        finally:
            self._promised -= promised

    @contextmanager
    def with_next(self, command: Command) -> Iterator[list[Command]]:
        """The command, and where the tasks go that a run makes of it in the same entry: see runs.foresee."""
        assignments = self._next(command)
        promised = Counter(assignment.node_id for assignment in assignments)
        self._promised += promised
        try:
            yield [command, *assignments]
        finally:
            self._promised -= promised

    def _next(self, command: Command) -> list[AssignTask]:
        foreseen = self._foreseen(command)
        pool = self._pool() if foreseen else None
        if pool is None:
            return []
        if isinstance(command, FinishTask):
            pool.free += 1  # the slot of the task that ends
            for candidate in pool.candidates:
                candidate.held -= candidate.node.node_id == self._me
        assignments: list[AssignTask] = []
        for task in foreseen[: min(FORESEEN_MAX, max(0, pool.free))]:
            decision = None if _looks_around(task) else choose(task, pool, near=self._me)
            if decision is None or decision.chosen is None:
                break
            pool.give(task, decision.chosen)
            assignments.append(decision.assignment(task.task_id, 1, if_first=True))
        return assignments

    def _foreseen(self, command: Command) -> list[Foreseen]:
        state = self._state()
        if isinstance(command, FinishTask):
            task = state.tasks.get(command.task_id)
            return after_success(state, task) if task is not None and task.parent_id in state.runs else []
        if isinstance(command, RunWorkflow) and not is_large(command.graph):
            submit = command.submit
            return at_the_beginning(state, submit.task_id, graph_of(command.graph), submit.constraints)
        return []

    def _pool(self) -> Pool | None:
        """The nodes as they are known here; None while anything waits in the queue, which must go first."""
        state, now_ms = self._state(), self._clock.now_ms()
        if state.indexes.anything_due(now_ms):
            return None
        view = View(now_ms, self._book.loads(), leader=NodeId(self._leader()))
        pool = Pool(state, view, self._rules())
        for candidate in pool.candidates:
            candidate.held += self._promised[candidate.node.node_id]
        return pool

    def _assign(self, submit: SubmitTask, pool: Pool | None) -> AssignTask | None:
        if submit.start_delay_ms or pool is None or pool.free <= 0 or _looks_around(submit):
            return None
        decision = choose(submit, pool, near=self._me)
        if decision.chosen is None:
            return None
        pool.give(submit, decision.chosen)
        return decision.assignment(submit.task_id, 1, if_first=True)


def _looks_around(task: Placeable) -> bool:
    """Where it may run depends on where others run: what is on its way to them is known to the leader."""
    return any(companion.required for companion in task.constraints.companions)
