"""Who waits for what on this node: woken by the events of every applied entry."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from coterie.core.nouns import Event, Task, TaskId
from coterie.core.transitions import TERMINAL

WATCH_QUEUE_MAX = 10_000  # events a slow watcher may lag behind before it must read them from the ledger

OnFinished = Callable[[Task], None]


class Bell:
    """Wakes loops that compare state with reality; rings are merged, none is lost."""

    def __init__(self) -> None:
        self._events: list[asyncio.Event] = []

    def listener(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        self._events.append(event)
        return event

    def ring(self) -> None:
        for event in self._events:
            event.set()


async def wait_for_bell(event: asyncio.Event, timeout_s: float) -> None:
    """Until the bell rings or the time is over; then the ring is taken."""
    if not event.is_set():
        loop = asyncio.get_running_loop()
        timer = loop.call_later(timeout_s, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()
    event.clear()


class Subscription:
    """Live events of one task; `overflowed` tells a reader that was too slow to read the ledger instead."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event] = asyncio.Queue(WATCH_QUEUE_MAX)
        self.overflowed = False

    def put(self, event: Event) -> None:
        if self.queue.full():
            self.overflowed = True
            return
        self.queue.put_nowait(event)


class Hub:
    """Waiters for the end of tasks, and watchers of their events."""

    def __init__(self) -> None:
        self._waiters: defaultdict[TaskId, list[OnFinished]] = defaultdict(list)
        self._watchers: defaultdict[TaskId, list[Subscription]] = defaultdict(list)

    def publish(self, events: Iterable[Event]) -> None:
        for event in events:
            watchers = self._watchers.get(event.task.task_id)
            for subscription in watchers or ():
                subscription.put(event)
            if event.task.state in TERMINAL:
                for call in self._waiters.pop(event.task.task_id, ()):
                    call(event.task)

    def on_finished(self, task_id: TaskId, call: OnFinished) -> None:
        self._waiters[task_id].append(call)

    def forget(self, task_id: TaskId, call: OnFinished) -> None:
        calls = self._waiters.get(task_id)
        if calls and call in calls:
            calls.remove(call)
            if not calls:
                del self._waiters[task_id]

    @contextmanager
    def watch(self, task_id: TaskId) -> Iterator[Subscription]:
        subscription = Subscription()
        self._watchers[task_id].append(subscription)
        try:
            yield subscription
        finally:
            self._watchers[task_id].remove(subscription)
            if not self._watchers[task_id]:
                del self._watchers[task_id]

    def counts(self) -> tuple[int, int]:
        """(waiters, watchers)."""
        return (
            sum(len(calls) for calls in self._waiters.values()),
            sum(len(subs) for subs in self._watchers.values()),
        )
