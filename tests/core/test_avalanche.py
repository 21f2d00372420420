"""An avalanche, second by second, on virtual time. 0 s: an agent of two fails (out of memory). 1 s: its
requests go to the other. 5 s: that one is loaded beyond 90 %. 10 s: it fails. 11 s: everything goes to the
general agent. 20 s: that one is overloaded, and nothing works any more.

The agents and the requests are the same for both routers: one without a limit of load, under which the story
ends as it is told, and the scheduler with the state machine, under which it must not."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from coterie.core.commands import Accepted, AssignTask, ConfigureCluster, FinishTask, Rejected, StartTask
from coterie.core.nouns import NO_DATA, Constraints, NodeId, NodeStatus, Policy, TaskId, TaskState
from coterie.core.routing import NodeLoad
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, register_command, submit_command

AGENTS = {"k8s-1": "k8s", "k8s-2": "k8s", "general": "general"}  # and their zones
BEARS = 12  # requests at once; beyond 90 % of that an agent ...
FAILS_AFTER_MS = 5_000  # ... fails after so long
CAPACITY = 10  # what the operator allows an agent
SERVICE_MS = 1_000
TICK_MS = 50
WARM_MS, OUTAGE_MS, AFTER_MS = 3_000, 20_000, 20_000
PENDING_MAX = 30
RUSH_EVERY = 5  # ticks: after the failure every fifth request is asked once more
DOWN_AFTER_MS = 800


class Router(Protocol):
    """Who decides which agent works at what."""

    def offer(self, request: str) -> bool:
        """Whether it is accepted."""

    def route(self, now_ms: int, dead: set[str]) -> list[tuple[str, str]]:
        """What begins now: request and agent."""

    def ended(self, request: str) -> None: ...

    def back(self, agent: str) -> None: ...


class Unlimited:
    """Every request goes at once to the k8s agent that has least; if none lives, to the general one."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.waiting: list[str] = []

    def offer(self, request: str) -> bool:
        self.waiting.append(request)
        return True

    def route(self, now_ms: int, dead: set[str]) -> list[tuple[str, str]]:
        self.waiting += [request for request, agent in self.held.items() if agent in dead]
        living = [agent for agent in AGENTS if agent not in dead]
        pool = [agent for agent in living if AGENTS[agent] == "k8s"] or living
        begun = []
        for request in self.waiting if pool else []:
            counts = Counter(self.held.values())
            self.held[request] = min(pool, key=lambda agent: counts[agent])
            begun.append((request, self.held[request]))
        self.waiting = [] if pool else self.waiting
        return begun

    def ended(self, request: str) -> None:
        self.held.pop(request, None)

    def back(self, agent: str) -> None: ...


class Scheduled:
    """The plan of the coordinator and the state machine; an agent is a node."""

    def __init__(self) -> None:
        self.cluster = CoreCluster(now_ms=1)
        self.cluster.do(ConfigureCluster("c", "c", Policy(pending_tasks_max=PENDING_MAX)))
        for agent, zone in AGENTS.items():
            self.cluster.with_node(agent, capacity=CAPACITY, zone=zone)
        self.silent_since: dict[str, int] = {}
        self.refusals: Counter[str] = Counter()
        self.policy = PlanPolicy(down_after_ms=DOWN_AFTER_MS)

    def offer(self, request: str) -> bool:
        wanted = Constraints(prefer_zone="k8s")
        outcome = self.cluster.do(submit_command(request, constraints=wanted))
        if isinstance(outcome, Rejected):
            self.refusals[outcome.code] += 1
        return isinstance(outcome, Accepted)

    def route(self, now_ms: int, dead: set[str]) -> list[tuple[str, str]]:
        cluster, begun = self.cluster, []
        cluster.now_ms = max(cluster.now_ms, now_ms)
        self.silent_since = {agent: self.silent_since.get(agent, now_ms) for agent in dead}
        while commands := plan(cluster.state, View(cluster.now_ms, self._loads(now_ms)), self.policy):
            for command in commands:
                outcome = cluster.do(command)
                if isinstance(command, AssignTask) and isinstance(outcome, Accepted):
                    begun.append((str(command.task_id), str(command.node_id)))
                    if command.node_id not in dead:
                        cluster.do(StartTask(command.task_id, command.attempt))
        return begun

    def _loads(self, now_ms: int) -> dict[NodeId, NodeLoad]:
        return {
            node_id: NodeLoad(node_id, node.incarnation, now_ms - self.silent_since.get(node_id, now_ms))
            for node_id, node in self.cluster.state.nodes.items()
        }

    def ended(self, request: str) -> None:
        task = self.cluster.task(request)
        self.cluster.do(FinishTask(task.task_id, task.attempt, NO_DATA))

    def back(self, agent: str) -> None:
        incarnation = self.cluster.state.nodes[NodeId(agent)].incarnation + 1
        self.cluster.do(register_command(agent, incarnation, capacity=CAPACITY, zone=AGENTS[agent]))


