"""One pass over the queue: each task placed, or left, knowing what the round has given away already."""

from __future__ import annotations

from collections.abc import Hashable

from coterie.core.kinds import kind
from coterie.core.routing.choice import Decision, choose
from coterie.core.routing.pool import Placeable, Pool, RoutingRules, Sight
from coterie.core.state import ClusterState

# Kinds of task found to have no node in one round; each costs a look at every node.
KINDS_FREE = 250  # whoever they are of
KINDS_MAX = 500  # beyond these, shared among the tenants
KINDS_LEAST = 50  # of them for each tenant, as long as that is no more than
KINDS_MOST = 2_000  # in all: the event loop waits for a round
SKIPPED_MAX = 2_000  # tasks passed over because they are better off waiting


class Round:
    """Ask `place` for each task in the order of the queue until the round is `over`."""

    def __init__(self, state: ClusterState, sight: Sight, rules: RoutingRules) -> None:
        self.pool = Pool(state, sight, rules)
        self._stuck: set[Hashable] = set()
        self._unfit: set[Hashable] = set()  # of these, those that no node may run
        shared = max(KINDS_MAX, KINDS_LEAST * len(state.indexes.queue.tenants))
        self._kinds_max = min(KINDS_FREE + shared, KINDS_MOST)
        self._better_off: dict[Hashable, int] = {}  # kind -> how many more of it wait for a busy node
        self._skipped = 0

    @property
    def over(self) -> bool:
        """No node has a slot left, or looking further is not worth it."""
        return self.pool.free <= 0 or len(self._stuck) >= self._kinds_max or self._skipped >= SKIPPED_MAX

    def place(self, task: Placeable) -> Decision | None:
        """Where the task goes now; None: nowhere in this round. The pool has given the slot away then."""
        of_kind = kind(task)
        if of_kind in self._stuck or self._waits(of_kind):
            return None
        decision = choose(task, self.pool)
        if decision.chosen is None:
            if decision.better_off:
                self._better_off[of_kind] = decision.better_off - 1
                self._skipped += 1
            else:
                self._stuck.add(of_kind)
                if decision.unfit:
                    self._unfit.add(of_kind)
            return None
        self.pool.give(task, decision.chosen)
        return decision

    @property
    def looks(self) -> int:
        """Kinds of task that were found to have no node."""
        return len(self._stuck)

    def is_stuck(self, task: Placeable) -> bool:
        """No node takes a task of this kind any more in this round."""
        return kind(task) in self._stuck

    def is_unfit(self, task: Placeable) -> bool:
        """No node may run a task of this kind, whatever it holds: see Unfit."""
        return kind(task) in self._unfit

    def _waits(self, of_kind: Hashable) -> bool:
        left = self._better_off.get(of_kind, 0)
        if left <= 0:
            return False
        self._better_off[of_kind] = left - 1
        self._skipped += 1
        return True
