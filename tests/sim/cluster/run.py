"""One run: clients and faults for some seconds, then peace, then everything must have ended well."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace

from coterie.core.state import ClusterState
from tests.checker.check import acked_ids, judge
from tests.checker.history import Kind
from tests.sim.cluster.gateway import view_of
from tests.sim.cluster.settings import DOWN_AFTER_MS, MILLISECOND, SECOND
from tests.sim.cluster.world import ClusterWorld
from tests.sim.raft.checks import Violation, reason
from tests.sim.raft.nemesis import Nemesis

FAULTS_S = 5
PEACE_S = 8  # a node that was given up, its tasks' last steps, a client's last try


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in one run; `violation` is empty when every promise was kept."""

    seed: int
    count: int
    violation: str = ""
    digest: str = ""
    faults: int = 0
    calls: int = 0
    unknown: int = 0
    tasks: int = 0
    effects: int = 0
    terms: int = 0
    starts: int = 0
    attempts: int = 0
    commands: int = 0
    virtual_ms: int = 0
    undecided: int = 0  # tasks whose history the checker gave up on
    trace: str = field(default="", repr=False)  # of the exception that ended the run


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
    """Everything about the run follows from its arguments. Whatever ends it early, an exception of the
    product too, is a violation: who reads of it needs the seed."""
    try:
        world = ClusterWorld(seed, count)
    except Exception as error:  # the nodes start at once
        return Report(seed, count, f"at 0.000 s: {reason(error)}", trace=traceback.format_exc())
    nemesis = ClusterNemesis(world)
    violation, trace, undecided = "", "", 0
    try:
        _work(world, nemesis)
        nemesis.make_peace()
        _expect_end(world)
        undecided = _judge(world)
    except Exception as error:
        violation, trace = f"at {world.now_us / SECOND:.3f} s: {reason(error)}", traceback.format_exc()
    report = _report(seed, world, nemesis)
    return replace(report, violation=violation, undecided=undecided, trace=trace)


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


def _report(seed: int, world: ClusterWorld, nemesis: Nemesis) -> Report:
    history = world.history
    return Report(
        seed,
        len(world.ids),
        digest=history.digest(),
        faults=nemesis.struck.total(),
        calls=len(history.calls),
        unknown=sum(1 for call in history.calls if call.answer is None and call.kind is not Kind.READ),
        tasks=len(acked_ids(history)),
        effects=len(history.effects),
        terms=max(world.book.leaders, default=0),
        starts=sum(node.starts for node in world.nodes.values()),
        attempts=sum(view.attempt for view in (history.end or {}).values()),
        commands=world.applied.commands,
        virtual_ms=world.now_us // MILLISECOND,
    )
