"""One run: some seconds of work under faults, then peace, then everything must be right."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from coterie.core.ports import Committed
from coterie.raft.member import Member
from tests.sim.raft.checks import Asked, Read, Violation, reason
from tests.sim.raft.clients import Clients
from tests.sim.raft.cuts import Cuts
from tests.sim.raft.machines import bodies_of, machine_of
from tests.sim.raft.nemesis import Nemesis
from tests.sim.raft.node import SimNode
from tests.sim.raft.operator import Operator
from tests.sim.raft.timeline import MILLISECOND, SECOND
from tests.sim.raft.world import World

FAULTS_S = 8
PEACE_S = 6  # 40 election timeouts
CORE_SHARE = 0.1  # of the runs replicate the product's own machine
CHANGES_SHARE = 0.3  # of the runs have an operator, who changes the members
CUTS_SHARE = 0.25  # have cuts that do not heal when the faults end
LOST_SHARE = 0.15  # lose, at the end, the disks of most founders
LOST_S = 3


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in one run; `violation` is empty when every promise was kept."""

    seed: int
    count: int
    violation: str
    digest: str
    kinds: tuple[str, ...]  # of fault that were switched on
    faults: dict[str, int] = field(default_factory=dict)  # how often each struck
    counts: dict[str, int] = field(default_factory=dict)  # what was done and seen


def simulate(
    seed: int,
    count: int,
    member_type: type[Member] = Member,
    trace: Callable[[str], None] | None = None,
) -> Report:
    """Everything about the run follows from the first three arguments."""
    world = World(seed, count, member_type)
    world.trace = trace
    machine = "core" if world.rng.random() < CORE_SHARE else "checksum"
    world.replicate(machine_of(machine, world.book))
    nemesis, clients = Nemesis(world), Clients(world, bodies_of(machine, world.rng))
    operator = Operator(world) if world.rng.random() < CHANGES_SHARE else None
    world.say(f"seed {seed}, {count} nodes, {machine} machine, faults: {', '.join(nemesis.kinds)}")
    violation = ""
    try:
        _work(world, nemesis, clients)
        nemesis.make_peace()
        if operator is not None:
            operator.finish()
        if world.rng.random() < CUTS_SHARE:
            nemesis.struck["cut_for_good"] += 1
            _live_with_cuts(world, clients, operator, disks_were_slow=nemesis.struck["slow_disk"] > 0)
        _expect_progress(world, clients)
        if operator is not None:
            operator.close()
        if world.rng.random() < LOST_SHARE:
            nemesis.struck["majority_lost"] += 1
            _lose_a_majority(world)
        world.book.close(world.logs.bodies())
    except Exception as error:  # whatever it is, who reads of it needs the seed
        violation = f"at {world.now_us / SECOND:.3f} s: {reason(error)}"
        world.say(traceback.format_exc())
    if violation:
        world.say("VIOLATION", violation)
    counts = _counts(world, machine)
    if operator is not None:
        nemesis.struck.update(operator.done)
    digest = world.book.digest()
    world.dismantle()
    return Report(seed, count, violation, digest, tuple(nemesis.kinds), dict(nemesis.struck), counts)


