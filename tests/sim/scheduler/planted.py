"""Bugs planted on purpose: a simulation that finds none of them proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coterie.core import (
    breaker_rules,
    breakers,
    control_rules,
    fairness,
    lifecycle,
    limits,
    machine,
    nouns,
    rebalance,
    retry_rules,
    task_rules,
)
from coterie.core import draft as drafts
from coterie.core.indexes import TaskIndexes
from coterie.core.limits import Gauges
from coterie.core.routing import pool
from coterie.core.transitions import HELD
from coterie.core.workqueue import WorkQueue
from tests.sim.scheduler.run import Report, simulate

Patch = tuple[Any, str, Any]


def _nothing(*_: object, **__: object) -> None:
    return None


def _believe_anyone(state: Any, task_id: Any, attempt: int) -> Any:
    task = state.tasks.get(task_id)
    return task if task is not None and task.state in HELD else lifecycle.no_task(state, task_id)


def _forgets_releases(real: Callable[..., None]) -> Callable[..., None]:
    def let_go(self: TaskIndexes, task: Any) -> None:
        real(self, task)
        if task.attempt % 7 == 3:
            self.assigned[task.node_id][task.task_id] = task.attempt

    return let_go


def _blind_to_capacity(real: Callable[..., Any]) -> Callable[..., Any]:
    def held_by(self: TaskIndexes, node_id: Any) -> Any:
        return {} if len(real(self, node_id)) > 1 else real(self, node_id)

    return held_by


def _quick(real: Callable[..., int]) -> Callable[..., int]:
    return lambda limit: real(limit) // 2


def _keys_alike(profile: Any) -> Any:
    return profile._replace(key="", agent="")


def _unkeyed(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda limit, profile: real(limit, _keys_alike(profile))


def _forgets_moves(record: Any, **changes: Any) -> Any:
    changes.pop("moved_at_ms", None)
    return nouns.evolve(record, **changes)


PLANTED: dict[str, Callable[[], list[Patch]]] = {
    "limits are not looked at": lambda: [(Gauges, "_blocker", _nothing)],
    "tokens come twice as fast": lambda: [(limits, "interval_ns", _quick(limits.interval_ns))],
    "limits per key are forgotten": lambda: [(limits, "counter_name", _unkeyed(limits.counter_name))],
    "classes do not age": lambda: [(WorkQueue, "set_ageing", _nothing)],
    "no tenant is ever behind": lambda: [
        (drafts, "standing", lambda *_: 0),
        (drafts, "attempt_cost", lambda *_: 0),
    ],
    "weights do not count": lambda: [(fairness, "weight_of", lambda *_: 1)],
    "signals wake nobody": lambda: [
        (lifecycle, "wake_if_over", _nothing),
        (control_rules, "wake_if_over", _nothing),
    ],
    "any attempt is believed": lambda: [
        (task_rules, "fenced", _believe_anyone),
        (retry_rules, "fenced", _believe_anyone),
    ],
    "what was delayed stays delayed": lambda: [(TaskIndexes, "advance", _nothing)],
    "children are left alone": lambda: [
        (machine, "settle", lambda state, moment: state.ended_parents.clear())
    ],
    "a node is held to keep what it gave back": lambda: [
        (TaskIndexes, "_let_go", _forgets_releases(TaskIndexes._let_go))
    ],
    "capacity is not counted": lambda: [(TaskIndexes, "held_by", _blind_to_capacity(TaskIndexes.held_by))],
    "breakers let everybody pass": lambda: [
        (task_rules, "admit_attempt", _nothing),
        (pool, "why", lambda *_: ""),
    ],
    "probes are not counted": lambda: [
        (breakers, "permits", lambda *_: 99),
        (pool, "permits", lambda *_: 99),
    ],
    "tasks are moved without end": lambda: [
        (control_rules, "evolve", _forgets_moves),
        (rebalance, "GAIN_MIN", -9.0),
    ],
    "breakers never recover": lambda: [(breaker_rules, "recovery_ms", lambda *_: 10**9)],
    "a lane stands where it stood": lambda: [(WorkQueue, "recheck", _nothing)],
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The core with that bug, until the end of the block."""
    patches = PLANTED[name]() if name else []
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in patches]
    for owner, attribute, bug in patches:
        setattr(owner, attribute, bug)
    try:
        yield
    finally:
        for owner, attribute, real in before:
            setattr(owner, attribute, real)


def simulate_planted(name: str, seed: int) -> Report:
    with planted(name):
        return simulate(seed)
