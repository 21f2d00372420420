"""Test data: a cluster of the core alone, driven by commands, with a seeded source of random command logs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from coterie.core.breaker_commands import EndProbe, ResetBreaker, TakeProbe, TripBreaker
from coterie.core.commands import (
    AdvanceClock,
    AskApproval,
    AssignTask,
    BeginLeadership,
    BeginStep,
    CancelChildren,
    CancelTask,
    Command,
    ConfigureCluster,
    ConfirmCancel,
    DeleteLimit,
    ExpireTask,
    FailAttempt,
    FinishTask,
    ForgetNode,
    MarkNode,
    MoveTask,
    Outcome,
    PauseTask,
    PurgeDeadLetters,
    RecordStep,
    RegisterNode,
    ReleaseTask,
    ReplayTask,
    ReportProgress,
    ResolveApproval,
    ResolveStep,
    ResumeTask,
    RetryTask,
    SaveCheckpoint,
    SetDrain,
    SetLimit,
    SetTenant,
    SignalTask,
    SpawnChild,
    StartTask,
    SubmitTask,
    SuspendTask,
    TakeTokens,
    WithdrawStep,
)
from coterie.core.decisions.nouns import OnUnknown, Resolution, approval_id
from coterie.core.families import child_id
from coterie.core.machine import apply
from coterie.core.nouns import (
    Data,
    Event,
    ExpiryKind,
    NodeId,
    NodeStatus,
    Policy,
    RetryPolicy,
    SkillRef,
    Task,
    TaskError,
    TaskId,
    TaskState,
    WaitReason,
)
from coterie.core.quotas import Limit, Tenant
from coterie.core.state import ClusterState, Moment
from coterie.core.transitions import HELD
from tests.core.random_llm import llm_command


def submit_command(task_id: str = "t1", **changes: Any) -> SubmitTask:
    values: dict[str, Any] = {
        "task_id": TaskId(task_id),
        "tenant": "default",
        "type": "echo",
        "payload": Data(b"{}"),
        "priority": 2,
        "retry": RetryPolicy(attempts_max=3, backoff_initial_ms=100, backoff_max_ms=1_000),
    }
    return SubmitTask(**{**values, **changes})


def register_command(node_id: str = "n1", incarnation: int = 1, **changes: Any) -> RegisterNode:
    values: dict[str, Any] = {
        "node_id": NodeId(node_id),
        "address": f"{node_id}:8080",
        "incarnation": incarnation,
        "capacity": 4,
        "skills": (SkillRef("echo", "1.0"),),
    }
    return RegisterNode(**{**values, **changes})


@dataclass
class CoreCluster:
    """Applies commands one per entry, one millisecond apart, and keeps the events."""

    state: ClusterState = field(default_factory=ClusterState)
    index: int = 0
    now_ms: int = 1_000
    events: list[Event] = field(default_factory=list)

    def do(self, command: Command) -> Outcome:
        self.index += 1
        self.now_ms += 1
        outcome = apply(self.state, command, Moment(self.index, self.now_ms))
        self.events += self.state.outbox
        self.state.outbox.clear()
        return outcome

    def task(self, task_id: str = "t1") -> Task:
        task = self.state.task(TaskId(task_id))
        assert task is not None
        return task

    def with_node(self, node_id: str = "n1", incarnation: int = 1, **changes: Any) -> CoreCluster:
        self.do(register_command(node_id, incarnation, **changes))
        return self

    def running(self, task_id: str = "t1", node_id: str = "n1", **changes: Any) -> Task:
        """A task submitted, assigned and started."""
        self.do(submit_command(task_id, **changes))
        self.assign(task_id, node_id)
        self.do(StartTask(TaskId(task_id), self.task(task_id).attempt))
        task = self.task(task_id)
        assert task.state is TaskState.RUNNING
        return task

    def assign(self, task_id: str = "t1", node_id: str = "n1") -> Outcome:
        task, node = self.task(task_id), self.state.nodes[NodeId(node_id)]
        return self.do(AssignTask(task.task_id, node.node_id, node.incarnation, task.attempt + 1))

    def types(self, task_id: str = "t1") -> list[str]:
        return [event.type for event in self.events if event.task.task_id == task_id]


class RandomLog:
    """Random commands, most of them sensible for the state they will meet, some of them nonsense."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cluster = CoreCluster()
        self.submitted = 0

    def take(self, count: int) -> list[Command]:
        """The next commands; each is applied to our own copy so that the following ones fit."""
        commands = []
        for _ in range(count):
            command = self._next()
            self.cluster.do(command)
            commands.append(command)
        return commands

    def _next(self) -> Command:
        makers = [self._submit, self._submit, self._node, self._assign, self._assign, self._report]
        makers += [self._report, self._report, self._report, self._operator, self._policy]
        makers += [self._control, self._limits]
        makers += [self._family, self._decision]
        makers += [self._control, self._limits, self._llm]
        makers += [self._family, self._breakers]
        return self.random.choice(makers)()

    def _task(self) -> tuple[TaskId, int]:
        """A task and an attempt: mostly a live one with its true attempt."""
        live = list(self.cluster.state.tasks.values())
        if not live or self.random.random() < 0.1:
            return TaskId(f"t{self.random.randint(0, self.submitted + 1)}"), self.random.randint(0, 3)
        task = self.random.choice(live)
        stale = self.random.random() < 0.15
        return task.task_id, task.attempt - self.random.randint(1, 2) if stale else task.attempt

    def _submit(self) -> Command:
        self.submitted += self.random.random() < 0.9
        number = self.submitted
        return submit_command(
            f"t{number}",
            request_id=self.random.choice(["", f"r{number}", f"r{self.random.randint(0, number)}"]),
            digest=self.random.choice([b"a", b"b"]),
            priority=self.random.randint(1, 4),
            payload=Data(b"x" * self.random.randint(0, 50)),
            deadline_after_ms=self.random.choice([0, 0, 5, 50]),
            start_delay_ms=self.random.choice([0, 0, 0, 10]),
            checkpointing=self.random.random() < 0.8,
            retry=RetryPolicy(self.random.randint(1, 3), 4, 16, dead_letter=self.random.random() < 0.3),
            tenant=self.random.choice(["default", "default", "acme"]),
            key=self.random.choice(["", "", "k1", "k2"]),
            agent=self.random.choice(["", "", "a1"]),
            parent_id=self._task()[0] if self.random.random() < 0.2 else TaskId(""),
        )

    def _control(self) -> Command:
        task_id, attempt = self._task()
        reason = self.random.choice(
            [WaitReason.SIGNAL, WaitReason.TIMER, WaitReason.CHILD, WaitReason.BUDGET]
        )
        seen, timeout_ms = self.random.choice([0, 0, 1]), self.random.choice([0, 5])
        ended = [*self.cluster.state.finished, *self.cluster.state.dead_letters, task_id]
        controls: list[Command] = [
            PauseTask(task_id, "wait a minute"),
            PauseTask(
                task_id, "once", self.random.choice(["r1", "r2"]), self.random.choice([b"a", b"a", b"b"])
            ),
            MoveTask(task_id, attempt, "more room there"),
            ResumeTask(task_id),
            ResumeTask(task_id, self.random.choice(["r1", "r3"]), b"a"),
            SignalTask(task_id, self.random.choice(["go", "stop"]), signal_id=self.random.choice(["", "s"])),
            SuspendTask(task_id, attempt, reason, self.random.choice(["go", "stop"]), seen, timeout_ms),
            RetryTask(task_id),
            ReplayTask(self.random.choice(ended), TaskId(f"again{self.random.randint(0, 99)}")),
            PurgeDeadLetters("default", (self.random.choice(ended),), self.random.choice([0, 0, 1_100])),
            AdvanceClock(self.cluster.now_ms + self.random.randint(-5, 1)),
        ]
        return self.random.choice(controls)

    def _family(self) -> Command:
        held = [task for task in self.cluster.state.tasks.values() if task.state in HELD]
        task_id, attempt = self._task()
        if held and self.random.random() < 0.9:
            task_id, attempt = held[0].task_id, held[0].attempt
        asked = submit_command(
            child_id(task_id, str(self.random.randint(1, 6))),
            parent_id=task_id,
            digest=self.random.choice([b"a", b"a", b"b"]),
        )
        family = self.cluster.state.families.get(task_id)
        group, seen, stop_after = self.random.choice(["g1", "g1", "g2"]), self.random.choice([0, 1]), 1
        place = len(family.group(group).places) if family is not None else 0
        wait = (WaitReason.CHILD, group, seen, 0, self.random.choice([0, stop_after]))
        orders: list[Command] = [
            SpawnChild(attempt, group, place, asked),
            SpawnChild(attempt, group, place, asked),
            SuspendTask(task_id, attempt, *wait),
            CancelChildren(task_id, attempt, group, "enough"),
        ]
        return self.random.choice(orders)

    def _decision(self) -> Command:
        task_id, attempt = self._task()
        key, name = f"s{self.random.randint(0, 4)}", approval_id(task_id, self.random.randint(1, 2))
        call, open_steps = self.random.choice(["c1", "c1", "c1", "c2"]), self.cluster.state.open_steps
        if open_steps and self.random.random() < 0.3:
            held = next(iter(open_steps.values()))
            task_id, key = held.task_id, held.steps[0].key
            attempt = self.cluster.state.tasks[task_id].attempt
        unknown, resolution = self.random.choice(list(OnUnknown)), self.random.choice(list(Resolution))
        orders: list[Command] = [
            BeginStep(task_id, attempt, key, "e", unknown),
            BeginStep(task_id, attempt, key, "e", unknown),
            WithdrawStep(task_id, attempt, key),
            ResolveStep(task_id, key, resolution, Data(b"1"), "ann", "looked"),
            SuspendTask(task_id, attempt, WaitReason.IN_DOUBT, key),
            AskApproval(task_id, attempt, name, "may I?", call, needed=2, timeout_ms=9),
            ResolveApproval(task_id, name, self.random.choice(["ann", "bob"]), call != "c2", call),
            SuspendTask(task_id, attempt, WaitReason.APPROVAL, name),
        ]
        return self.random.choice(orders)

    def _limits(self) -> Command:
        parts: dict[str, Any] = {
            name: self.random.choice(["", "", "*"]) for name in ("tenant", "agent", "key")
        }
        limit = Limit(
            f"l{self.random.randint(1, 3)}",
            **parts,
            type=self.random.choice(["", "echo"]),
            concurrent=self.random.choice([0, 1, 3]),
            rate_count=2,
            rate_period_ms=self.random.choice([0, 20]),
            burst=self.random.choice([0, 2]),
        )
        tenant = Tenant("acme", self.random.randint(0, 3), self.random.choice([0, 5]))
        orders: list[Command] = [SetLimit(limit), DeleteLimit(limit.limit_id), SetTenant(tenant)]
        orders.append(TakeTokens(limit.limit_id, self.random.randint(0, 2), "default", "", "echo", "k1"))
        return self.random.choice(orders)

    def _llm(self) -> Command:
        task_id, attempt = self._task()
        key = f"s{self.random.randint(0, 4)}"
        known = self.cluster.state.llm.find(task_id, key)
        number = (known.number if known else 0) + self.random.choice([0, 0, 1, 1, 1, 2])
        return llm_command(self.random, task_id, attempt, key, number)

    def _breakers(self) -> Command:
        task = self._task()
        key = self.random.choice(["node:n1", "skill:echo", "skill:echo@n1", "provider:acme", "nothing"])
        known = self.cluster.state.breakers.get(key)
        number = self.random.choice([known.number if known else 0, 0, 1])
        probe_id, ok = self.random.choice(["p1", "p2", f"{task[0]}/{task[1]}"]), self.random.random() < 0.7
        orders: list[Command] = [
            TripBreaker(key, number, "why not", self.random.getrandbits(32)),
            TakeProbe(key, probe_id, self.random.choice([0, 2_000])),
            EndProbe(key, probe_id, ok, not ok and self.random.random() < 0.8),
            ResetBreaker(key),
        ]
        return self.random.choice(orders)

    def _node(self) -> Command:
        node_id = self.random.choice(["n1", "n2", "n3"])
        node = self.cluster.state.nodes.get(NodeId(node_id))
        incarnation = node.incarnation if node else 0
        if node is None or self.random.random() < 0.3:
            return register_command(
                node_id, max(0, incarnation + self.random.randint(-1, 1)), capacity=self.random.randint(1, 5)
            )
        status = self.random.choice([NodeStatus.UP, NodeStatus.UP, NodeStatus.DOWN])
        if self.random.random() < 0.05:
            return ForgetNode(node.node_id, max(0, incarnation - self.random.randint(0, 1)))
        judged = max(0, incarnation - self.random.randint(0, 1))
        return MarkNode(node.node_id, judged, status, term=self.random.randint(0, 3))

    def _assign(self) -> Command:
        task_id, attempt = self._task()
        node = self.random.choice([*self.cluster.state.nodes.values(), None])
        node_id, incarnation = (node.node_id, node.incarnation) if node else (NodeId("n9"), 1)
        return AssignTask(task_id, node_id, incarnation, attempt + 1)

    def _report(self) -> Command:
        task_id, attempt = self._task()
        key = f"s{self.random.randint(0, 4)}"
        code = self.random.choice(["SKILL_FAILED", "SKILL_CRASHED"])
        error = TaskError(code, "no", retryable=self.random.random() < 0.8)
        data = Data(b"r" * self.random.randint(0, 30))
        reports: list[Command] = [
            StartTask(task_id, attempt),
            RecordStep(task_id, attempt, key, data, ("s4", "s3")[: self.random.randint(0, 2)]),
            SaveCheckpoint(task_id, attempt, data, self.random.randint(1, 6), self.random.randint(0, 3)),
            ReportProgress(task_id, attempt, self.random.randint(0, 10_000), "on the way"),
            FinishTask(task_id, attempt, data),
            FailAttempt(task_id, attempt, error, self.random.getrandbits(32)),
            ReleaseTask(task_id, attempt, "why not", lost=self.random.random() < 0.5),
            ConfirmCancel(task_id, attempt),
        ]
        return self.random.choice(reports)

    def _operator(self) -> Command:
        task_id, attempt = self._task()
        orders: list[Command] = [
            CancelTask(task_id, "changed my mind"),
            ExpireTask(task_id, attempt, self.random.choice(list(ExpiryKind)), 7),
            self._drain(),
            BeginLeadership(NodeId("n1"), self.random.randint(0, 3)),
        ]
        return self.random.choice(orders)

    def _drain(self) -> Command:
        node_id = NodeId(self.random.choice(["n1", "n2", "n9"]))
        node = self.cluster.state.nodes.get(node_id)
        number = self.random.choice([0, 0, 1]) + (node.drain_number if node else 0)
        leaving = self.random.random() < 0.2
        return SetDrain(node_id, self.random.random() < 0.5, 20, number, leaving)

    def _policy(self) -> Command:
        policy = Policy(
            pending_tasks_max=self.random.choice([3, 1_000]),
            finished_tasks_kept_max=self.random.choice([2, 50]),
            requests_kept_max=self.random.choice([2, 50]),
            steps_per_task_max=self.random.choice([2, 100]),
            losses_max=self.random.choice([2, 100]),
            ageing_ms=self.random.choice([0, 20, 60_000]),
            tenant_pending_percent=self.random.choice([0, 50, 100]),
            dead_letters_max=self.random.choice([1, 10]),
            dead_letter_bytes_max=self.random.choice([2_000, 100_000]),
            crash_nodes_max=self.random.choice([0, 2]),
            node_losses_max=self.random.choice([0, 2]),
            signals_per_task_max=self.random.choice([1, 10]),
            breaker_failures=self.random.choice([0, 2]),
            breaker_recovery_ms=self.random.choice([0, 5, 50]),
            breaker_probes=self.random.choice([0, 1, 3]),
        )
        return ConfigureCluster(self.random.choice(["c1", "c1", "c2"]), "test", policy)
