"""The queue as one plan draws from it: whose turn it is, and what that plan has drawn already. The state is
only read, and the cost is that of the tasks drawn, not of the tasks queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeVar

from coterie.core.fairness import attempt_cost, standing
from coterie.core.nouns import Task, TaskId
from coterie.core.routing.round import KINDS_FREE, KINDS_LEAST, KINDS_MAX
from coterie.core.routing.unfit import Unfit
from coterie.core.state import ClusterState
from coterie.core.workqueue import Group, Lane, profile_of

T = TypeVar("T")
BEHIND = 1 << 80  # added to a standing: more than any two of them differ by


class Merge(Generic[T]):
    """Entries of a sorted walk, and those put back with another key, smallest key first."""

    __slots__ = ("_back", "_fresh", "_head", "_serial")

    def __init__(self, entries: Iterator[tuple[int, T]]) -> None:
        self._fresh = entries
        self._head = next(entries, None)
        self._back: list[tuple[int, int, T]] = []
        self._serial = 0

    def peek(self) -> tuple[int, T] | None:
        if self._back and (self._head is None or self._back[0][0] < self._head[0]):
            return self._back[0][0], self._back[0][2]
        return self._head

    def pop(self) -> None:
        """Drop what `peek` shows."""
        if self._back and (self._head is None or self._back[0][0] < self._head[0]):
            heappop(self._back)
        else:
            self._head = next(self._fresh, None)

    def push(self, key: int, entry: T) -> None:
        self._serial += 1
        heappush(self._back, (key, self._serial, entry))


@dataclass(frozen=True, slots=True)
class Offer:
    """The task whose turn it is."""

    task: Task
    group: Group
    lane: Lane


class Draft:
    """Ask for `next`, say what became of it (`take`, `skip`, `drop`), ask again."""

    def __init__(self, state: ClusterState, now_ms: int, unfit: Unfit) -> None:
        self._state, self._now_ms, self._unfit = state, now_ms, unfit
        self._started: Counter[str] = Counter()  # by the counters of the limits
        self._turns = [(standing(state, tenant, now_ms), tenant) for tenant in state.indexes.queue.tenants]
        heapify(self._turns)
        self._looks: Counter[str] = Counter()  # of each tenant: see drop
        self._looks_total = 0  # kept, for there may be very many tenants
        self._looks_max = max(KINDS_LEAST, KINDS_MAX // max(1, len(self._turns)))
        self._groups: dict[str, Merge[Group]] = {}
        self._lanes: dict[Group, Merge[Lane]] = {}
        self._tasks: dict[Lane, Merge[TaskId]] = {}

    def next(self) -> Offer | None:
        """The tenant that stands lowest; its group of the highest rank that no limit blocks."""
        while self._turns:
            _, tenant = self._turns[0]
            offer = self._offer_of(tenant)
            if offer is not None:
                return offer
            heappop(self._turns)
        return None

    def take(self, offer: Offer) -> None:
        """It has been assigned: it counts under its limits, and its tenant stands higher."""
        state, profile = self._state, profile_of(offer.task)
        if state.limits:
            self._started.update(name for _, name in state.indexes.gauges.counted(profile))
        stands, tenant = self._turns[0]
        heapreplace(self._turns, (stands + attempt_cost(state, tenant), tenant))
        self.skip(offer)

    def skip(self, offer: Offer) -> None:
        """It stays in the queue; what comes after it in its lane may go before it."""
        lanes, tasks = self._lanes[offer.group], self._tasks[offer.lane]
        tasks.pop()
        lanes.pop()
        head = tasks.peek()
        if head is not None:
            lanes.push(head[0], offer.lane)

    def drop(self, offer: Offer, *, looked: bool) -> None:
        """Nothing of its group can go now. `looked`: it took a look at every node to find that out. A round
        has time for so many looks, and who runs nothing is first in every round: when they run short, a
        tenant that has had its part of them goes behind the others."""
        tenant = offer.group.profile.tenant
        self._groups[tenant].pop()
        if looked:
            self._looks[tenant] += 1
            self._looks_total += 1
            short = self._looks_total >= KINDS_FREE
            if short and self._looks[tenant] % self._looks_max == 0:
                heapreplace(self._turns, (self._turns[0][0] + BEHIND, tenant))

    def _offer_of(self, tenant: str) -> Offer | None:
        queue = self._state.indexes.queue
        groups = self._groups.get(tenant)
        if groups is None:
            groups = self._groups[tenant] = Merge(queue.tenants[tenant].items())
        while (head := groups.peek()) is not None:
            rank, group = head
            waits = group in self._unfit or self._is_blocked(group)
            first = None if waits else self._first_lane(group)
            if first is None:
                groups.pop()
            elif first[0] + queue.penalty(group) != rank:  # its oldest task has gone, or waits
                groups.pop()
                groups.push(first[0] + queue.penalty(group), group)
            else:
                return Offer(self._head_of(first[1]), group, first[1])
        return None

    def _is_blocked(self, group: Group) -> bool:
        gauges = self._state.indexes.gauges
        return gauges.other_blocker(group.profile, self._now_ms, self._started) is not None

    def _first_lane(self, group: Group) -> tuple[int, Lane] | None:
        gauges = self._state.indexes.gauges
        lanes = self._lanes.get(group)
        if lanes is None:
            lanes = self._lanes[group] = Merge(group.ready.items())
        while (head := lanes.peek()) is not None:
            profile = head[1].profile
            if not profile.key or gauges.key_blocker(profile, self._now_ms, self._started) is None:
                return head
            lanes.pop()
        return None

    def _head_of(self, lane: Lane) -> Task:
        tasks = self._tasks.get(lane)
        if tasks is None:
            tasks = self._tasks[lane] = Merge(lane.tasks.items())
        head = tasks.peek()
        assert head is not None, "a lane that is offered has a task"
        return self._state.tasks[head[1]]
