"""One run: clients and faults for some seconds, then peace, then everything must have ended well."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.state import ClusterState
from tests.checker.check import acked_ids, judge
from tests.checker.history import Kind
from tests.sim.cluster.gateway import view_of
from tests.sim.cluster.settings import DOWN_AFTER_MS, MILLISECOND, SECOND
from tests.sim.cluster.world import ClusterWorld
from tests.sim.raft.checks import Violation
from tests.sim.raft.nemesis import Nemesis

FAULTS_S = 5
PEACE_S = 8  # a node that was given up, its tasks' last steps, a client's last try


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in one run; `violation` is empty when every promise was kept."""

    seed: int
    count: int
    violation: str
    digest: str
    faults: int
    calls: int
    unknown: int
    tasks: int
    effects: int
    terms: int
    starts: int
    attempts: int
    commands: int
    virtual_ms: int
    undecided: int


class ClusterNemesis(Nemesis):
    """Also keeps nodes away for longer than their tasks wait for them, and lets them come back."""

    def __init__(self, world: ClusterWorld) -> None:
        super().__init__(world)
        own = ["long_pause", "long_isolation"]
        self.kinds += own
        self._draw += own * (1 + len(self._draw) // 5)

    def warp_clock(self, a: str, b: str) -> None:
        """Leases bear clocks that differ by half; DOWN_AFTER_MS is twice LEASE_MS here."""
        self.world.run_clock(a, self.rng.choice([0.8, 0.9, 1.1, 1.2]))

    def long_pause(self, a: str, b: str) -> None:
        self.world.pause(a)
        self._after(DOWN_AFTER_MS, 3 * DOWN_AFTER_MS, lambda: self.world.resume(a))

    def long_isolation(self, a: str, b: str) -> None:
        for other in self.world.ids:
            if other != a:
                self.world.block(a, other)
        self._after(DOWN_AFTER_MS, 3 * DOWN_AFTER_MS, self.world.unblock_all)


def simulate(seed: int, count: int) -> Report:
    """Everything about the run follows from its arguments."""
    world = ClusterWorld(seed, count)
    nemesis = ClusterNemesis(world)
    violation, undecided = "", 0
    try:
        _work(world, nemesis)
        nemesis.make_peace()
        _expect_end(world)
        undecided = _judge(world)
    except Violation as broken:
        violation = f"at {world.now_us / SECOND:.3f} s: {broken}"
    return _report(seed, world, nemesis, violation, undecided)


def run_history(seed: int, count: int) -> ClusterWorld:
    """A run with its history, for those who judge it themselves. Raises Violation."""
    world = ClusterWorld(seed, count)
    nemesis = ClusterNemesis(world)
    _work(world, nemesis)
    nemesis.make_peace()
    _expect_end(world)
    return world


def _work(world: ClusterWorld, nemesis: Nemesis) -> None:
    rng = world.rng
    world.run_until(2 * SECOND, stop=lambda: bool(world.leader()))
    for client in world.clients:
        client.start()
    end = world.now_us + FAULTS_S * SECOND
    every_ms = rng.choice([100, 250, 500, 900])
    while world.now_us < end:
        world.run_until(world.now_us + rng.randint(0, 2 * every_ms) * MILLISECOND)
        nemesis.strike()
    world.open_for_clients = False


def _expect_end(world: ClusterWorld) -> None:
    """After the last fault: every task ends, and every node has the same state."""
    deadline = world.now_us + PEACE_S * SECOND
    while world.now_us < deadline:
        world.run_until(world.now_us + 50 * MILLISECOND)
        if _is_calm(world):
            break
    else:
        raise Violation(f"no calm {PEACE_S} s after the last fault: {_describe(world)}")
    if len(world.hashes()) != 1:
        raise Violation(f"states differ: {sorted(world.hashes())}")
    state = _newest(world)
    every = [*state.tasks.values(), *state.finished.values()]
    world.history.end = {task.task_id: view_of(task) for task in every}
    world.history.ended_at = world.now_us


def _is_calm(world: ClusterWorld) -> bool:
    """A node that has just started has applied nothing until a leader tells it what is committed: that all
    have equally little is no end. Whatever any node has ever applied, all must have."""
    if len(world.processes) < len(world.ids) or any(client.is_busy for client in world.clients):
        return False
    members = [process.node.member for process in world.processes.values()]
    equal = len({member.applied_index for member in members}) == 1
    complete = members[0].applied_index >= max(world.applied.log, default=0)
    return equal and complete and not any(p.state.tasks or p.worker.jobs for p in world.processes.values())


def _newest(world: ClusterWorld) -> ClusterState:
    return max(world.processes.values(), key=lambda process: process.machine.index).state


def _judge(world: ClusterWorld) -> int:
    verdict = judge(world.history)
    if verdict.faults:
        raise Violation("; ".join(verdict.faults[:3]))
    return verdict.undecided


def _describe(world: ClusterWorld) -> str:
    busy = sum(client.is_busy for client in world.clients)
    nodes = [
        f"{p.me}: leader {p.node.member.leader} t{p.node.member.term} a{p.node.member.applied_index} "
        f"{len(p.state.tasks)} tasks {sorted(p.worker.jobs)[:3]} jobs"
        for p in world.processes.values()
    ]
    tasks = list(_newest(world).tasks.values())[:2] if world.processes else []
    return f"{busy} clients wait; " + "; ".join(nodes) + f"; {tasks}"


def _report(seed: int, world: ClusterWorld, nemesis: Nemesis, violation: str, undecided: int) -> Report:
    history = world.history
    return Report(
        seed,
        len(world.ids),
        violation,
        history.digest(),
        nemesis.struck.total(),
        len(history.calls),
        sum(1 for call in history.calls if call.answer is None and call.kind is not Kind.READ),
        len(acked_ids(history)),
        len(history.effects),
        max(world.book.leaders, default=0),
        sum(node.starts for node in world.nodes.values()),
        sum(view.attempt for view in (history.end or {}).values()),
        world.applied.commands,
        world.now_us // MILLISECOND,
        undecided,
    )
