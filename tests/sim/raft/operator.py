"""Who changes the members in a run: adds, removes, promotes, demotes and moves them, and puts new disks into
nodes.

One thing at a time, and now and then a second one beside it, which is refused or done one after the other.
What leaves the group with a vote less than it should have (a wiped disk), or with a node that nobody finds,
is brought to its end, whatever it takes; the rest is given up when it is refused."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Set
from dataclasses import dataclass

from coterie.core.ports import (
    AddMember,
    ChangeRefused,
    DemoteMember,
    Member,
    MembershipChange,
    MoveMember,
    PromoteMember,
    RemoveMember,
    Role,
)
from tests.sim.raft.checks import Violation, Wish
from tests.sim.raft.timeline import MILLISECOND, SECOND
from tests.sim.raft.world import World

NEW_NODES_MAX = 3
FINISH_S = 15
UNDER_CUTS_S = 6  # 40 election timeouts
SECOND_SHARE = 0.3  # of the changes have another one beside them


@dataclass(frozen=True, slots=True)
class Step:
    """A change to be asked for until its outcome is known."""

    change: MembershipChange
    must: bool = False  # and until it is made


class Operator:
    """Acts every now and then until the run makes peace, then finishes what must be finished."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.done: Counter[str] = Counter()
        self._steps: deque[Step] = deque()
        self._wishes: list[Wish] = []
        self._asks: Counter[MembershipChange] = Counter()
        self._refusals: set[MembershipChange] = set()
        self._rests = False
        self._is_cut = False  # only the leader is sure to be heard
        self._added = self._moves = 0
        self._every_ms = self.rng.choice([50, 200, 600])
        self._later()

    def _later(self) -> None:
        self.world.after(1, 2 * self._every_ms, self._act)

    def _act(self) -> None:
        self._look_at_answers()
        self._renew_disks()
        if not self._wishes and self.world.logs.voters:
            if self._steps:
                self._ask()
            elif not self._rests:
                self._plan()
        self._later()

    # --- what to do ---

    def _plan(self) -> None:
        world, rng = self.world, self.rng
        members, voters = sorted(world.logs.members), sorted(world.logs.voters)
        learners = [node_id for node_id in members if node_id not in voters]
        kind = rng.choice(["add", "add learner", "remove", "demote", "promote", "replace", "move"])
        whom = rng.choice(members)
        if kind in ("add", "add learner"):
            if self._added < NEW_NODES_MAX:
                self._begin(kind, self._addition(Role.VOTER if kind == "add" else Role.LEARNER))
        elif kind == "promote" and learners:
            self._begin(kind, PromoteMember(rng.choice(learners)))
        elif kind == "move":
            self._begin(kind, self._move(whom), must=True)
        elif len(voters) < 3:
            return  # what follows takes a vote away
        elif kind == "remove" and len(members) > 3:
            self._begin(kind, RemoveMember(whom))
        elif kind == "demote":
            self._begin(kind, DemoteMember(rng.choice(voters)))
        elif kind == "replace" and self._can_be_spared(whom):
            self._wipe(whom)
            again = AddMember(whom, world.nodes[whom].address, Role.VOTER)
            self._begin(kind, RemoveMember(whom), again, must=True)

    def _begin(self, kind: str, *changes: MembershipChange, must: bool = False) -> None:
        self.world.say("operator:", kind, *changes)
        self.done[f"members: {kind}"] += 1
        self._steps.extend(Step(change, must) for change in changes)

    def _addition(self, role: Role) -> AddMember:
        self._added += 1
        return AddMember(self.world.join(), "", role)

    def _move(self, node_id: str) -> MoveMember:
        """It is stopped, and started where nobody looks for it: it has to call the others."""
        self._moves += 1
        self.world.kill(node_id)
        node = self.world.nodes[node_id]
        node.address = f"{node_id} at place {self._moves}"
        self.world.after(5, 200, lambda: self.world.start(node_id))
        return MoveMember(node_id, node.address)

    def _second(self, first: Step) -> MembershipChange | None:
        """What somebody else asks for meanwhile."""
        members, voters = sorted(self.world.logs.members), sorted(self.world.logs.voters)
        learners = [node_id for node_id in members if node_id not in voters]
        kind = self.rng.choice(["the same", "add learner", "promote", "demote", "stay"])
        if kind == "the same":
            return first.change
        if kind == "add learner" and self._added < NEW_NODES_MAX:
            return self._addition(Role.LEARNER)
        if kind == "promote" and learners:
            return PromoteMember(self.rng.choice(learners))
        if kind == "demote" and len(voters) > 3 and not first.must:
            return DemoteMember(self.rng.choice(voters))
        if kind == "stay":
            whom = self.rng.choice(members)
            return MoveMember(whom, self.world.nodes[whom].address)
        return None

    def _can_be_spared(self, node_id: str) -> bool:
        """Without its disk a majority of the voters is still bound to theirs. In a group's first moments some
        are not, and who was never bound has no vote to give to a log that does not know it."""
        up = [node.member for node in self.world.nodes.values() if node.is_up]
        if not up:
            return False
        known = max(up, key=lambda member: member.commit_index)._committed_configuration()
        bound = [member.node_id for member in known.members if member.role is Role.VOTER and member.disk_id]
        return bool(len(set(bound) - {node_id}) >= known.majority)

    def _wipe(self, node_id: str) -> None:
        """Blank nodes may elect one another. So long as another one may be blank, a new disk joins."""
        others = [node for node in self.world.nodes.values() if node.node_id != node_id]
        blank = any(node.member is None or node.member._is_blank() for node in others)
        self.world.wipe(node_id, as_new=blank or self.rng.random() < 0.5)

    def _renew_disks(self) -> None:
        """A member that stopped for good because its disk was removed comes back with another."""
        for node_id in sorted(self.world.logs.members):
            if self.world.nodes[node_id].gone:
                self.done["members: another disk"] += 1
                self.world.wipe(node_id, as_new=True)

    # --- asking for it ---

    def _ask(self) -> None:
        world = self.world
        awake = [node_id for node_id in sorted(world.logs.members) if world.nodes[node_id].is_awake]
        if self._is_cut:
            awake = [node_id for node_id in awake if node_id == world.leader()]
        if not awake:
            return
        first = self._steps[0]
        self._wish(first.change, awake)
        second = self._second(first) if not self._rests and self.rng.random() < SECOND_SHARE else None
        if second is not None:
            world.say("operator: at the same time", second)
            self.done["members: two at once"] += 1
            self._wish(second, awake, beside=second != first.change)

    def _wish(self, change: MembershipChange, awake: list[str], *, beside: bool = False) -> None:
        self._asks[change] += 1
        self._wishes.append(self.world.change(self.rng.choice(awake), change, 1.0, beside=beside))

    def _look_at_answers(self) -> None:
        for wish in [wish for wish in self._wishes if not wish.is_open]:
            self._wishes.remove(wish)
            answer = wish.answers[0] if wish.answers else None
            self.world.say("operator:", wish.change, answer)
            if isinstance(answer, tuple):
                self._believe(wish.change, answer)
            elif isinstance(answer, ChangeRefused):
                self._refused(wish.change)
            elif wish.beside:
                self._steps.append(Step(wish.change))  # it may be made yet

    def _believe(self, change: MembershipChange, members: tuple[Member, ...]) -> None:
        """What is said to be made is committed, and is what was asked for."""
        if not _shows(members, change) or members not in self.world.logs.groups:
            raise Violation(f"told that {change} is done, with {members}")
        self.done["members: changes committed"] += 1
        self._end(change)

    def _refused(self, change: MembershipChange) -> None:
        self.done["members: changes refused"] += 1
        self._refusals.add(change)
        step = self._steps[0] if self._steps else None
        is_member = change.node_id in self.world.logs.members
        # Without a member there is nothing to do: an earlier try, whose end nobody knew, has removed it.
        if step is None or not step.must or not (is_member or isinstance(change, AddMember)):
            self._end(change)

    def _end(self, change: MembershipChange) -> None:
        if self._steps and self._steps[0].change == change:
            self._steps.popleft()

    # --- under cuts ---

    def change_under_cuts(self, outside: Set[str]) -> None:
        """A change that the majority which is whole can make without the others, and so has to answer."""
        self._is_cut, members = True, self.world.logs.members
        kind = self.rng.choice(["add learner", "demote", "remove"])
        whom = sorted(outside & members)
        if kind == "add learner" or not whom:
            self._begin("under cuts", self._addition(Role.LEARNER), must=True)
        else:
            change = DemoteMember if kind == "demote" else RemoveMember
            self._begin("under cuts", change(self.rng.choice(whom)))
        deadline = self.world.now_us + UNDER_CUTS_S * SECOND
        while self._steps or self._wishes:
            if self.world.now_us >= deadline:
                raise Violation(f"{UNDER_CUTS_S} s with a whole majority, and {list(self._steps)} is open")
            self.world.run_until(self.world.now_us + 20 * MILLISECOND)
        self._is_cut = False

    # --- the end ---

    def finish(self) -> None:
        """What was begun is brought to its end, now that nothing is in the way."""
        world = self.world
        self._rests = True
        self._every_ms = 50
        deadline = world.now_us + FINISH_S * SECOND
        calm_since = world.now_us
        while world.now_us < calm_since + SECOND:  # promotions, and news for those who were removed
            world.run_until(world.now_us + 20 * MILLISECOND)
            if self._steps or self._wishes or self._lacks_disks() or not self._is_known_to_all():
                calm_since = world.now_us
            if world.now_us >= deadline:
                raise Violation(f"{FINISH_S} s of peace, and this is not done: {list(self._steps)}")

    def _lacks_disks(self) -> bool:
        return any(self.world.nodes[node_id].gone for node_id in self.world.logs.members)

    def _is_known_to_all(self) -> bool:
        """Every member knows who the members are."""
        nodes = [self.world.nodes[node_id] for node_id in self.world.logs.members]
        return len({node.member.members if node.is_up else None for node in nodes}) <= 1

    def close(self) -> None:
        """At the end: where the members are is known, and what was refused was never made."""
        logs = self.world.logs
        for member in logs.group:
            if member.address != self.world.nodes[member.node_id].address:
                raise Violation(f"{member} is at {self.world.nodes[member.node_id].address!r}")
        ever = {member.node_id for group in logs.groups for member in group}
        for change in self._refusals:
            # A new node that was asked for once: nothing else could have added it.
            if isinstance(change, AddMember) and self._asks[change] == 1 and change.node_id in ever:
                raise Violation(f"told that {change} is refused, and it was made")


def _shows(members: tuple[Member, ...], change: MembershipChange) -> bool:
    """The change holds in this group."""
    found = next((member for member in members if member.node_id == change.node_id), None)
    match change:
        case AddMember(_, address) | MoveMember(_, address):
            return found is not None and found.address == address
        case DemoteMember():
            return found is not None and found.role is Role.LEARNER
        case PromoteMember():
            return found is not None and found.role is Role.VOTER
        case RemoveMember():
            return found is None
