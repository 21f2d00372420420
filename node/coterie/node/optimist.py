"""Optimistic assignment: the node that takes a task proposes its assignment together with the submission.

One commit less on the way of a task. The state machine checks the assignment like any other and refuses it
when the node is full, draining or gone by then; then, and while work is queued, the coordinator assigns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from coterie.core.commands import AssignTask, Command, SubmitTask
from coterie.core.nouns import NodeId
from coterie.core.routing import Pool, RoutingRules, choose
from coterie.core.scheduler import View
from coterie.core.state import ClusterState
from coterie.node.clock import Clock
from coterie.node.loads import LoadBook


class Optimist:
    """Chooses nodes by this node's replica and the latest load reports, its own promises included."""

    def __init__(
        self,
        me: NodeId,
        state: Callable[[], ClusterState],
        book: LoadBook,
        clock: Clock,
        leader: Callable[[], str],
        rules: RoutingRules,
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

    def _pool(self) -> Pool | None:
        """The nodes as they are known here; None while anything waits in the queue, which must go first."""
        state, now_ms = self._state(), self._clock.now_ms()
        if state.indexes.anything_due(now_ms):
            return None
        view = View(now_ms, self._book.loads(), leader=NodeId(self._leader()))
        pool = Pool(state, view, self._rules)
        for candidate in pool.candidates:
            candidate.held += self._promised[candidate.node.node_id]
        return pool

    def _assign(self, submit: SubmitTask, pool: Pool | None) -> AssignTask | None:
        if submit.start_delay_ms or pool is None or pool.free <= 0:
            return None
        decision = choose(submit, pool, near=self._me)
        if decision.chosen is None:
            return None
        pool.give(submit, decision.chosen)
        return decision.assignment(submit.task_id, 1)
