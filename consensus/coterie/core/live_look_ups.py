"""Which live tasks sleep until something opens, are bound to a revision of a skill, or are runs of agents: so
that nobody has to look through all tasks, of which there may be a million. Part of the indexes: derived,
rebuilt after a restore, empty while nothing of the kind is used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from coterie.core.nouns import Task, TaskId, TaskState, WaitReason
from coterie.core.skillbook import PIN
from coterie.core.transitions import HELD

ARRIVAL_MS: Final = 60_000  # arrivals are counted by spans so long
WOKEN: Final = frozenset({WaitReason.BUDGET, WaitReason.CIRCUIT_OPEN})  # all at once, when something changes


class Sleepers:
    """Suspended tasks whose wait may end for many at once, by its reason."""

    __slots__ = ("_by_reason",)

    def __init__(self) -> None:
        self._by_reason: dict[WaitReason, dict[TaskId, str]] = {}

    def add(self, task: Task) -> None:
        """One that is WAITING."""
        wait = task.wait
        if wait is not None and wait.reason in WOKEN:
            self._by_reason.setdefault(wait.reason, {})[task.task_id] = wait.name

    def remove(self, task: Task) -> None:
        wait = task.wait
        if wait is not None and wait.reason in WOKEN:
            asleep = self._by_reason[wait.reason]
            del asleep[task.task_id]
            if not asleep:
                del self._by_reason[wait.reason]

    def of(self, reason: WaitReason, name: str = "") -> list[TaskId]:
        """Those that wait for that, in no order that means anything; of any name where none is given."""
        asleep = self._by_reason.get(reason, {})
        return [task_id for task_id, called in asleep.items() if name in ("", called)]

    def image(self) -> object:
        return self._by_reason


class Pins:
    """How many live tasks are bound to each revision of a skill."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def count(self, version: str, by: int) -> None:
        """`version`: what a task asks for, when it asks for any."""
        if version.startswith(PIN):
            self._counts[version] = self._counts.get(version, 0) + by
            if not self._counts[version]:
                del self._counts[version]

    def bound(self, revisions: Iterable[str]) -> int:
        """Tasks that are bound to one of these."""
        return sum(self._counts.get(PIN + revision, 0) for revision in revisions)

    def image(self) -> object:
        return self._counts


class Stand(NamedTuple):
    """How the live runs of an agent stand."""

    queued: int = 0
    with_slot: int = 0
    asleep: int = 0


class AgentRuns:
    """Live runs of agents, by the name that the agent was called by."""

    __slots__ = ("_arrived", "_kinds")

    def __init__(self) -> None:
        self._kinds: dict[str, list[int]] = {}
        self._arrived: dict[str, dict[int, int]] = {}  # by the span in which they were to begin

    def count(self, task: Task, by: int) -> None:
        """One of AGENT_TYPE with an agent comes, or goes, as it stands."""
        kinds = self._kinds.setdefault(task.agent, [0, 0, 0])
        kinds[_kind(task)] += by
        arrived, span = self._arrived.setdefault(task.agent, {}), _wanted_at_ms(task) // ARRIVAL_MS
        arrived[span] = arrived.get(span, 0) + by
        if not arrived[span]:
            del arrived[span]
        if not any(kinds):
            del self._kinds[task.agent], self._arrived[task.agent]

    def names(self) -> list[str]:
        """Agents that have live runs, as they were called."""
        return list(self._kinds)

    def stand(self, agent: str) -> Stand:
        return Stand(*self._kinds.get(agent, ()))

    def arrived(self, agent: str, since_ms: int) -> int:
        """How many were to begin since then, to the span; those whose time is still to come, too."""
        first = since_ms // ARRIVAL_MS
        return sum(count for span, count in self._arrived.get(agent, {}).items() if span > first)

    def image(self) -> object:
        return self._kinds, self._arrived


def _kind(task: Task) -> int:
    """Its place in a Stand."""
    if task.state in HELD:
        return 1
    return 0 if task.state is TaskState.PENDING else 2


def _wanted_at_ms(task: Task) -> int:
    return max(task.created_at_ms, task.not_before_ms)
