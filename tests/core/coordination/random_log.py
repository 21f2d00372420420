"""Random commands of coordination, most of them sensible for the state they will meet."""

from __future__ import annotations

import random
from typing import Any

from coterie.core.commands import Command, FinishTask, StartTask
from coterie.core.coordination.commands import (
    AckMessages,
    AcquireLock,
    ApplySchedule,
    DeleteGroup,
    DeleteKey,
    DeleteSchedule,
    DeleteTopic,
    FetchMessages,
    FireSchedule,
    PauseSchedule,
    PublishMessage,
    PutKey,
    ReleaseLock,
    RenewLock,
    RunSchedule,
    SeekGroup,
    SetGroup,
    SetTopic,
)
from coterie.core.coordination.nouns import FireKind, Misfire, Overlap, SchedulePlan, TaskTemplate
from coterie.core.coordination.topics import ROOM_BYTES
from coterie.core.nouns import NO_PARENT, Data, Label, RetryPolicy, TaskId
from tests.core.builders import CoreCluster, RandomLog

TENANTS = ("default", "acme")


class CoordinationLog:
    """A seeded source of commands; tasks come and go as in RandomLog."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._tasks = RandomLog(seed)
        self.cluster: CoreCluster = self._tasks.cluster
        self._count = 0

    def take(self, count: int) -> list[Command]:
        commands = []
        for _ in range(count):
            self._count += 1
            command = self._next()
            self.cluster.do(command)
            commands.append(command)
        return commands

    def _next(self) -> Command:
        pick = self.random
        kinds = [self._lock, self._key, self._topic, self._group, self._schedule, self._task]
        kinds += [self._holdings, self._task]
        return pick.choice(kinds)()

    def _any(self, *values: Any) -> Any:
        return self.random.choice(values)

    def _command(self, *commands: Command) -> Command:
        return self.random.choice(commands)

    def _task(self) -> Command:
        return self._tasks._next()

    def _holder(self) -> tuple[TaskId, int]:
        state = self.cluster.state
        held = [task for task in state.tasks.values() if task.node_id]
        if not held or self.random.random() < 0.5:
            return NO_PARENT, 0
        task = self.random.choice(held)
        return task.task_id, task.attempt - self._any(0, 0, 0, 1)

    def _lock(self) -> Command:
        state, tenant, name = self.cluster.state, self._any(*TENANTS), self._any("a", "b", "")
        tokens = [lock.token for lock in state.locks.values()] or [0]
        owner = f"o{self.random.randint(1, 4)}"
        task_id, attempt = self._holder()
        if task_id:
            owner, tenant = f"task:{task_id}", state.tasks[task_id].tenant
        return self._command(
            AcquireLock(tenant, name, owner, self._any(3, 10, 40), self._any(0, 5, 30), task_id, attempt),
            AcquireLock(tenant, name, owner, self._any(3, 10, 40), 30, task_id, attempt),
            RenewLock(tenant, name, self._any(*tokens), self._any(0, 20)),
            ReleaseLock(tenant, name, self._any(*tokens), ""),
            ReleaseLock(tenant, name, 0, owner),
        )

    def _holdings(self) -> Command:
        """A task holds several locks at once, others wait for these, then it ends."""
        state, long_ms = self.cluster.state, 300
        held = [lock for lock in state.locks.values() if lock.task_id]
        if held and self.random.random() < 0.6:
            lock = self.random.choice(held)
            owner = f"o{self.random.randint(1, 4)}"
            return AcquireLock(lock.tenant, lock.name, owner, long_ms, long_ms)
        mine = [task for task in state.tasks.values() if task.node_id]
        if not mine:
            return self._lock()
        task = max(mine, key=lambda one: len(state.coordination.task_locks.get(one.task_id, ())))
        if self.random.random() < 0.15:
            return FinishTask(task.task_id, task.attempt, Data(b"1"))
        owner, name = f"task:{task.task_id}", self._any("c", "d", "e", "f")
        return AcquireLock(task.tenant, name, owner, long_ms, long_ms, task.task_id, task.attempt)

    def _key(self) -> Command:
        tenant, key = self._any(*TENANTS), self._any("k/1", "k/2", "x", "")
        entry = self.cluster.state.kv.get(f"{tenant}\0{key}")
        expected = self._any(-1, -1, 0, entry.version if entry else 1)
        request = self._any("", f"r{self._count}", f"r{self.random.randint(1, 20)}")
        digest = self._any(b"a", b"b")
        value = bytes(self.random.randint(0, 20))
        return self._command(
            PutKey(tenant, key, value, expected, self._any(0, 0, 5, 30), request, digest),
            PutKey(tenant, key, value, expected, 0, request, digest),
            DeleteKey(tenant, key, expected, request, digest),
        )

    def _topic(self) -> Command:
        tenant, name = self._any(*TENANTS), self._any("a", "a.b", "a.b.c", "b")
        body = bytes(self.random.randint(0, 50))
        request = self._any("", f"r{self._count}")
        headers = self._any((), (Label("k", "v"),))
        publish = PublishMessage(tenant, name, body, headers, "me", request, b"d")
        if self.random.random() < 0.8:
            return publish
        set_topic = SetTopic(tenant, name, self._any(0, 1, 3), self._any(0, ROOM_BYTES, 1), self._any(0, 20))
        return self._command(set_topic, DeleteTopic(tenant, name))

    def _group(self) -> Command:
        state, tenant, name = self.cluster.state, self._any(*TENANTS), self._any("g", "h")
        group = state.groups.get(f"{tenant}\0{name}")
        open_now = tuple(one.position for one in group.unacked) if group else ()
        positions = tuple(p for p in open_now if self.random.random() < 0.5) or (1,)
        if group is None or self.random.random() < 0.1:
            return SetGroup(
                tenant, name, self._any("a", "a.*", "a.>", ">"), 0, self._any(5, 30), self._any(0, 2)
            )
        fetch = FetchMessages(tenant, name, f"f{self.random.randint(1, 60)}", self.random.randint(1, 5))
        return self._command(
            fetch,
            fetch,
            AckMessages(tenant, name, positions),
            AckMessages(tenant, name, positions, True, self._any(0, 10)),
            SeekGroup(tenant, name, self.random.randint(0, state.meta.message_position + 1)),
            DeleteGroup(tenant, name) if self.random.random() < 0.2 else fetch,
        )

    def _schedule(self) -> Command:
        state, tenant, name = self.cluster.state, self._any(*TENANTS), self._any("s", "t")
        schedule = state.schedules.get(f"{tenant}\0{name}")
        if schedule is None or self.random.random() < 0.15:
            plan = SchedulePlan(
                cron=self._any("", "* * * * *"),
                interval_ms=self._any(0, 5),
                overlap=self._any(*Overlap),
                misfire=self._any(*Misfire),
            )
            payload, retry = Data(bytes(self.random.randint(0, 9))), RetryPolicy()
            template = TaskTemplate("echo", payload, 2, retry, key=self._any("", "k1"))
            return ApplySchedule(tenant, name, plan, template, self._any(-1, -1, 0))
        now_ms = self.cluster.now_ms
        nominal = now_ms + self.random.randint(-20, 3)
        kind = self._any(FireKind.TICK, FireKind.TICK, FireKind.PASS, FireKind.QUEUED)
        if kind is FireKind.QUEUED and schedule.queued:
            nominal = schedule.queued[0]
        number = schedule.number + self._any(0, 0, 0, 0, 1)
        fire = FireSchedule(tenant, name, number, nominal, kind, self._any(0, 0, 2))
        rare: Command = self._any(
            PauseSchedule(tenant, name, self._any(True, False), "why"),
            RunSchedule(tenant, name, f"run{self.random.randint(1, 30)}", self._any((), (5, 6))),
            DeleteSchedule(tenant, name),
            self._end(schedule.runs),
        )
        return rare if self.random.random() < 0.3 else fire

    def _end(self, runs: tuple[TaskId, ...]) -> Command:
        """Bring a run of a schedule on its way."""
        state = self.cluster.state
        for task_id in runs:
            task = state.tasks.get(task_id)
            if task is not None and task.node_id:
                return FinishTask(task_id, task.attempt, Data(b"1"))
        return StartTask(runs[0] if runs else TaskId("t0"), 1)