def _work(world: World, nemesis: Nemesis, clients: Clients) -> None:
    rng = world.rng
    world.run_until(2 * SECOND, stop=lambda: bool(world.leader()))
    end = world.now_us + FAULTS_S * SECOND
    fault_every_ms = rng.choice([60, 150, 400, 700])

    def some_time(average_us: int) -> int:
        return world.now_us + rng.randint(1, 2 * average_us)

    next_act, next_fault = some_time(SECOND // clients.rate), some_time(fault_every_ms * MILLISECOND)
    while world.now_us < end:
        world.run_until(min(next_act, next_fault, end))
        if world.now_us >= next_act:
            clients.act()
            next_act = some_time(SECOND // clients.rate)
        if world.now_us >= next_fault:
            nemesis.strike()
            next_fault = some_time(fault_every_ms * MILLISECOND)


def _live_with_cuts(
    world: World, clients: Clients, operator: Operator | None, *, disks_were_slow: bool
) -> None:
    cuts = Cuts(world, clients.body)
    outside = cuts.make()
    cuts.expect_commits()
    if operator is not None:
        operator.change_under_cuts(outside)
    cuts.expect_progress(disks_were_slow)
    cuts.heal()


def _lose_a_majority(world: World) -> None:
    """The disks of most of the founders are gone, and they are started as founders again. Together they could
    begin a new group, with a leader that lacks what was acknowledged. Unless they are all who are left: no
    disk is there then that knows of the group (others may have been removed, and have stopped)."""
    founders = [node_id for node_id in world.ids if world.options[node_id].peers]
    most = len(founders) // 2 + 1 if founders else 0  # all may have been replaced by nodes that are none
    lost = world.rng.sample(founders, most)
    if all(node.node_id in lost for node in _expected(world) if node.is_up):
        return
    for node_id in lost:
        world.wipe(node_id, as_new=False)
    world.run_until(world.now_us + LOST_S * SECOND)


def _expect_progress(world: World, clients: Clients) -> None:
    """After the last fault: a leader, an answer to everybody, one state, and new work gets done."""
    deadline = world.now_us + PEACE_S * SECOND

    def calm() -> bool:
        leader = world.leader()
        members = [node.member for node in _expected(world)]
        return (
            leader != ""
            and all(member is not None and member.leader == leader for member in members)
            # All of the leader's log: whoever lacks some may yet get it as a snapshot, and see nothing of
            # what is proposed meanwhile.
            and {member.applied_index for member in members} == {world.nodes[leader].member._log.last_index}
            and all(member.takes_new_work for member in members)
            and not world.book.is_waited_for()
        )

    if not _run_checking(world, deadline, calm):
        raise Violation(f"no calm {PEACE_S} s after the last fault: {_describe(world)}")
    last = [_use(world, node.node_id, clients.body()) for node in _expected(world)]
    if not _run_checking(world, world.now_us + 3 * SECOND, calm):
        raise Violation(f"no calm after the last calls: {_describe(world)}")
    for asked, read in last:
        if not (isinstance(asked.answers[0], Committed) and isinstance(read.answers[0], int)):
            raise Violation(f"healthy cluster, but {asked}; {read}")
    _compare_states(world)


def _use(world: World, node_id: str, body: bytes) -> tuple[Asked, Read]:
    """What every node of a healthy cluster takes: a proposal and a linearizable read."""
    asked, read = world.propose(node_id, body, 2.0), world.read(node_id, 2.0)
    if asked is None or read is None:
        raise Violation(f"{node_id} takes no calls after the last fault: {asked}; {read}")
    return asked, read


def _expected(world: World) -> list[SimNode]:
    """The members, as the leader has them; all nodes while there is none."""
    leader = world.leader()
    if not leader:
        return list(world.nodes.values())
    return [world.nodes[member.node_id] for member in world.nodes[leader].member.members]


def _compare_states(world: World) -> None:
    machines = [node.machine for node in _expected(world) if node.machine is not None]
    states = {(machine.index, machine.chain, machine.digest()) for machine in machines}
    if len(states) != 1:
        raise Violation(f"states differ: {sorted(map(str, states))}")
    end = machines[0].index
    if end < world.book.acked_index:
        raise Violation(f"the state ends at {end}, but {world.book.acked_index} was acknowledged")


def _run_checking(world: World, deadline: int, condition: Callable[[], bool]) -> bool:
    while world.now_us < deadline:
        world.run_until(world.now_us + 10 * MILLISECOND)
        if condition():
            return True
    return False


def _describe(world: World) -> str:
    waiting = sum(call.is_open for call in (*world.book.asked, *world.book.others))
    states = [
        f"{n.node_id}: {n.member.leader} t{n.member.term} c{n.member.commit_index} a{n.member.applied_index} "
        f"log {n.member._log.base.index}..{n.member._log.last_index} blocked {n.member.is_blocked}"
        if n.is_up
        else f"{n.node_id} down"
        for n in world.nodes.values()
    ]
    return f"{waiting} unanswered; " + "; ".join(states)


def _counts(world: World, machine: str) -> dict[str, int]:
    book, counts = world.book, Counter[str]()
    counts["runs"] = 1
    counts["virtual ms"] = world.now_us // MILLISECOND
    counts["steps"] = world.steps
    counts["proposals"] = len(book.asked)
    counts["committed"] = book.committed
    counts["reads"] = book.reads
    counts.update(f"turned away: {type(refusal).__name__}" for refusal in book.turned_away.values())
    counts["terms"] = max(book.leaders, default=0)
    counts[f"runs with the {machine} machine"] = 1
    counts["runs with encoded frames"] = int(world.real_wire)
    counts["configurations"] = world.logs.configurations
    counts.update({f"links refused: {why}": count for why, count in world.refusals.items()})
    for node in world.nodes.values():
        counts["starts"] += node.starts
        counts.update(node.jobs_done)
    return dict(counts)


def seeded_size(seed: int, sizes: list[int]) -> int:
    """Which cluster size a seed runs with: all sizes in turn."""
    return sizes[seed % len(sizes)]
