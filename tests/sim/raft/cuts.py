"""Cuts that never heal: some nodes cannot reach some others, in one direction or both, for good.

What is promised then: if every pair of some majority hears each other both ways, there is a leader within a
bounded time that commits, whatever all other links do; it stays leader, and terms stay where they are; every
node that hears it and is heard by it gets its proposals committed. A node that the leader cannot reach, or
that cannot reach the leader, makes no progress (its proposals end with NoQuorum or NotCommitted) and does no
harm. Without such a majority only safety is promised: a node whose log is too short may be the only one that
hears a majority, and then nobody can lead, in any Raft; and a majority of blank nodes waits for the one that
holds data, which it may hear of without being able to reach it."""

from __future__ import annotations

from collections.abc import Callable

from coterie.core.ports import Committed
from coterie.raft.journal import FIRST_INDEX
from coterie.raft.pace import WINDOW_S
from tests.sim.raft.checks import Violation
from tests.sim.raft.timeline import MILLISECOND, SECOND
from tests.sim.raft.world import World

LEADER_S = 6  # 40 election timeouts
STEADY_S = 2


class Cuts:
    """Chooses cuts that leave one majority whole, and sees to the promise above."""

    def __init__(self, world: World, body: Callable[[], bytes]) -> None:
        self.world, self.rng, self._body = world, world.rng, body

    def make(self) -> set[str]:
        """Returns the nodes outside the majority that is left whole."""
        ids, voters = self.world.ids, sorted(self.world.logs.voters) or self.world.ids
        whole = self._with_one_who_holds(set(self.rng.sample(voters, len(voters) // 2 + 1)), voters)
        for a in ids:
            for b in ids:
                if a < b and not {a, b} <= whole:
                    self._cut(a, b)
        cut = sorted(self.world.network.deaf) + sorted(map(sorted, self.world.network.blocked))
        self.world.say("cut for good, whole:", sorted(whole), "cut:", cut)
        return set(ids) - whole

    def _with_one_who_holds(self, whole: set[str], voters: list[str]) -> set[str]:
        """Blank nodes begin nothing while they know of one that holds data: it has to be among them."""
        holders = [n for n in voters if self.world.nodes[n].member._log.last_index > FIRST_INDEX]
        if not holders or whole & set(holders):
            return whole
        return whole - {min(whole)} | {holders[0]}

    def _cut(self, a: str, b: str) -> None:
        kind = self.rng.choice(["none", "there", "back", "both", "closed"])
        if kind == "closed":
            self.world.block(a, b)
        if kind in ("there", "both"):
            self.world.network.deaf.add((a, b))
        if kind in ("back", "both"):
            self.world.network.deaf.add((b, a))

    def _hears_both_ways(self, a: str, b: str) -> bool:
        network = self.world.network
        return not ({(a, b), (b, a)} & network.deaf or frozenset((a, b)) in network.blocked)

    def expect_progress(self, disks_were_slow: bool) -> None:
        # Hand-overs that were asked for before, or for the sake of a disk that was slow, and whoever is to
        # hear of the leader.
        settle_s = WINDOW_S + 1 if disks_were_slow else 1
        self.world.run_until(self.world.now_us + int(settle_s * SECOND))
        self.expect_commits()
        self._expect_steadiness(self.world.leader())

    def expect_commits(self) -> None:
        world = self.world
        deadline = world.now_us + LEADER_S * SECOND
        while not self._commits(world.leader()):
            if world.now_us >= deadline:
                raise Violation(f"a whole majority, and nothing was committed for {LEADER_S} s")

    def _commits(self, leader: str) -> bool:
        world = self.world
        asked = world.propose(leader, self._body(), 0.5) if leader else None
        world.run_until(world.now_us + 300 * MILLISECOND, stop=lambda: bool(asked and asked.answers))
        return asked is not None and bool(asked.answers) and isinstance(asked.answers[0], Committed)

    def _expect_steadiness(self, leader: str) -> None:
        world = self.world
        term = self._highest_term()  # whoever is cut off may be ahead
        near = [n for n in self._members(leader) if n == leader or self._hears_both_ways(n, leader)]
        self._expect_equal(near, leader)
        asked = [world.propose(node_id, self._body(), STEADY_S) for node_id in near]
        for node_id in world.ids:
            world.propose(node_id, self._body(), 1.0)  # of the others any honest answer will do
        world.run_until(world.now_us + STEADY_S * SECOND)
        for each in asked:
            if each is None or not each.answers or not isinstance(each.answers[0], Committed):
                raise Violation(f"{leader} and its neighbour hear each other, but {each}")
        grown = self._highest_term() - term
        if grown > 0 or world.leader() != leader:
            raise Violation(
                f"under cuts that do not change, under {leader} the highest term {term} grew by {grown}"
            )

    def _highest_term(self) -> int:
        return max(int(node.member.term) for node in self.world.nodes.values() if node.is_up)

    def _members(self, leader: str) -> list[str]:
        return [member.node_id for member in self.world.nodes[leader].member.members]

    def _expect_equal(self, near: list[str], leader: str) -> None:
        """A disk that was full until a moment ago takes a snapshot later: what is proposed before that was
        taken in by the leader, and is not seen here when the snapshot covers it."""
        world = self.world

        def equal() -> bool:
            applied = {world.nodes[node_id].member.applied_index for node_id in near}
            return applied == {world.nodes[leader].member.commit_index}

        world.run_until(world.now_us + LEADER_S * SECOND, stop=equal)
        if not equal():
            raise Violation(f"{near} hear {leader} and are heard, and did not catch up in {LEADER_S} s")

    def heal(self) -> None:
        network = self.world.network
        for a, b in sorted(network.deaf):
            self.world.break_link(a, b)
        network.deaf.clear()
        self.world.unblock_all()
