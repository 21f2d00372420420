"""Laws of routing over random clusters, loads and tasks, for every strategy. A failure names its seed."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from coterie.core.breaker_commands import TripBreaker
from coterie.core.commands import ConfigureCluster, MarkNode, SetDrain, SubmitTask
from coterie.core.nouns import Companion, Constraints, Label, NodeId, NodeStatus, Policy, SkillRef, TaskId
from coterie.core.routing import STRATEGIES, Decision, NodeLoad, Pool, RoutingRules, SkillLoad, choose
from coterie.core.view import View
from tests.core.builders import CoreCluster, submit_command

SEEDS = range(40)
EVERY = sorted(STRATEGIES)
ZONES = ("", "a", "b")


class World:
    """A random cluster in which some tasks run already, and what the coordinator sees of it."""

    def __init__(self, seed: int, nodes: int = 6) -> None:
        self.dice = random.Random(seed)
        self.cluster = CoreCluster()
        for number in range(self.dice.randint(1, nodes)):
            self._node(f"n{number}")
        for number in range(self.dice.randint(0, 20)):
            self._held(f"h{number}")
        for node_id in sorted(self.cluster.state.nodes):
            if self.dice.random() < 0.15:
                self.cluster.do(MarkNode(node_id, 1, NodeStatus.DOWN))
            if self.dice.random() < 0.15:
                self.cluster.do(SetDrain(node_id, True, 1_000))
        loads = {node_id: self._load(node_id) for node_id in self.cluster.state.nodes}
        leader = self.dice.choice([*self.cluster.state.nodes, NodeId("")])
        if self.dice.random() < 0.2:
            policy = Policy(breaker_failures=5, breaker_recovery_ms=60_000)
            self.cluster.do(ConfigureCluster("c1", "test", policy))
            self.cluster.do(TripBreaker("node:n0", 0, "fails"))
        self.view = View(self.cluster.now_ms, loads, leader=leader)

    def _node(self, name: str) -> None:
        dice = self.dice
        self.cluster.with_node(
            name,
            capacity=dice.randint(1, 5),
            zone=dice.choice(ZONES),
            labels=(Label("disk", dice.choice(["ssd", "hdd"])),),
            skills=tuple(
                SkillRef(skill, dice.choice("12")) for skill in ("echo", "map") if dice.random() < 0.9
            ),
            memory_bytes=dice.choice([0, 100, 200]),
            gpus=dice.choice([0, 0, 1, 2]),
            standby=dice.random() < 0.15,
        )

    def _held(self, name: str) -> None:
        """Refused when the node is full: fine."""
        wanted = Constraints(memory_bytes=self.dice.choice([0, 60]), session=self.dice.choice(["", "s1"]))
        labels = (Label("team", self.dice.choice("xy")),)
        self.cluster.do(
            submit_command(name, type=self.dice.choice(["echo", "map"]), labels=labels, constraints=wanted)
        )
        self.cluster.assign(name, self.dice.choice(sorted(self.cluster.state.nodes)))

    def _load(self, node_id: NodeId) -> NodeLoad:
        dice = self.dice
        skills = {
            skill: SkillLoad(
                dice.uniform(1, 2_000), dice.randint(1, 9), dice.randint(0, 30_000), dice.randint(0, 2), 50.0
            )
            for skill in ("echo", "map")
            if dice.random() < 0.7
        }
        rtt = {"n0": dice.uniform(0.1, 20)} if dice.random() < 0.7 else {}
        return NodeLoad(node_id, 1, dice.randint(0, 1_000), cpu=dice.random(), skills=skills, rtt_ms=rtt)

    def task(self) -> SubmitTask:
        dice = self.dice
        companion = Companion(
            label_key="team", label_value="x", away=dice.random() < 0.7, required=dice.random() < 0.5
        )
        constraints = Constraints(
            require_gpu=dice.random() < 0.2,
            labels=(Label("disk", "ssd"),) if dice.random() < 0.2 else (),
            zones=("a", "b") if dice.random() < 0.2 else (),
            target_node="n1" if dice.random() < 0.1 else "",
            prefer_zone=dice.choice(["", "a"]),
            skill_version=dice.choice(["", "", "", "1"]),
            memory_bytes=dice.choice([0, 0, 60, 150]),
            gpus=dice.choice([0, 0, 0, 1]),
            require_coordinator=dice.random() < 0.1,
            session=dice.choice(["", "s1", "s2"]),
            max_latency_ms=dice.choice([0, 0, 10]),
            origin="n0",
            companions=(companion,) if dice.random() < 0.3 else (),
        )
        return submit_command("new", type=dice.choice(["echo", "map"]), constraints=constraints)

    def rules(self, strategy: str) -> RoutingRules:
        return RoutingRules(
            strategy,
            affinity=self.dice.random() < 0.5,
            anti_affinity=self.dice.random() < 0.3,
            locality=self.dice.choice(["any", "same-zone", "cross-zone"]),
        )

    def pool(self, rules: RoutingRules) -> Pool:
        return Pool(self.cluster.state, self.view, rules)


def may_run(world: World, task: SubmitTask, node_id: NodeId) -> bool:
    """Written anew, from what the constraints mean."""
    state, wanted = world.cluster.state, task.constraints
    node = state.nodes[node_id]
    held = [state.tasks[task_id] for task_id in state.indexes.held_by(node_id)]
    team = [t for t in held if Label("team", "x") in t.labels]
    near = [c for c in wanted.companions if c.required and not c.away]
    away = [c for c in wanted.companions if c.required and c.away]
    rtt = world.view.loads[node_id].rtt_ms.get("n0", world.view.loads[NodeId("n0")].rtt_ms.get(node_id, 0.0))
    up = {n.node_id: n.status is NodeStatus.UP and not n.draining for n in state.nodes.values()}
    active = [n.node_id for n in state.nodes.values() if not n.standby]
    ready = sorted(n.node_id for n in state.nodes.values() if n.standby and up[n.node_id])
    missing = len(active) - sum(up[n] for n in active)
    standing_in = ready[:missing] if any(up[n] for n in active) else ready
    memory = sum(t.constraints.memory_bytes for t in held) + wanted.memory_bytes
    return all(
        (
            node.status is NodeStatus.UP,
            not node.draining,
            not node.standby or node_id in standing_in,
            any(s.name == task.type and wanted.skill_version in ("", s.version) for s in node.skills),
            wanted.target_node in ("", node_id),
            not wanted.require_gpu or node.gpus > 0,
            not wanted.zones or node.zone in wanted.zones,
            set(wanted.labels) <= set(node.labels),
            not wanted.memory_bytes or not node.memory_bytes or memory <= node.memory_bytes,
            sum(t.constraints.gpus for t in held) + wanted.gpus <= node.gpus or not wanted.gpus,
            not wanted.require_coordinator or world.view.leader == node_id,
            not wanted.max_latency_ms or node_id == "n0" or rtt <= wanted.max_latency_ms,
            not near or bool(team),
            not away or not team,
            len(held) < node.capacity,
            f"node:{node_id}" not in world.cluster.state.breakers,
        )
    )


def shape(decision: Decision) -> tuple[object, ...]:
    chosen = decision.chosen.node.node_id if decision.chosen else None
    ranked = [(r.candidate.node.node_id, r.cost, r.objection, list(r.terms)) for r in decision.ranked]
    return chosen, ranked, [(r.candidate.node.node_id, r.objections) for r in decision.refused], decision.wait


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_filter_is_ever_violated_and_no_fit_node_left_idle(seed: int, strategy: str) -> None:
    world = World(seed)
    for _ in range(20):
        task, rules = world.task(), world.rules(strategy)
        decision = choose(task, world.pool(rules))
        able = {node_id for node_id in world.cluster.state.nodes if may_run(world, task, node_id)}
        shown = {r.candidate.node.node_id for r in decision.ranked}
        refused = {r.candidate.node.node_id for r in decision.refused}
        assert shown | refused == set(world.cluster.state.nodes) and not shown & refused
        assert able <= shown, f"seed {seed}: {able - shown} could run it"
        if decision.chosen is not None:
            assert decision.chosen.node.node_id in able, f"seed {seed}: {task.constraints}"
        elif able:
            assert decision.better_off > 0, f"seed {seed}: {able} could run it, nothing is worth waiting for"


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_sight_gives_the_same_decision(seed: int, strategy: str) -> None:
    world = World(seed)
    task, rules = world.task(), world.rules(strategy)
    first = shape(choose(task, world.pool(rules)))
    shuffled = list(world.view.loads.items())
    world.dice.shuffle(shuffled)
    world.view = replace(world.view, loads=dict(shuffled))
    assert shape(choose(task, world.pool(rules))) == first


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_with_less_to_do_never_costs_more(seed: int, strategy: str) -> None:
    """All else equal: one task less, or a less busy processor."""
    world = World(seed)
    task, rules = submit_command("new"), RoutingRules(strategy)

    def costs(pool: Pool) -> dict[NodeId, float]:
        return {r.candidate.node.node_id: r.cost for r in choose(task, pool).ranked}

    before = costs(world.pool(rules))
    for node_id in before:
        relieved = world.pool(rules)
        candidate = relieved.by_id[node_id]
        candidate.held = max(0, candidate.held - 1)
        assert costs(relieved)[node_id] <= before[node_id], f"seed {seed}: {node_id} holds one less"
        idle = replace(world.view.loads[node_id], cpu=0.0)
        calm = Pool(
            world.cluster.state, replace(world.view, loads={**world.view.loads, node_id: idle}), rules
        )
        assert costs(calm)[node_id] <= before[node_id], f"seed {seed}: {node_id} is less busy"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_hash_strategy_keeps_every_node_within_its_bound(seed: int) -> None:
    """However uneven the keys: no node above ceil(1.25 x fair share), counting by capacity."""
    dice = random.Random(seed)
    cluster, rules = CoreCluster(), RoutingRules("hash")
    capacities = {f"n{n}": dice.randint(50, 200) for n in range(dice.randint(2, 7))}
    for name, capacity in capacities.items():
        cluster.with_node(name, capacity=capacity)
    pool = Pool(cluster.state, View(0), rules)
    for placed in range(1, 40):
        session = dice.choice(["hot", "hot", "hot", f"s{placed}"])
        task = submit_command(f"t{placed}", constraints=Constraints(session=session))
        decision = choose(task, pool)
        assert decision.chosen is not None
        pool.give(task, decision.chosen)
        for candidate in pool.candidates:
            share = candidate.node.capacity / sum(capacities.values())
            assert candidate.held <= math.ceil(rules.bound * placed * share), f"seed {seed}"


@pytest.mark.parametrize("seed", range(10))
def test_few_sessions_move_when_a_node_goes(seed: int) -> None:
    cluster = CoreCluster()
    for number in range(5):
        cluster.with_node(f"n{number}", capacity=500)
    tasks = [submit_command(f"t{n}", constraints=Constraints(session=f"{seed}-{n}")) for n in range(200)]

    def homes() -> dict[TaskId, NodeId]:
        found = {}
        for task in tasks:
            decision = choose(task, Pool(cluster.state, View(0), RoutingRules("hash")))
            assert decision.chosen is not None
            found[task.task_id] = decision.chosen.node.node_id
        return found

    before = homes()
    assert min(Counter(before.values()).values()) >= 20
    cluster.do(MarkNode(NodeId("n2"), 1, NodeStatus.DOWN))
    after = homes()
    assert all(after[name] == home for name, home in before.items() if home != "n2")


def test_round_robin_takes_turns_also_over_entries_and_coordinators() -> None:
    cluster = (
        CoreCluster().with_node("n1", capacity=50).with_node("n2", capacity=50).with_node("n3", capacity=50)
    )
    given: list[str] = []
    for number in range(10):  # every round a new pool, as a new coordinator would make
        pool = Pool(cluster.state, View(0), RoutingRules("round-robin"))
        for part in range(number % 3 + 1):
            name = f"t{number}-{part}"
            cluster.do(submit_command(name))
            decision = choose(submit_command(name), pool)
            assert decision.chosen is not None
            pool.give(submit_command(name), decision.chosen)
            cluster.do(decision.assignment(TaskId(name), 1))
            given.append(decision.chosen.node.node_id)
    assert given == [f"n{place % 3 + 1}" for place in range(len(given))]
