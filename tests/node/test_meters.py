"""Tokens of limits on calls, as nodes spend them: few commits, and never above the limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import grpc
import pytest

from coterie.core.commands import Command, Outcome, SetLimit
from coterie.core.limits import Profile
from coterie.core.machine import apply
from coterie.core.meters import LeaseTokens
from coterie.core.ports import NotCommitted
from coterie.core.quotas import Limit
from coterie.core.state import ClusterState, Moment
from coterie.node.clock import Clock
from coterie.node.errors import ApiError
from coterie.node.meters import Meters, Purse, Want
from coterie.node.security.principal import NOBODY, Principal, enter

ANYBODY = Profile("default", "", "echo", "")


class Log:
    """One state for several nodes; a proposal takes a moment, and may get lost, or its answer."""

    def __init__(self, seed: int = 0, losses: float = 0.0) -> None:
        self.state = ClusterState()
        self.dice, self.losses = Random(seed), losses
        self.index = self.leases = 0

    def do(self, command: Command) -> Outcome:
        self.index += 1
        self.leases += isinstance(command, LeaseTokens)
        return apply(self.state, command, Moment(self.index, time.time_ns() // 1_000_000))

    async def propose(self, commands: Sequence[Command], timeout_s: float) -> list[Outcome]:
        await asyncio.sleep(self.dice.random() * 0.004)
        lost = self.dice.random()
        if lost < self.losses / 2:
            raise NotCommitted("lost")
        outcomes = [self.do(command) for command in commands]
        await asyncio.sleep(self.dice.random() * 0.004)
        if lost < self.losses:
            raise NotCommitted("its answer was lost")
        return outcomes

    async def one(self, command: Command, timeout_s: float) -> Outcome:
        return (await self.propose([command], timeout_s))[0]

    def node(self) -> Meters:
        proposer: Any = self
        return Meters(lambda: self.state, proposer, Clock())


def limited(count: int = 20, period_ms: int = 60_000, **changes: Any) -> Log:
    log = Log()
    log.do(SetLimit(Limit("api", rate_count=count, rate_period_ms=period_ms, calls=True, **changes)))
    return log


def test_a_purse_pays_while_its_lease_lasts() -> None:
    purse = Purse(lease_id="x", size=3, left=3, ends_at=10.0)
    assert purse.pay(2, 9.99) and not purse.pay(1, 10.0) and not purse.pay(2, 9.99)
    assert purse.close() == 2 and not purse.pay(1, 0.0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody rings a bell
        await asyncio.sleep(0.005)


async def refusal(meters: Meters, want: Want, wait_s: float = 0.0) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await meters.take(want, wait_s)
    return caught.value


async def test_many_calls_cost_few_commits() -> None:
    log = limited(10_000)
    node = log.node()
    for _ in range(2_000):
        await node.take(Want("api", ANYBODY), 1.0)
    assert log.leases < 60


async def test_calls_that_wait_together_share_a_slice() -> None:
    log = limited(400)
    node = log.node()
    await asyncio.gather(*(node.take(Want("api", ANYBODY), 1.0) for _ in range(100)))
    assert log.leases <= 4


async def test_beyond_the_limit_a_call_is_told_when_to_come_again() -> None:
    node = limited(4).node()
    for _ in range(4):
        await node.take(Want("api", ANYBODY), 0.0)
    error = await refusal(node, Want("api", ANYBODY), 0.05)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert error.retry_after_ms is not None and 0 < error.retry_after_ms <= 66_000


async def test_a_call_waits_as_long_as_it_may() -> None:
    log = limited(2, 300)
    node = log.node()
    for _ in range(5):
        await node.take(Want("api", ANYBODY), 20.0)
    assert log.leases >= 3


async def test_who_may_not_wait_is_not_kept_behind_one_that_does() -> None:
    node = limited(1).node()
    await node.take(Want("api", ANYBODY), 0.0)
    patient = asyncio.ensure_future(node.take(Want("api", ANYBODY), 3_600.0))
    await until(lambda: any(purse.sleeps_until for purse in node._purses.values()))
    assert (await refusal(node, Want("api", ANYBODY))).reason == "RATE_LIMITED"
    patient.cancel()
    await asyncio.gather(patient, return_exceptions=True)


async def test_what_a_node_does_not_use_goes_back() -> None:
    log = limited(40)
    first, second = log.node(), log.node()
    await first.take(Want("api", ANYBODY, 10), 0.0)
    await first.take(Want("api", ANYBODY, 1), 0.0)
    await first.close()
    slices = log.state.meters["api\0"].slices
    assert sum(one.count for one in slices) == 11 and not any(one.lease_id for one in slices)
    await second.take(Want("api", ANYBODY, 29), 0.0)
    assert (await refusal(second, Want("api", ANYBODY))).reason == "RATE_LIMITED"


async def test_a_lease_that_has_run_out_is_given_back_by_itself() -> None:
    log = limited(40, 1_000)
    node = log.node()
    await node.take(Want("api", ANYBODY, 3), 0.0)
    await until(lambda: not any(one.lease_id for one in log.state.meters["api\0"].slices))
    assert [one.count for one in log.state.meters["api\0"].slices] == [3]
    assert not node._purses


@pytest.mark.parametrize(
    ("want", "reason"),
    [
        (Want("other", ANYBODY), "LIMIT_NOT_FOUND"),
        (Want("starts", ANYBODY), "LIMIT_NOT_FOUND"),
        (Want("api", Profile("default", "", "", "")), "BAD_LIMIT"),
        (Want("api", ANYBODY, 21), "BAD_LIMIT"),
    ],
    ids=["unknown", "of starts", "does not count that", "never so many"],
)
async def test_a_call_that_can_never_be_granted_is_refused(want: Want, reason: str) -> None:
    log = limited(type="echo")
    log.do(SetLimit(Limit("starts", rate_count=1, rate_period_ms=1_000)))
    assert (await refusal(log.node(), want, 1.0)).reason == reason


async def test_the_limit_of_another_tenant_is_not_there() -> None:
    node = limited(tenant="bank").node()
    enter(Principal("x", "shop", frozenset({"submitter"})))
    assert (await refusal(node, Want("api", Profile("shop", "", "", "")))).reason == "LIMIT_NOT_FOUND"
    enter(NOBODY)
    assert (await refusal(node, Want("api", Profile("shop", "", "", "")))).reason == "BAD_LIMIT"


@pytest.mark.parametrize("seed", range(4))
async def test_three_nodes_together_stay_within_the_limit_whatever_is_lost(seed: int) -> None:
    log, period_ms = Log(seed, losses=0.2), 400
    log.do(SetLimit(Limit("api", rate_count=30, rate_period_ms=period_ms, calls=True)))
    spends: list[tuple[float, float, int]] = []  # not before, not after, how many

    begun = time.monotonic()

    def going() -> bool:
        """For some windows, and on a machine that stands meanwhile until there is something to judge."""
        passed = time.monotonic() - begun
        return passed < 2.5 or (passed < 30 and sum(cost for *_, cost in spends) <= 60)

    async def spend(node: Meters, dice: Random) -> None:
        while going():
            cost, began = dice.choice((1, 1, 2, 5)), time.monotonic()
            try:
                await node.take(Want("api", ANYBODY, cost), 0.2)
            except (ApiError, NotCommitted):
                continue
            spends.append((began, time.monotonic(), cost))
            await asyncio.sleep(dice.random() * 0.02)

    nodes = [log.node() for _ in range(3)]
    await asyncio.gather(*(spend(node, Random(f"{seed}{n}")) for n, node in enumerate(nodes * 2)))
    assert sum(cost for *_, cost in spends) > 60, "somebody got something"
    for begins, *_ in spends:
        end = begins + period_ms / 1000
        assert sum(cost for first, last, cost in spends if begins <= first and last < end) <= 30
    await asyncio.gather(*(node.close() for node in nodes))
