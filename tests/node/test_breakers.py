"""Breakers of the node's own calls: what it counts, when it asks the cluster, what it passes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from coterie.core.breakers import BreakerState
from coterie.core.commands import Command, ConfigureCluster, Outcome
from coterie.core.nouns import Policy
from coterie.core.ports import NotCommitted
from coterie.node.breakers import BreakerLog, Breakers, CircuitOpen
from coterie.node.clock import Clock
from tests.core.builders import CoreCluster

KEY = "provider:acme"
POLICY = Policy(breaker_failures=3, breaker_recovery_ms=1_000, breaker_probes=2)


class FakeClock(Clock):
    def __init__(self, core: CoreCluster) -> None:
        self.core = core

    def now_ms(self) -> int:
        return self.core.now_ms

    def monotonic(self) -> float:
        return self.core.now_ms / 1000

    def dice(self) -> int:
        return 0


class FakeProposer:
    """Applies at once, counts, and can lose its majority."""

    def __init__(self, core: CoreCluster) -> None:
        self.core, self.proposed, self.cut_off = core, [], False  # type: tuple[CoreCluster, list[Command], bool]

    async def one(self, command: Command, timeout_s: float) -> Outcome:
        if self.cut_off:
            raise NotCommitted("no majority")
        self.proposed.append(command)
        return self.core.do(command)


class Bench:
    def __init__(self) -> None:
        self.core = CoreCluster()
        self.core.do(ConfigureCluster("c1", "test", POLICY))
        self.proposer = FakeProposer(self.core)
        self.node, self.other = self.made(), self.made()

    def made(self) -> Breakers:
        proposer: Any = self.proposer
        return Breakers(lambda: self.core.state, proposer, FakeClock(self.core))

    async def fail(self, times: int, node: Breakers | None = None) -> None:
        for _ in range(times):
            await (await (node or self.node).allow(KEY)).failed("503")

    def half_open(self) -> None:
        self.core.now_ms = self.core.state.breakers[KEY].until_ms


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def outcomes(permits: Sequence[Any]) -> None:
    for permit in permits:
        await permit.passed()


async def test_calls_through_a_closed_breaker_commit_nothing(bench: Bench) -> None:
    await bench.fail(2)
    for _ in range(10):
        await (await bench.node.allow(KEY)).passed()
    await bench.fail(2)
    assert bench.proposer.proposed == [] and bench.core.state.breakers == {}


async def test_one_node_opens_it_for_all(bench: Bench) -> None:
    await bench.fail(3)
    with pytest.raises(CircuitOpen, match="503") as refused:
        await bench.other.allow(KEY)
    assert refused.value.retry_after_ms == 1_000
    assert "3 of 3 calls failed" in bench.core.state.breakers[KEY].reason


async def test_failures_of_another_minute_do_not_add_up(bench: Bench) -> None:
    await bench.fail(2)
    bench.core.now_ms += 60_001
    await bench.fail(2)
    assert bench.core.state.breakers == {}


async def test_only_so_many_probes_pass_and_their_success_closes_it(bench: Bench) -> None:
    await bench.fail(3)
    bench.half_open()
    first, second = await bench.node.allow(KEY), await bench.other.allow(KEY)
    with pytest.raises(CircuitOpen, match="on their way"):
        await bench.node.allow(KEY)
    await second.unused()
    third = await bench.node.allow(KEY)
    await outcomes([first, third])
    assert bench.core.state.breakers[KEY].state is BreakerState.CLOSED
    assert (await bench.node.allow(KEY)).probe_id == ""


async def test_a_failed_probe_opens_it_again(bench: Bench) -> None:
    await bench.fail(3)
    bench.half_open()
    await bench.fail(1)
    assert bench.core.state.breakers[KEY].opened == 2
    with pytest.raises(CircuitOpen):
        await bench.node.allow(KEY)


async def test_what_began_before_the_last_change_does_not_count(bench: Bench) -> None:
    late = [await bench.other.allow(KEY) for _ in range(3)]
    await bench.fail(3)
    bench.half_open()
    await outcomes([await bench.node.allow(KEY), await bench.node.allow(KEY)])
    for permit in late:
        await permit.failed("time-out")
    assert bench.core.state.breakers[KEY].state is BreakerState.CLOSED


async def test_without_a_majority_calls_go_on_and_probes_do_not(bench: Bench) -> None:
    bench.proposer.cut_off = True
    await bench.fail(5)
    bench.proposer.cut_off = False
    assert bench.core.state.breakers == {}
    await bench.fail(1)  # says what could not be said before
    bench.half_open()
    bench.proposer.cut_off = True
    with pytest.raises(NotCommitted):
        await bench.node.allow(KEY)


async def test_each_transition_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    told = BreakerLog()
    await bench.fail(3)
    with caplog.at_level("INFO"):
        for _ in range(2):
            told.look(bench.core.state.breakers)
        bench.half_open()
        await outcomes([await bench.node.allow(KEY), await bench.node.allow(KEY)])
        for _ in range(2):
            told.look(bench.core.state.breakers)
    assert [record.message for record in caplog.records] == ["breaker opened", "breaker closed"]
