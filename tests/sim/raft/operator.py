"""Who changes the members in a run: adds, removes, promotes, demotes, and puts new disks into nodes.

One thing at a time. What leaves the group with a vote less than it should have (a wiped disk) is brought to
its end, whatever it takes; the rest is given up when it is refused."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from coterie.core.ports import (
    AddMember,
    ChangeRefused,
    DemoteMember,
    MembershipChange,
    NotCommitted,
    PromoteMember,
    RemoveMember,
    Role,
)
from tests.sim.raft.checks import Violation
from tests.sim.raft.timeline import MILLISECOND, SECOND
from tests.sim.raft.world import World

NEW_NODES_MAX = 3
FINISH_S = 15


@dataclass(slots=True)
class Wish:
    """A change that was asked for, and what was said about it."""

    change: MembershipChange
    node: str
    process: Any
    answers: list[Any]


class Operator:
    """Acts every now and then until the run makes peace, then finishes what must be finished."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.done: Counter[str] = Counter()
        self._steps: deque[MembershipChange] = deque()
        self._must = False  # the steps are to be done whatever it takes
        self._wish: Wish | None = None
        self._rests = False
        self._added = 0
        self._every_ms = self.rng.choice([50, 200, 600])
        self._later()

    def _later(self) -> None:
        self.world.after(1, 2 * self._every_ms, self._act)

    def _act(self) -> None:
        self._look_at_answer()
        self._renew_disks()
        if self._wish is None and self.world.logs.voters:
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
        kind = rng.choice(["add", "add learner", "remove", "demote", "promote", "replace", "move out"])
        whom = rng.choice(members)
        if kind in ("add", "add learner"):
            if self._added < NEW_NODES_MAX:
                self._added += 1
                role = Role.VOTER if kind == "add" else Role.LEARNER
                self._begin(kind, AddMember(world.join(), "", role))
        elif kind == "promote" and learners:
            self._begin(kind, PromoteMember(rng.choice(learners)))
        elif len(voters) < 3:
            return  # what follows takes a vote away
        elif kind == "remove" and len(members) > 3:
            self._begin(kind, RemoveMember(whom))
        elif kind == "demote":
            self._begin(kind, DemoteMember(rng.choice(voters)))
        elif kind == "replace" and self._can_be_spared(whom):
            self._wipe(whom)
            self._begin(kind, RemoveMember(whom), AddMember(whom, "", Role.VOTER), must=True)

    def _begin(self, kind: str, *steps: MembershipChange, must: bool = False) -> None:
        self.world.say("operator:", kind, *steps)
        self.done[f"members: {kind}"] += 1
        self._steps.extend(steps)
        self._must = must

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
        awake = [n for n in sorted(self.world.logs.members) if self.world.nodes[n].is_awake]
        if not awake:
            return
        node = self.world.nodes[self.rng.choice(awake)]
        self._wish = wish = Wish(self._steps[0], node.node_id, node.member, [])
        node.member.change(wish.change, 1.0, wish.answers.append)
        self.world._kick(node)

    def _look_at_answer(self) -> None:
        wish = self._wish
        if wish is None:
            return
        if len(wish.answers) > 1:
            raise Violation(f"{wish.change} was answered more than once: {wish.answers}")
        if not wish.answers:
            if self.world.nodes[wish.node].member is not wish.process:
                self._wish = None  # nobody is left to answer
            return
        self._wish = None
        answer = wish.answers[0]
        self.world.say("operator:", wish.change, answer)
        if isinstance(answer, tuple):
            self._believe(wish.change, answer)
        elif isinstance(answer, ChangeRefused):
            self._refused(wish.change)
        elif not isinstance(answer, NotCommitted):
            raise Violation(f"{wish.change} was answered with {answer!r}")

    def _believe(self, change: MembershipChange, members: tuple[Any, ...]) -> None:
        roles = {member.node_id: member.role for member in members}
        is_true = {
            AddMember: change.node_id in roles,
            RemoveMember: change.node_id not in roles,
            DemoteMember: roles.get(change.node_id) is Role.LEARNER,
            PromoteMember: roles.get(change.node_id) is Role.VOTER,
        }
        if not is_true[type(change)]:
            raise Violation(f"told that {change} is done, with {roles}")
        self.done["members: changes committed"] += 1
        self._steps.popleft()

    def _refused(self, change: MembershipChange) -> None:
        self.done["members: changes refused"] += 1
        if not self._must:
            self._steps.clear()
        elif isinstance(change, RemoveMember) and change.node_id not in self.world.logs.members:
            self._steps.popleft()  # an earlier try, whose end nobody knew

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
            if self._steps or self._wish is not None or self._lacks_disks():
                calm_since = world.now_us
            if world.now_us >= deadline:
                raise Violation(f"{FINISH_S} s of peace, and this is not done: {list(self._steps)}")

    def _lacks_disks(self) -> bool:
        return any(self.world.nodes[node_id].gone for node_id in self.world.logs.members)
