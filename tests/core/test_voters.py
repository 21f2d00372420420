"""Who should vote: each answer, and that following them comes to an end with nobody worse off."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coterie.core.ports import DemoteMember, Member, PromoteMember, Role
from coterie.core.voters import Health, VoterPolicy, next_change

POLICY = VoterPolicy(voters_max=5, replace_after_s=60)


def group(voters: str, runners: str = "") -> tuple[Member, ...]:
    """One member for each letter."""
    made = [Member(name, "", Role.VOTER, "d") for name in voters]
    return tuple(made + [Member(name, "", Role.LEARNER, "d") for name in runners])


def health(members: tuple[Member, ...], **down_s: float) -> dict[str, Health]:
    return {m.node_id: Health(up=m.node_id not in down_s, down_s=down_s.get(m.node_id, 0.0)) for m in members}


@pytest.mark.parametrize(
    ("voters", "runners", "down_s", "wanted"),
    [
        ("abc", "", {}, None),
        ("abcd", "", {}, None),  # warned about, but nobody is demoted who is well
        ("abc", "r", {}, None),  # odd is good
        ("abcd", "r", {}, PromoteMember("r")),
        ("ab", "r", {}, PromoteMember("r")),
        ("ab", "r", {"r": 1}, None),
        ("abcdef", "", {}, DemoteMember("f")),
        ("abcdef", "", {"c": 1}, DemoteMember("c")),
        ("abcdef", "", {"c": 1, "d": 99}, DemoteMember("d")),
        ("abc", "r", {"b": 59}, None),
        ("abc", "r", {"b": 61}, PromoteMember("r")),  # first its place is taken
        ("abcr", "", {"b": 61}, DemoteMember("b")),  # then it goes
        ("abc", "", {"b": 61}, None),  # nobody could take its place
        ("abcde", "r", {"b": 61}, PromoteMember("r")),  # above the limit for a moment
        ("abcder", "", {"b": 61}, DemoteMember("b")),
        ("a", "", {}, None),
        ("ab", "", {"b": 61}, DemoteMember("b")),
    ],
)
def test_what_is_changed_next(voters: str, runners: str, down_s: dict[str, float], wanted: object) -> None:
    members = group(voters, runners)
    assert next_change("a", members, health(members, **down_s), POLICY) == wanted


def test_a_voter_is_never_replaced_when_the_configuration_says_so() -> None:
    members = group("abc", "r")
    known = health(members, b=1e9)
    assert next_change("a", members, known, VoterPolicy(5, 0.0)) is None


def test_the_leader_is_not_demoted() -> None:
    members = group("abcdef")
    assert next_change("f", members, health(members), POLICY) == DemoteMember("e")


def test_a_runner_without_a_disk_or_about_to_leave_is_not_promoted() -> None:
    members = group("ab", "r")
    leaving = {**health(members), "r": Health(up=True, leaving=True)}
    assert next_change("a", members, leaving, POLICY) is None
    unbound = (*members[:2], replace(members[2], disk_id=""))
    assert next_change("a", unbound, health(unbound), POLICY) is None


@pytest.mark.parametrize("seed", range(200))
def test_changes_come_to_an_end_and_cost_no_spare_voter(seed: int) -> None:
    dice = random.Random(seed)
    names = [f"n{number}" for number in range(dice.randint(1, 9))]
    members = tuple(
        Member(name, "", Role.VOTER if name == "n0" else dice.choice(list(Role)), "d") for name in names
    )
    down = {name: 99.0 for name in names[1:] if dice.random() < 0.4}
    policy = VoterPolicy(dice.randint(1, 7), 60)

    def spare(of: tuple[Member, ...]) -> int:
        """How many more voters may be lost."""
        voters = [member.node_id for member in of if member.role is Role.VOTER]
        return sum(voter not in down for voter in voters) - (len(voters) // 2 + 1)

    for _ in range(40):
        change = next_change("n0", members, health(members, **down), policy)
        if change is None:
            break
        role = Role.VOTER if isinstance(change, PromoteMember) else Role.LEARNER
        voters, before = sum(member.role is Role.VOTER for member in members), spare(members)
        members = tuple(replace(m, role=role) if m.node_id == change.node_id else m for m in members)
        if voters <= policy.voters_max:
            assert spare(members) >= before
    else:
        pytest.fail("it goes round in circles")
    assert sum(member.role is Role.VOTER for member in members) <= max(policy.voters_max, 1)
