"""A cluster in virtual time: the real state machine, plan and measurement, on nodes that are only numbers.

Tasks arrive at random, are placed by plan(), and take as long as their skill, their node and chance say."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from coterie.core.commands import AssignTask, Command, FinishTask, RegisterNode, SubmitTask
from coterie.core.machine import apply
from coterie.core.nouns import NO_DATA, NodeId, RetryPolicy, SkillRef, TaskId
from coterie.core.routing import NodeLoad, RoutingRules
from coterie.core.scheduler import plan
from coterie.core.state import ClusterState, Moment
from coterie.core.view import PlanPolicy, View
from coterie.node.clock import Clock
from coterie.node.service_times import ServiceTimes

REPORT_S = 0.5  # between two load reports of a node
START_S = 0.002  # from an assignment to the start of its skill
SPREAD = 0.3  # sigma of the logarithm of a task's length
PAYLOAD, RETRY = NO_DATA, RetryPolicy()


@dataclass(frozen=True, slots=True)
class Machine:
    """A node to simulate. `slowness(t)`: how many times longer work takes there at that second."""

    name: str
    capacity: int = 8
    slowness: Callable[[float], float] = lambda t: 1.0
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives: so many tasks a second for so long, of skills with a usual length in seconds."""

    per_second: float
    seconds: float
    skills: Sequence[tuple[str, float, float]]  # name, length, share of the tasks


@dataclass(frozen=True, slots=True)
class Run:
    """A finished task: where it ran, when it was submitted and placed, and how long all of it took."""

    node: str
    skill: str
    submitted_s: float
    placed_s: float
    took_s: float
    length_s: float  # on a usual node


class VirtualClock(Clock):
    """Seconds since the beginning."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return 1_000 + int(self.now * 1000)


@dataclass(slots=True)
class _Node:
    machine: Machine
    times: ServiceTimes
    report: NodeLoad
    reported_at: float = 0.0
    running: int = 0
    began: dict[TaskId, float] = field(default_factory=dict)


class Simulation:
    """One run of a load against machines under the rules; the same seed gives the same load."""

    def __init__(self, machines: Sequence[Machine], rules: RoutingRules, seed: int) -> None:
        self.clock, self.state = VirtualClock(), ClusterState()
        self.runs: list[Run] = []
        self._policy = PlanPolicy(rules, start_within_ms=10**9)
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._index = 0
        self._nodes = {
            NodeId(m.name): _Node(m, ServiceTimes(self.clock), NodeLoad(NodeId(m.name), 1, 0))
            for m in machines
        }
        self._submitted: dict[TaskId, tuple[float, float]] = {}  # when, and its length on a usual node
        self._placed: dict[TaskId, float] = {}

    def go(self, load: Load) -> list[Run]:
        """All tasks of the load, in the order in which they finished."""
        skills = tuple(SkillRef(name, "1") for name, _, _ in load.skills)
        for node_id, node in self._nodes.items():
            zone, capacity = node.machine.zone, node.machine.capacity
            self._apply(RegisterNode(node_id, f"{node_id}:1", 1, capacity, zone, skills=skills))
            self._at(self._chance.random() * REPORT_S, partial(self._report, node_id))
        for at, skill, length in _arrivals(load, random.Random(self._chance.random())):
            self._at(at, partial(self._submit, skill, length))
        total = sum(1 for _ in self._events) - len(self._nodes)
        while self._events and len(self.runs) < total:
            self.clock.now, _, event = heapq.heappop(self._events)
            event()
        return self.runs

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def _apply(self, command: Command) -> None:
        self._index += 1
        apply(self.state, command, Moment(self._index, self.clock.now_ms()))
        self.state.outbox.clear()

    def _submit(self, skill: str, length: float) -> None:
        task_id = TaskId(f"t{next(self._numbers)}")
        self._submitted[task_id] = (self.clock.now, length)
        self._apply(SubmitTask(task_id, "default", skill, PAYLOAD, 2, RETRY))
        self._plan()

    def _plan(self) -> None:
        if not self.state.indexes.queued:
            return
        now = self.clock.now
        loads = {
            node_id: NodeLoad(
                node_id,
                1,
                int((now - node.reported_at) * 1000),
                node.running,
                node.report.cpu,
                node.report.skills,
            )
            for node_id, node in self._nodes.items()
        }
        while commands := plan(self.state, View(self.clock.now_ms(), loads), self._policy):
            for command in commands:
                self._apply(command)
                if isinstance(command, AssignTask):
                    self._placed[command.task_id] = now
                    self._at(now + START_S, partial(self._start, command))

    def _start(self, command: AssignTask) -> None:
        node, task = self._nodes[command.node_id], self.state.tasks[command.task_id]
        node.running += 1
        node.began[command.task_id] = node.times.begin(task.type)
        length = self._submitted[command.task_id][1] * node.machine.slowness(self.clock.now)
        self._at(self.clock.now + length, partial(self._finish, command))

    def _finish(self, command: AssignTask) -> None:
        node, task = self._nodes[command.node_id], self.state.tasks[command.task_id]
        node.running -= 1
        node.times.end(task.type, node.began.pop(command.task_id), True)
        (began, length), placed = self._submitted.pop(command.task_id), self._placed.pop(command.task_id)
        self.runs.append(Run(command.node_id, task.type, began, placed, self.clock.now - began, length))
        self._apply(FinishTask(command.task_id, command.attempt, PAYLOAD))
        self._plan()

    def _report(self, node_id: NodeId) -> None:
        node = self._nodes[node_id]
        cpu = node.running / node.machine.capacity
        node.report = NodeLoad(node_id, 1, 0, node.running, cpu, node.times.loads())
        node.reported_at = self.clock.now
        self._at(self.clock.now + REPORT_S, partial(self._report, node_id))


def _arrivals(load: Load, chance: random.Random) -> Iterator[tuple[float, str, float]]:
    names = [name for name, _, _ in load.skills]
    shares = [share for _, _, share in load.skills]
    usual = {name: length for name, length, _ in load.skills}
    at = chance.expovariate(load.per_second)
    while at < load.seconds:
        skill = chance.choices(names, shares)[0]
        yield at, skill, usual[skill] * chance.lognormvariate(0.0, SPREAD)
        at += chance.expovariate(load.per_second)
