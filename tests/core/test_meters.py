"""Limits on calls: slices leased to nodes never add up to more than the limit, whatever dies."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coterie.core.canonical import state_hash
from coterie.core.commands import Accepted, DeleteLimit, Rejected, SetLimit
from coterie.core.limits import Profile
from coterie.core.machine import apply
from coterie.core.meters import MERGE, SLICES_MAX, LeaseTokens, SettleTokens, lease_ms, meter_name
from coterie.core.quotas import Limit
from coterie.core.state import Moment
from coterie.raft import codec
from tests.core.builders import CoreCluster, submit_command

LIMIT = Limit("api", rate_count=20, rate_period_ms=10_000, calls=True)
METER = "api\0"


def with_limit(limit: Limit = LIMIT) -> CoreCluster:
    core = CoreCluster()
    assert core.do(SetLimit(limit)) == Accepted()
    return core


def lease(core: CoreCluster, lease_id: str, count: int, minimum: int = 1, **profile: str) -> int:
    """How many tokens were given; 0: none."""
    outcome = core.do(LeaseTokens("api", lease_id, count, minimum, **profile))
    if isinstance(outcome, Rejected):
        assert outcome.code == "RATE_LIMITED"
        return 0
    return next(
        one.count for meter in core.state.meters.values() for one in meter.slices if one.lease_id == lease_id
    )


def test_a_slice_is_no_more_than_a_share_unless_one_call_needs_more() -> None:
    core = with_limit()
    assert lease(core, "a", 100) == 5
    assert lease(core, "b", 9, minimum=9) == 9
    assert lease(core, "c", 3) == 3
    assert lease(core, "d", 100) == 3, "what is left"
    assert lease(core, "e", 1) == 0


def test_a_refusal_says_when_there_will_be_enough() -> None:
    core = with_limit()
    for number in range(4):
        assert lease(core, f"l{number}", 5) == 5
    refused = core.do(LeaseTokens("api", "late", 1))
    first = core.state.meters[METER].slices[0]
    assert isinstance(refused, Rejected)
    assert refused.retry_at_ms == first.until_ms + LIMIT.rate_period_ms
    core.now_ms = refused.retry_at_ms - 2
    assert lease(core, "late", 1) == 0
    assert lease(core, "late", 1) == 1


def test_what_was_not_spent_is_free_again_and_what_was_counts_from_then_on() -> None:
    core = with_limit()
    assert lease(core, "a", 5) == 5
    assert core.do(SettleTokens(METER, "a", 2)) == Accepted()
    [one] = core.state.meters[METER].slices
    assert (one.lease_id, one.count, one.until_ms) == ("", 2, core.now_ms)
    assert core.do(SettleTokens(METER, "a", 0)) == Accepted(duplicate=True), "once"
    assert sum(lease(core, f"n{n}", 5) for n in range(5)) == 18


def test_the_same_lease_proposed_twice_is_taken_once() -> None:
    core = with_limit()
    lease(core, "a", 5)
    assert core.do(LeaseTokens("api", "a", 5)) == Accepted(duplicate=True)
    assert len(core.state.meters[METER].slices) == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (LeaseTokens("none", "a", 1), "LIMIT_NOT_FOUND"),
        (LeaseTokens("api", "", 1), "BAD_LIMIT"),
        (LeaseTokens("api", "a", 1, 2), "BAD_LIMIT"),
        (LeaseTokens("api", "a", 30, 21), "BAD_LIMIT"),
        (LeaseTokens("api", "a", 0, 0), "BAD_LIMIT"),
    ],
    ids=str,
)
def test_a_lease_that_makes_no_sense_is_refused(command: LeaseTokens, code: str) -> None:
    outcome = with_limit().do(command)
    assert isinstance(outcome, Rejected) and outcome.code == code


def test_a_limit_on_calls_has_a_rate_only_and_counts_no_tasks() -> None:
    for limit in (Limit("api", concurrent=1, calls=True), Limit("api", "", "", "", "", 0, 9, 1_000, 3, True)):
        refused = CoreCluster().do(SetLimit(limit))
        assert isinstance(refused, Rejected) and refused.code == "BAD_LIMIT"
    core = with_limit(Limit("api", rate_count=1, rate_period_ms=60_000, calls=True)).with_node()
    for number in range(3):
        core.running(f"t{number}")
    assert not core.state.meters and not core.state.buckets


def test_each_value_has_a_meter_of_its_own_and_a_lifted_limit_has_none() -> None:
    core = with_limit(Limit("api", tenant="*", rate_count=4, rate_period_ms=10_000, calls=True))
    assert [lease(core, f"{who}{n}", 4, 4, tenant=who) for who in "ab" for n in range(2)] == [4, 0, 4, 0]
    core.do(DeleteLimit("api"))
    assert not core.state.meters


def test_meters_are_forgotten_when_nothing_counts_any_more() -> None:
    core = with_limit(Limit("api", key="*", rate_count=4, rate_period_ms=1_000, calls=True))
    for number in range(2_000):
        core.now_ms += 10
        lease(core, f"l{number}", 1, key=f"k{number}")
    assert len(core.state.meters) < 400


def test_the_state_of_a_meter_stays_small() -> None:
    core = with_limit(Limit("api", rate_count=100_000, rate_period_ms=10_000, calls=True))
    for number in range(5_000):
        core.now_ms += 3
        if lease(core, f"l{number}", 1):
            core.do(SettleTokens(METER, f"l{number}", 1))
    assert len(core.state.meters[METER].slices) <= MERGE + 2
    for number in range(SLICES_MAX):
        lease(core, f"o{number}", 1)
    assert len(core.state.meters[METER].slices) <= SLICES_MAX


@dataclass
class Holder:
    """A node as the law sees it: it leases, spends while the lease lasts, settles, or dies."""

    name: str
    dice: Random
    lease_id: str = ""
    left: int = 0
    spent: int = 0
    ends_ms: int = 0
    spends: list[tuple[int, int]] = field(default_factory=list)  # when, how many

    def act(self, core: CoreCluster, limit: Limit, number: int) -> None:
        now = core.now_ms
        if self.lease_id and now >= self.ends_ms:
            self.settle(core)
        elif self.lease_id and self.left:
            cost = self.dice.randint(1, self.left)
            self.left, self.spent = self.left - cost, self.spent + cost
            self.spends.append((now, cost))
        elif self.lease_id:
            self.settle(core)
        else:
            asked_ms, lease_id = now, f"{self.name}-{number}"
            core.now_ms += self.dice.choice((0, 0, 5, 40))  # on the way
            for _ in range(self.dice.choice((1, 1, 2))):  # the answer to the first was lost
                given = lease(core, lease_id, self.dice.randint(1, 12))
            if given and self.dice.random() < 0.9:  # else nobody ever learns of it
                self.lease_id, self.left, self.spent = lease_id, given, 0
                self.ends_ms = asked_ms + lease_ms(limit)

    def settle(self, core: CoreCluster) -> None:
        core.now_ms += self.dice.choice((0, 3, 30))
        core.do(SettleTokens(METER, self.lease_id, self.spent))
        self.lease_id = ""

    def die(self) -> None:
        self.lease_id = ""


@pytest.mark.parametrize("seed", range(60))
def test_never_above_the_limit_in_any_period_whatever_dies(seed: int) -> None:
    dice = Random(seed)
    limit = Limit(
        "api", rate_count=dice.choice((1, 7, 20, 50)), rate_period_ms=dice.choice((400, 3_000)), calls=True
    )
    core = with_limit(limit)
    nodes = [Holder(f"n{n}", dice) for n in range(3)]
    for number in range(1_500):
        core.now_ms += dice.choice((0, 1, 7, 40, lease_ms(limit) // 3))
        node = dice.choice(nodes)
        if dice.random() < 0.02:
            node.die()
        else:
            node.act(core, limit, number)
        if number % 500 == 499:  # a new leader goes on from an image
            image = codec.decode_state(codec.encode_state(core.state.copy()))
            assert state_hash(image) == state_hash(core.state)
            core.state = image
    spends = sorted(one for node in nodes for one in node.spends)
    assert sum(cost for _, cost in spends) >= limit.rate_count * 5, "somebody got something"
    for place, (begins, _) in enumerate(spends):
        inside = [cost for at, cost in spends[place:] if at < begins + limit.rate_period_ms]
        assert sum(inside) <= limit.rate_count, (seed, begins)


@given(
    rate=st.integers(16, 400),
    cost=st.integers(1, 3),
    period_ms=st.sampled_from((2_000, 60_000, 3_600_000)),
    slowness=st.floats(0, 1),
)
@example(rate=200, cost=1, period_ms=3_600_000, slowness=1.0)
@settings(max_examples=30, deadline=None)
def test_who_uses_half_of_a_limit_is_never_refused(
    rate: int, cost: int, period_ms: int, slowness: float
) -> None:
    """For five periods, evenly: also when so many slices have ended that they are kept together."""
    limit = Limit("api", rate_count=max(rate, 16 * cost), rate_period_ms=period_ms, calls=True)
    core = with_limit(limit)
    gap_ms = 2 * cost * period_ms // limit.rate_count + 1
    held_ms = int(slowness * min(gap_ms - 1, lease_ms(limit)))
    begins_ms, number = core.now_ms, 0
    while core.now_ms < begins_ms + 5 * period_ms:
        number += 1
        core.now_ms = begins_ms + number * gap_ms
        assert lease(core, f"l{number}", cost, cost) == cost, f"after {core.now_ms - begins_ms} ms"
        core.now_ms += held_ms
        core.do(SettleTokens(METER, f"l{number}", cost))


def test_ended_slices_of_one_moment_become_one_and_those_of_another_do_not() -> None:
    """However close they come after each other: nothing counts for much longer than a period."""
    limit = Limit("api", rate_count=1_000, rate_period_ms=64_000, calls=True)
    core = with_limit(limit)
    for number in range(200):
        core.now_ms = 64_000_000 + number * 100
        assert lease(core, f"l{number}", 1) == 1
        core.do(SettleTokens(METER, f"l{number}", 1))
    slices = core.state.meters[METER].slices
    assert sum(one.count for one in slices) == 200
    assert len(slices) == 20 and {one.count for one in slices} == {10}, "one for each 64th of the period"


def test_a_period_of_a_few_milliseconds_has_no_64th() -> None:
    core = with_limit(Limit("api", rate_count=5, rate_period_ms=9, calls=True))
    for number in range(3):
        assert lease(core, f"l{number}", 1) == 1
        core.do(SettleTokens(METER, f"l{number}", 1))
    assert [one.count for one in core.state.meters[METER].slices] == [1, 1, 1]


def test_names_agree() -> None:
    assert meter_name(LIMIT, Profile("t", "", "", "")) == METER
    core = with_limit()
    core.do(submit_command("t1"))
    assert apply(core.state, SettleTokens(METER, "x", 1), Moment(99, core.now_ms)) == Accepted(duplicate=True)