@dataclass
class Night:
    """The agents, their load and what becomes of them. Times are from the first failure, in ms."""

    router: Router
    failures: list[tuple[int, str]] = field(default_factory=list)
    most_held: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    served: list[tuple[int, str]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    _on: dict[str, str] = field(default_factory=dict)  # what an agent works at
    _ends: list[tuple[int, str, str]] = field(default_factory=list)
    _over_since: dict[str, int] = field(default_factory=dict)
    _asked: int = 0

    def run(self) -> None:
        for now in range(-WARM_MS, OUTAGE_MS + AFTER_MS, TICK_MS):
            if now == 0:
                self._fail("k8s-1", now)
            if now == OUTAGE_MS and "k8s-1" in self.dead:
                self.dead.discard("k8s-1")
                self.router.back("k8s-1")
            self._serve(now)
            self._ask(now)
            for request, agent in self.router.route(now + WARM_MS + 1, set(self.dead)):
                self._on[request] = agent
                heapq.heappush(self._ends, (now + SERVICE_MS, request, agent))
            self._strain(now)

    def served_between(self, begin: int, end: int) -> int:
        return sum(begin <= at < end for at, _ in self.served)

    def _ask(self, now: int) -> None:
        if now >= OUTAGE_MS + AFTER_MS - 3 * SERVICE_MS:
            return  # so that what was accepted can end
        rush = 0 <= now < OUTAGE_MS and (now // TICK_MS) % RUSH_EVERY == 0
        for _ in range(2 if rush else 1):
            self._asked += 1
            request = f"r{self._asked}"
            if self.router.offer(request):
                self.accepted.append(request)
            else:
                self.refused.append(now)

    def _serve(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, request, agent = heapq.heappop(self._ends)
            if self._on.get(request) == agent and agent not in self.dead:
                del self._on[request]
                self.router.ended(request)
                self.served.append((now, request))

    def _strain(self, now: int) -> None:
        held = Counter(self._on.values())
        for agent in AGENTS:
            self.most_held[agent] = max(self.most_held[agent], held[agent])
            if agent in self.dead or held[agent] <= 0.9 * BEARS:
                self._over_since.pop(agent, None)
            elif now - self._over_since.setdefault(agent, now) >= FAILS_AFTER_MS:
                self._fail(agent, now)

    def _fail(self, agent: str, now: int) -> None:
        self.dead.add(agent)
        self.failures.append((now, agent))


def test_without_a_limit_of_load_the_story_ends_as_it_is_told() -> None:
    """Else the next test would prove nothing."""
    night = Night(Unlimited())
    night.run()
    assert [agent for _, agent in night.failures] == ["k8s-1", "k8s-2", "general", "k8s-1"], "once more"
    assert night.failures[1][0] <= 10_000 and night.failures[2][0] <= 20_000
    assert night.served_between(15_000, 20_000) == 0


def test_one_failure_stays_one_failure() -> None:
    router = Scheduled()
    night = Night(router)
    night.run()
    assert night.failures == [(0, "k8s-1")]
    assert max(night.most_held.values()) == CAPACITY <= 0.9 * BEARS, "nobody was overloaded at any moment"
    usual, possible = SERVICE_MS // TICK_MS, 2 * CAPACITY * SERVICE_MS // 1_000
    for second in range(2, OUTAGE_MS // 1_000):
        served = night.served_between(second * 1_000, (second + 1) * 1_000)
        assert served >= 0.9 * min(usual, possible), f"{served} requests were served in second {second}"
    _what_was_accepted_was_served_once(night, router)


def test_what_is_too_much_is_refused_at_the_door_and_no_longer_than_it_is_too_much() -> None:
    router = Scheduled()
    night = Night(router)
    night.run()
    assert set(router.refusals) == {"QUEUE_FULL"}
    assert min(night.refused) > 0
    assert max(night.refused) <= OUTAGE_MS + 15_000, "recovered within 15 s of the agent's return"
    after = night.served_between(OUTAGE_MS + 15_000, OUTAGE_MS + 17_000)
    assert after >= 0.9 * 2_000 // TICK_MS


def test_a_second_after_the_failure_the_requests_are_elsewhere_and_later_they_come_back() -> None:
    router = Scheduled()
    night = Night(router)
    moved = {}
    route = router.route

    def watched(now_ms: int, dead: set[str]) -> list[tuple[str, str]]:
        begun = route(now_ms, dead)
        now = now_ms - WARM_MS - 1
        if now == 1_000:
            moved["held by the dead"] = len(router.cluster.state.indexes.held_by(NodeId("k8s-1")))
            moved["down"] = router.cluster.state.nodes[NodeId("k8s-1")].status is NodeStatus.DOWN
        moved["begun after its return"] = moved.get("begun after its return", 0) + sum(
            agent == "k8s-1" and now >= OUTAGE_MS for _, agent in begun
        )
        return begun

    router.route = watched  # type: ignore[method-assign]
    night.run()
    assert (moved["held by the dead"], moved["down"]) == (0, True)
    assert moved["begun after its return"] > 50


def _what_was_accepted_was_served_once(night: Night, router: Scheduled) -> None:
    state = router.cluster.state
    assert sorted(request for _, request in night.served) == sorted(night.accepted)
    ended = [event.task.task_id for event in router.cluster.events if event.task.state is TaskState.SUCCEEDED]
    assert len(ended) == len(set(ended)) == len(night.accepted)
    assert not state.tasks and TaskId("r1") in ended
