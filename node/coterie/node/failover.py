"""How long failover takes: from the last good report of a lost node until its task is assigned again.

Measured on the node that leads, by monotonic clocks; the objective is `failover.failoverTime`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coterie.core.nouns import NodeId, TaskId
from coterie.core.outcomes import Loss
from coterie.core.state import ClusterState
from coterie.core.transitions import HELD
from coterie.node.clock import Clock
from coterie.node.metrics import NodeMetrics
from coterie.node.observability import get_logger

log = get_logger(__name__)

OPEN_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Open:
    loss: Loss
    heard_at: float


class FailoverWatch:
    """Follows lost tasks until they are somewhere else."""

    def __init__(
        self, clock: Clock, heard_at: Callable[[NodeId, int], float], metrics: NodeMetrics, objective_ms: int
    ) -> None:
        """`heard_at`: when that process of a node was last heard of, monotonic; 0: never."""
        self._clock, self._heard_at, self._metrics = clock, heard_at, metrics
        self._objective_s = objective_ms / 1000
        self._open: dict[TaskId, _Open] = {}

    def look(self, state: ClusterState) -> None:
        """Take note of what was lost since the last look, and of what has found another node."""
        lost = state.outcomes.lost_tasks
        while lost:
            self._note(lost.popleft())
        for task_id, one in list(self._open.items()):
            task = state.tasks.get(task_id)
            if task is None:
                del self._open[task_id]  # cancelled, or given up
            elif task.attempt > one.loss.attempt and task.state in HELD:
                del self._open[task_id]
                self._measured(one, task.node_id)

    def begin(self, state: ClusterState) -> None:
        """This node leads from now on: what has found another node under earlier leaders is not measured."""
        lost, self._open = list(state.outcomes.lost_tasks), {}
        state.outcomes.lost_tasks.clear()
        for loss in lost:
            task = state.tasks.get(loss.task_id)
            if task is not None and task.attempt == loss.attempt:
                self._note(loss)

    def _note(self, loss: Loss) -> None:
        heard_at = self._heard_at(loss.node_id, loss.incarnation)
        if heard_at and len(self._open) < OPEN_MAX:
            self._open[loss.task_id] = _Open(loss, heard_at)

    def _measured(self, one: _Open, node_id: NodeId) -> None:
        took_s = self._clock.monotonic() - one.heard_at
        late = 0 < self._objective_s < took_s
        self._metrics.failed_over(took_s, late=late)
        if late:
            fields = {"task_id": one.loss.task_id, "lost_by": one.loss.node_id, "node": node_id}
            seconds = {"took_s": round(took_s, 3), "objective_s": self._objective_s}
            log.warning("failover took longer than failoverTime", extra={**fields, **seconds})
