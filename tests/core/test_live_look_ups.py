"""What is looked up of live tasks without walking over them is what a walk would find, at any moment."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from coterie.core.breaker_commands import ResetBreaker, TripBreaker
from coterie.core.commands import (
    Accepted,
    CancelTask,
    Command,
    ConfigureCluster,
    FailAttempt,
    FinishTask,
    PauseTask,
    ReleaseTask,
    ResumeTask,
    RetryTask,
    StartTask,
    SuspendTask,
)
from coterie.core.live_look_ups import ARRIVAL_MS, Stand
from coterie.core.llm.commands import SetLlmBudget
from coterie.core.llm.nouns import LlmBudget
from coterie.core.nouns import NO_DATA, Constraints, Policy, RetryPolicy, Task, TaskError, TaskId, TaskState
from coterie.core.nouns import WaitReason as W
from coterie.core.skillbook import PIN
from coterie.core.state import ClusterState
from coterie.core.transitions import HELD
from tests.core.builders import CoreCluster, submit_command

REVISIONS = ("a" * 64, "b" * 64)
KEYS = ("provider:x", "provider:y")


Found = tuple[dict[str, Stand], Counter[str], dict[tuple[W, str], set[TaskId]], list[int]]


def walked(tasks: Iterable[Task], now_ms: int) -> Found:
    """What the look-ups are to say."""
    live = list(tasks)
    pins = Counter(task.constraints.skill_version for task in live)
    stands: dict[str, list[int]] = {}
    arrived: Counter[str] = Counter()
    for task in (task for task in live if task.type == "agent" and task.agent):
        kind = 1 if task.state in HELD else (0 if task.state is TaskState.PENDING else 2)
        stands.setdefault(task.agent, [0, 0, 0])[kind] += 1
        wanted_ms = max(task.created_at_ms, task.not_before_ms)
        arrived[task.agent] += wanted_ms // ARRIVAL_MS > (now_ms - 3 * ARRIVAL_MS) // ARRIVAL_MS
    asleep = {
        (reason, name): {
            task.task_id
            for task in live
            if task.state is TaskState.WAITING and task.wait is not None
            if task.wait.reason is reason and name in ("", task.wait.name)
        }
        for reason, name in ((W.BUDGET, ""), (W.CIRCUIT_OPEN, KEYS[0]), (W.CIRCUIT_OPEN, KEYS[1]))
    }
    bound = [sum(pins[PIN + one] for one in wanted) for wanted in ((), REVISIONS[:1], REVISIONS)]
    return {name: Stand(*kinds) for name, kinds in stands.items()}, +arrived, asleep, bound


def looked_up(state: ClusterState, now_ms: int) -> Found:
    runs, sleepers, pins = state.indexes.agent_runs, state.indexes.sleepers, state.indexes.pins
    asleep = {
        (reason, name): set(sleepers.of(reason, name))
        for reason, name in ((W.BUDGET, ""), (W.CIRCUIT_OPEN, KEYS[0]), (W.CIRCUIT_OPEN, KEYS[1]))
    }
    stands = {name: runs.stand(name) for name in runs.names()}
    arrived = Counter({name: runs.arrived(name, now_ms - 3 * ARRIVAL_MS) for name in runs.names()})
    bound = [pins.bound(wanted) for wanted in ((), REVISIONS[:1], REVISIONS)]
    return stands, +arrived, asleep, bound


class Dice:
    """Commands that bring tasks into every state that the look-ups tell apart."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.cluster = CoreCluster().with_node("n1", capacity=4)
        self.cluster.do(ConfigureCluster("c", "test", Policy(breaker_failures=4)))
        self.count = 0

    def turn(self) -> None:
        self.cluster.now_ms += self.dice.choice([1, 10, ARRIVAL_MS])
        live = list(self.cluster.state.tasks.values())
        if len(live) < 3 or self.dice.random() < 0.2:
            self.cluster.do(self._submit())
            return
        task = self.dice.choice(live)
        if task.state is TaskState.PENDING and self.dice.random() < 0.7:
            self.cluster.assign(task.task_id)
        else:
            self.cluster.do(self._other(task))

    def _submit(self) -> Command:
        self.count += 1
        version = self.dice.choice(["", "", "1.0", *(PIN + one for one in REVISIONS)])
        return submit_command(
            f"t{self.count}",
            type=self.dice.choice(["agent", "echo"]),
            agent=self.dice.choice(["", "a", "b"]),
            constraints=Constraints(skill_version=version),
            start_delay_ms=self.dice.choice([0, 0, 5 * ARRIVAL_MS]),
            retry=RetryPolicy(2, 1, 1),
        )

    def _other(self, task: Task) -> Command:
        task_id, attempt = task.task_id, task.attempt
        known = self.cluster.state.breakers.get(KEYS[0])
        orders: list[Command] = [
            StartTask(task_id, attempt),
            FinishTask(task_id, attempt, NO_DATA),
            FailAttempt(task_id, attempt, TaskError("NO", "no")),
            ReleaseTask(task_id, attempt, "why not"),
            CancelTask(task_id),
            PauseTask(task_id),
            ResumeTask(task_id),
            RetryTask(task_id),
            SetLlmBudget(LlmBudget("b", tokens=self.dice.choice([100, 100, 200]))),
            TripBreaker(KEYS[0], known.number if known else 0, "it fails", 0),
            ResetBreaker(KEYS[0]),
        ]
        for reason, name in ((W.BUDGET, "s"), (W.SIGNAL, "s"), *((W.CIRCUIT_OPEN, key) for key in KEYS)):
            orders.append(SuspendTask(task_id, attempt, reason, name, timeout_ms=self.dice.choice([0, 9])))
        return self.dice.choice(orders)


@pytest.mark.parametrize("seed", range(12))
def test_the_look_ups_say_what_a_walk_over_all_tasks_would(seed: int) -> None:
    dice = Dice(seed)
    seen: Counter[str] = Counter()
    for _ in range(600):
        dice.turn()
        state, now_ms = dice.cluster.state, dice.cluster.now_ms
        found = looked_up(state, now_ms)
        assert found == walked(state.tasks.values(), now_ms)
        stands, _, asleep, bound = found
        seen["asleep"] += sum(map(len, asleep.values())) > 1
        seen["bound"] += bound[2] > bound[1] > 0
        seen["runs"] += len(stands) == 2
    again = state.copy()
    again.rebuild()
    assert again.indexes.image() == state.indexes.image()
    assert min(seen.values()) > 20, f"the dice showed too little: {seen}"


def test_nothing_is_looked_up_of_tasks_that_use_none_of_it() -> None:
    cluster = CoreCluster().with_node("n1")
    nothing = CoreCluster().state.indexes
    cluster.running("t1")
    cluster.do(SuspendTask(TaskId("t1"), 1, W.SIGNAL, "go"))
    for name in ("sleepers", "pins", "agent_runs"):
        assert getattr(cluster.state.indexes, name).image() == getattr(nothing, name).image()


def test_sleepers_wake_in_the_order_of_their_submission() -> None:
    """Whatever order they fell asleep in, and however often a replica was restored meanwhile."""
    cluster = CoreCluster().with_node("n1", capacity=9)
    for number in range(5):
        cluster.running(f"t{number}")
    for number in (3, 0, 4, 1, 2):
        name = TaskId(f"t{number}")
        assert cluster.do(SuspendTask(name, 1, W.BUDGET, "s")) == Accepted(name)
    cluster.do(SetLlmBudget(LlmBudget("b", tokens=5)))
    woken = [event.task.task_id for event in cluster.events if event.type == "woken"]
    assert woken == [f"t{number}" for number in range(5)]
