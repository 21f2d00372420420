"""Spending under limits on calls: this node's slices, handed out here without a commit for each call.

See coterie.core.meters for why that never exceeds a limit. A slice is spent for as long as its lease lasts,
counted from before it was asked for, so that this node stops before the cluster counts on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import grpc

from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.limits import EACH, Profile
from coterie.core.meters import LeaseTokens, SettleTokens, lease_ms, meter_name
from coterie.core.ports import NotCommitted
from coterie.core.quotas import Limit
from coterie.core.state import ClusterState
from coterie.node.clock import Clock, LogTime
from coterie.node.errors import ApiError, from_rejection, not_found
from coterie.node.proposer import Proposer
from coterie.node.security.principal import caller

PROPOSE_S: Final = 10.0
CLOSE_S: Final = 0.5
SIZE_MAX: Final = 1 << 20
WELL_USED, HARDLY_USED = 0.8, 0.5  # of a slice: the next one is twice as large, or half


class Want(NamedTuple):
    """Tokens of a limit, for whom."""

    limit_id: str
    profile: Profile
    cost: int = 1


@dataclass(slots=True)
class Purse:
    """What this node has of one meter."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # first come, first served
    lease_id: str = ""
    size: int = 0
    left: int = 0
    ends_at: float = 0.0  # on the monotonic clock
    next_size: int = 1
    wanted: int = 0  # by those who wait
    retry_at_ms: int = 0  # when the limit, as it seems, has something again
    sleeps_until: float = 0.0  # who is first waits for that, on the monotonic clock

    def pay(self, cost: int, now: float) -> bool:
        """Hand out tokens, if they are there and still good."""
        if not self.lease_id or now >= self.ends_at or cost > self.left:
            return False
        self.left -= cost
        return True

    def close(self) -> int:
        """The lease is over; returns how many tokens were spent of it, and learns from that."""
        spent = self.size - self.left
        if spent >= WELL_USED * self.size:
            self.next_size = min(SIZE_MAX, 2 * self.size)
        elif spent < HARDLY_USED * self.size:
            self.next_size = max(1, self.size // 2)
        self.lease_id, self.size, self.left = "", 0, 0
        return spent


class Meters:
    """The purses of this node."""

    def __init__(self, state: Callable[[], ClusterState], proposer: Proposer, clock: Clock) -> None:
        self._state, self._proposer, self._clock = state, proposer, clock
        self._time = LogTime(clock, lambda: state().meta.clock_ms)
        self._purses: dict[str, Purse] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def take(self, want: Want, wait_s: float) -> None:
        """Returns when the tokens are taken. Raises ApiError RATE_LIMITED, with the time after which they may
        be there, when that is later than `wait_s` allows; LIMIT_NOT_FOUND; BAD_LIMIT; NotCommitted."""
        limit, name = self._meter(want)
        purse = self._purses.setdefault(name, Purse())
        if not purse.lock.locked() and purse.pay(want.cost, self._clock.monotonic()):
            return
        end = self._clock.monotonic() + wait_s
        if purse.lock.locked() and purse.sleeps_until > end:
            raise self._used_up(want, purse)
        purse.wanted += want.cost
        try:
            async with asyncio.timeout(wait_s + PROPOSE_S), purse.lock:
                await self._take(purse, name, limit, want, end)
        except TimeoutError:
            raise self._used_up(want, purse) from None
        finally:
            purse.wanted -= want.cost
            if not purse.lease_id and not purse.lock.locked() and self._purses.get(name) is purse:
                del self._purses[name]

    def _used_up(self, want: Want, purse: Purse) -> ApiError:
        text = f"limit {want.limit_id} is used up"
        return from_rejection(Rejected("RATE_LIMITED", text, purse.retry_at_ms), self._time.now_ms())

    def _meter(self, want: Want) -> tuple[Limit, str]:
        limit = self._state().limits.get(want.limit_id)
        if limit is None or not limit.calls or not _shown(limit):
            raise not_found("LIMIT", want.limit_id)
        name = meter_name(limit, want.profile)
        if name is None:
            text = f"limit {limit.limit_id} does not count that: its tenant, agent, type or key is another"
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "BAD_LIMIT", text)
        return limit, name

    async def _take(self, purse: Purse, name: str, limit: Limit, want: Want, end: float) -> None:
        while not purse.pay(want.cost, self._clock.monotonic()):
            outcome = await self._lease(purse, name, limit, want)
            if isinstance(outcome, Accepted):
                continue
            now_ms = self._time.now_ms()
            purse.retry_at_ms = outcome.retry_at_ms
            pause_s = max(0.005, (outcome.retry_at_ms - now_ms) / 1000)
            if outcome.code != "RATE_LIMITED" or self._clock.monotonic() + pause_s > end:
                raise from_rejection(outcome, now_ms)
            purse.sleeps_until = self._clock.monotonic() + pause_s
            await asyncio.sleep(pause_s)

    async def _lease(self, purse: Purse, name: str, limit: Limit, want: Want) -> Outcome:
        """A new slice instead of the one there is, of which nothing is spent from here on."""
        lease_id, count = self._clock.new_id(), max(purse.next_size, purse.wanted, want.cost)
        lease = LeaseTokens(limit.limit_id, lease_id, min(count, SIZE_MAX), want.cost, *want.profile)
        old = [SettleTokens(name, purse.lease_id, purse.close())] if purse.lease_id else []
        asked_at = self._clock.monotonic()
        outcome = (await self._proposer.propose([*old, lease], PROPOSE_S))[-1]
        meter = self._state().meters.get(name)
        given = next((one.count for one in meter.slices if one.lease_id == lease_id), 0) if meter else 0
        if isinstance(outcome, Accepted) and given:
            purse.lease_id, purse.size, purse.left = lease_id, given, given
            purse.ends_at = asked_at + lease_ms(limit) / 1000
            left_s = max(0.0, purse.ends_at - self._clock.monotonic())
            asyncio.get_running_loop().call_later(left_s, self._ended, name, lease_id)
        return outcome

    def _ended(self, name: str, lease_id: str) -> None:
        """The lease of a slice has run out: unless another one took its place, it is given back."""
        purse = self._purses.get(name)
        if purse is None or purse.lease_id != lease_id:
            return
        if not purse.lock.locked():
            del self._purses[name]
        command = SettleTokens(name, lease_id, purse.close())
        task = asyncio.get_running_loop().create_task(self._settle(command, PROPOSE_S), name="settle")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _settle(self, command: SettleTokens, timeout_s: float) -> None:
        """What is not given back is free again anyhow, a little later."""
        try:
            await self._proposer.one(command, timeout_s)
        except NotCommitted:
            return

    async def close(self) -> None:
        """Give back what this node has, as far as that goes quickly."""
        held = [(name, purse) for name, purse in self._purses.items() if purse.lease_id]
        commands = [SettleTokens(name, purse.lease_id, purse.close()) for name, purse in held]
        await asyncio.gather(*(self._settle(command, CLOSE_S) for command in commands), *self._ending)


def _shown(limit: Limit) -> bool:
    """Whether the caller may know of it."""
    return limit.tenant in ("", EACH) or caller().sees(limit.tenant)
