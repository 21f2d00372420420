"""One simulated run: a random cluster, a random load, failures; then calm, and everything must end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from coterie.core.commands import (
    CancelTask,
    Command,
    ConfigureCluster,
    FinishTask,
    PauseTask,
    ReplayTask,
    ResumeTask,
    RetryTask,
    SetLimit,
    SetTenant,
    SignalTask,
    SubmitTask,
    TakeTokens,
)
from coterie.core.fairness import ATTEMPT_MS
from coterie.core.nouns import NO_DATA, Data, Policy, RetryPolicy, TaskId, TaskState, WaitReason
from coterie.core.quotas import Limit, Tenant
from coterie.core.state import ClusterState
from coterie.raft import codec
from tests.sim.scheduler.checks import Violation, require
from tests.sim.scheduler.nodes import SimNode
from tests.sim.scheduler.world import World

LOAD_MS = 6_000
CALM_MS = 600_000
FAIR_EVERY = 50  # one seed in so many is a run of full queues, for the shares
FAIR_MS = 30_000
FAIR_WARM_MS = 5_000
FAIR_TOLERANCE = 0.1
QUEUED_EACH = 30
TYPES = ("a", "b")


@dataclass(frozen=True, slots=True)
class Report:
    seed: int
    violation: str = ""
    submitted: int = 0
    assignments: int = 0
    waits_longest_ms: int = 0
    moves: int = 0
    unfairness: float = 0.0  # the largest deviation from a share, by that share


def simulate(seed: int) -> Report:
    """Every seed is one run, always the same."""
    world = World(seed)
    unfairness = 0.0
    try:
        if seed % FAIR_EVERY == 0:
            unfairness = FullQueues(world).run()
        else:
            Storm(world).run()
    except (Violation, AssertionError, LookupError) as error:
        return Report(seed, f"{type(error).__name__}: {error}")
    checks = world.checks
    return Report(
        seed,
        "",
        len(checks.submitted),
        checks.assignments,
        checks.waits_longest_ms,
        checks.moves,
        round(unfairness, 3),
    )


def _rebuilt_alike(state: ClusterState) -> None:
    again = codec.decode_state(codec.encode_state(state.copy()))
    require(again.indexes.image() == state.indexes.image(), "the look-ups differ from those built anew")


class Storm:
    """Everything at once."""

    def __init__(self, world: World) -> None:
        self.world, self.dice = world, world.dice
        policy = Policy(
            ageing_ms=self.dice.choice([200, 2_000, 60_000]),
            crash_nodes_max=self.dice.choice([0, 2, 3]),
            node_losses_max=self.dice.choice([0, 3]),
            breaker_failures=self.dice.choice([0, 2, 3]),
            breaker_recovery_ms=self.dice.choice([200, 1_000, 3_000]),
            breaker_probes=self.dice.randint(1, 3),
            flap_memory_ms=self.dice.choice([0, 5_000, 60_000]),
            attempt_ms_min=ATTEMPT_MS,
        )
        world.commit([ConfigureCluster("c", "sim", policy)])
        self.tenants = [f"tenant{number}" for number in range(self.dice.randint(1, 3))]
        world.commit([SetTenant(Tenant(tenant, self.dice.randint(1, 4))) for tenant in self.tenants])
        limits = [self._limit(number) for number in range(self.dice.randint(0, 3))]
        world.commit([SetLimit(limit) for limit in limits])
        self.rates = [limit for limit in limits if limit.rate_count and not limit.tenant and not limit.agent]
        count = self.dice.randint(1, 5)
        self.nodes = [self._node(number) for number in range(count)]
        self.count = 0

    def run(self) -> None:
        world = self.world
        for node in self.nodes:
            node.boot()
        world.tick()
        self._submit_soon()
        self._trouble_soon()
        world.run(world.now + LOAD_MS)
        world.checks.believed_once()
        _rebuilt_alike(world.state)
        world.calm = True
        self._soothe()
        end = world.now + CALM_MS
        while world.state.tasks and world.now < end:
            world.run(world.now + 1_000)
        world.checks.all_ended()
        _rebuilt_alike(world.state)

    def _node(self, number: int) -> SimNode:
        skills = TYPES if number == 0 or self.dice.random() < 0.7 else TYPES[:1]
        node = SimNode(self.world, f"n{number}", self.dice.randint(1, 4), skills)
        node.deadly = tuple(skill for skill in TYPES if self.dice.random() < 0.15)
        return node

    def _limit(self, number: int) -> Limit:
        dice = self.dice
        rated = dice.random() < 0.5
        return Limit(
            f"l{number}",
            tenant=dice.choice(["", "", "*", "tenant0"]),
            agent=dice.choice(["", "", "*"]),
            type=dice.choice(["", "", "*", "a"]),
            key=dice.choice(["", "*", "*", "k0"]),
            concurrent=dice.choice([1, 2, 3]) if not rated or dice.random() < 0.3 else 0,
            rate_count=dice.randint(1, 8) if rated else 0,
            rate_period_ms=dice.choice([100, 500, 1_000]) if rated else 0,
            burst=dice.choice([0, 0, 1, 5]),
        )

    # --- load

    def _submit_soon(self) -> None:
        if self.world.calm:
            return
        self.world.propose([self._task() for _ in range(self.dice.choice([1, 1, 2, 6]))])
        self.world.later(self.dice.randint(20, 500), self._submit_soon)

    def _task(self) -> SubmitTask:
        dice = self.dice
        self.count += 1
        live = list(self.world.state.tasks.values())
        parent = dice.choice(live) if live and dice.random() < 0.15 else None
        task_id = TaskId(f"t{self.count}")
        return SubmitTask(
            task_id,
            parent.tenant if parent else dice.choice(self.tenants),
            dice.choice(TYPES),
            Data(b"{}"),
            dice.randint(1, 4),
            RetryPolicy(dice.randint(1, 4), 20, 200, ("BAD_INPUT",), dice.random() < 0.2),
            request_id=task_id,
            digest=b"d",
            deadline_after_ms=dice.choice([0, 0, 0, 800, 4_000]),
            start_delay_ms=dice.choice([0, 0, 0, 300]),
            checkpointing=dice.random() < 0.8,
            key=dice.choice(["", "k0", "k1", "k2"]),
            agent=dice.choice(["", "x", "y"]),
            parent_id=parent.task_id if parent else TaskId(""),
            attempt_timeout_ms=dice.choice([0, 0, 400]),
        )

    # --- trouble

    def _trouble_soon(self) -> None:
        if self.world.calm:
            return
        draw = self.dice.random()
        node = self.dice.choice(self.nodes)
        if draw < 0.15:
            node.kill()
        elif draw < 0.25:
            node.cut_off()
        elif draw < 0.3:
            node.drain()
        elif draw < 0.4:
            self.world.change_leader()
        else:
            self.world.propose([self._meddle()])
        self.world.checks.families()
        self.world.later(self.dice.randint(10, 300), self._trouble_soon)

    def _meddle(self) -> Command:
        dice, state = self.dice, self.world.state
        live = list(state.tasks) or [TaskId("t1")]
        ended = list(state.dead_letters) or list(state.finished) or live
        task_id = dice.choice(live)
        self.count += 1
        orders: list[Command] = [
            CancelTask(task_id),
            PauseTask(task_id),
            ResumeTask(task_id),
            SignalTask(task_id, "go", NO_DATA, f"s{self.count}"),
            RetryTask(task_id),
            ReplayTask(dice.choice(ended), TaskId(f"t{self.count}"), f"r{self.count}", keep_steps=False),
            SetTenant(Tenant(dice.choice(self.tenants), dice.randint(1, 4))),
        ]
        orders += [TakeTokens(limit.limit_id, 1, key="k0", type="a") for limit in self.rates]
        return dice.choice(orders)

    def _soothe(self) -> None:
        """Whoever waits for somebody gets what he waits for."""
        if not self.world.state.tasks:
            return
        orders: list[Command] = []
        for task in self.world.state.tasks.values():
            if task.state is TaskState.PAUSED or task.pause_requested:
                orders.append(ResumeTask(task.task_id))
            elif task.wait is not None and task.wait.reason is not WaitReason.CHILD:
                orders.append(SignalTask(task.task_id, task.wait.name))
        if orders:
            self.world.propose(orders)
        self.world.later(500, self._soothe)


class FullQueues:
    """Tenants that always have work, of weights and task lengths of their own: each must get its share of the
    slots' time."""

    def __init__(self, world: World) -> None:
        self.world, self.dice = world, world.dice
        names = [f"tenant{number}" for number in range(self.dice.randint(2, 4))]
        self.weights = {name: self.dice.randint(1, 5) for name in names}
        self.lengths_ms = {name: self.dice.choice([40, 200, 1_000]) for name in names}
        world.commit([ConfigureCluster("c", "sim", Policy(attempt_ms_min=ATTEMPT_MS))])
        world.commit([SetTenant(Tenant(name, weight)) for name, weight in self.weights.items()])
        self.nodes = [SimNode(world, f"n{n}", self.dice.randint(2, 3), TYPES) for n in range(2)]
        self.used: Counter[str] = Counter()
        self.count = 0

    def run(self) -> float:
        """The largest deviation from a share, by that share."""
        world = self.world
        world.calm = True
        world.bells.append(self._run_assigned)
        for node in self.nodes:
            node.up = True
            world.bells.remove(node.ring)  # tasks take the time that is measured here, and no more
            node.boot()
        self.started: set[TaskId] = set()
        for tenant in self.weights:
            world.commit([self._task(tenant) for _ in range(QUEUED_EACH)])
        world.tick()
        world.run(world.now + FAIR_WARM_MS)
        self.used.clear()
        world.run(world.now + FAIR_MS)
        return self._deviation()

    def _task(self, tenant: str) -> SubmitTask:
        self.count += 1
        task_id = TaskId(f"t{self.count}")
        priority = self.dice.randint(1, 4)  # a matter within the tenant: no tenant gets more by it
        return SubmitTask(task_id, tenant, "a", NO_DATA, priority, RetryPolicy())

    def _run_assigned(self) -> None:
        for held in self.world.state.indexes.assigned.values():
            for task_id in held:
                if task_id not in self.started:
                    self.started.add(task_id)
                    self._start(task_id)

    def _start(self, task_id: TaskId) -> None:
        task = self.world.state.tasks[task_id]
        mean_ms = self.lengths_ms[task.tenant]
        took_ms = self.dice.randint(mean_ms // 2, mean_ms * 3 // 2)

        def end() -> None:
            at_ms = self.world.now - task.assigned_at_ms
            self.used[task.tenant] += at_ms
            self.world.commit([FinishTask(task_id, task.attempt, NO_DATA), self._task(task.tenant)])

        self.world.later(took_ms, end)

    def _deviation(self) -> float:
        slots = sum(node.capacity for node in self.nodes)
        worst = 0.0
        for tenant, weight in self.weights.items():
            share = sum(self.used.values()) * weight / sum(self.weights.values())
            edge = 2 * self.lengths_ms[tenant]  # of what began before or ended after
            off = max(0.0, abs(self.used[tenant] - share) - edge)
            require(
                off <= FAIR_TOLERANCE * share, f"{tenant} had {self.used[tenant]} ms, {share:.0f} are its"
            )
            worst = max(worst, abs(self.used[tenant] - share) / share)
        busy = sum(self.used.values()) / (FAIR_MS * slots)
        require(busy > 0.5, f"slots were used {busy:.0%} of the time")
        return worst
