"""Circuit breakers for calls that this node makes, such as to the provider of a language model.

    permit = await breakers.allow("provider:acme")     raises CircuitOpen
    try:
        answer = await call()
    except Unreachable as error:
        await permit.failed(str(error))
        raise
    except BaseException:
        await permit.unused()       not the provider's fault, or never asked
        raise
    await permit.passed()

A call through a closed breaker commits nothing. Each node counts what it sees itself; the breaker that it
then opens is that of the whole cluster. Probes of a half-open one are granted by the state machine, and
closing it takes as many successes as the configuration says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc

from coterie.core.breaker_commands import EndProbe, TakeProbe, TripBreaker
from coterie.core.breakers import Breaker, BreakerState, phase, why
from coterie.core.commands import Command, Rejected
from coterie.core.outcomes import WINDOW_MS
from coterie.core.ports import NotCommitted
from coterie.core.state import ClusterState
from coterie.node.clock import Clock, LogTime
from coterie.node.errors import ApiError
from coterie.node.observability import get_logger
from coterie.node.proposer import Proposer

log = get_logger(__name__)

PROPOSE_S = 5.0
LEASE_MS = 120_000  # of a probe whose caller does not say how long it may take
KEPT_MAX = 1_000
KEYS_MAX = 1_000


class CircuitOpen(ApiError):
    """The breaker lets nobody pass now; `retry_after_ms` says when to try again, where that is known."""

    def __init__(self, message: str, retry_after_ms: int | None) -> None:
        ApiError.__init__(
            self, grpc.StatusCode.UNAVAILABLE, "CIRCUIT_OPEN", message, retry_after_ms=retry_after_ms
        )


@dataclass(slots=True)
class _Tally:
    """What this node saw of one key lately, by its monotonic clock, in seconds."""

    failures: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    passes: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))

    def prune(self, now: float) -> None:
        for times in (self.failures, self.passes):
            while times and times[0] <= now - WINDOW_MS / 1000:
                times.popleft()


class Breakers:
    """All breakers, as this node sees and uses them."""

    def __init__(self, state: Callable[[], ClusterState], proposer: Proposer, clock: Clock) -> None:
        self._state, self._proposer, self._clock = state, proposer, clock
        self._time = LogTime(clock, lambda: state().meta.clock_ms)
        self._tallies: dict[str, _Tally] = {}

    async def allow(self, key: str, lease_ms: int = LEASE_MS) -> Permit:
        """A permit for one call, which may take up to `lease_ms`. Raises CircuitOpen, and NotCommitted when a
        probe is wanted and there is no majority to grant it."""
        breaker, now_ms = self._state().breakers.get(key), self._time.now_ms()
        if breaker is None or phase(breaker, now_ms) is BreakerState.CLOSED:
            return Permit(self, key, _number(breaker))
        reason = why(breaker, self._state().meta.policy, now_ms)
        if reason:
            raise CircuitOpen(reason, max(1, breaker.until_ms - now_ms))
        probe_id = self._clock.new_id()
        outcome = await self._proposer.one(TakeProbe(key, probe_id, lease_ms), PROPOSE_S)
        if isinstance(outcome, Rejected):
            left_ms = outcome.retry_at_ms - self._time.now_ms() if outcome.retry_at_ms else 0
            raise CircuitOpen(outcome.reason, max(1, left_ms) if left_ms else None)
        return Permit(self, key, _number(breaker), probe_id)

    async def report(self, permit: Permit, ok: bool, reason: str = "") -> None:
        """What became of a call: see Permit."""
        if permit.probe_id:
            await self._propose(EndProbe(permit.key, permit.probe_id, ok, not ok, reason))
        elif ok:
            self._passed(permit.key)
        else:
            await self._failed(permit, reason)

    async def give_back(self, permit: Permit) -> None:
        """Of a call that was never made."""
        if permit.probe_id:
            await self._propose(EndProbe(permit.key, permit.probe_id, ok=False, failed=False))

    def _passed(self, key: str) -> None:
        tally = self._tallies.get(key)
        if tally is not None:
            tally.passes.append(self._clock.monotonic())

    async def _failed(self, permit: Permit, reason: str) -> None:
        threshold = self._state().meta.policy.breaker_failures
        known = self._state().breakers.get(permit.key)
        if not threshold or _number(known) != permit.number:
            return  # off; or what failed had begun before the breaker last changed
        if permit.key not in self._tallies and len(self._tallies) >= KEYS_MAX:
            del self._tallies[next(iter(self._tallies))]
        tally = self._tallies.setdefault(permit.key, _Tally())
        tally.failures.append(now := self._clock.monotonic())
        tally.prune(now)
        failures = len(tally.failures)
        if failures < threshold or failures < len(tally.passes):
            return
        total = failures + len(tally.passes)
        text = f"{failures} of {total} calls failed within {WINDOW_MS // 1000} s: {reason}"
        told = await self._propose(TripBreaker(permit.key, permit.number, text, self._clock.dice()))
        if told:
            self._tallies.pop(permit.key, None)

    async def _propose(self, command: Command) -> bool:
        """Whether the log has answered. Without a majority nothing changes: a permit runs out, and the next
        failure says the same again."""
        try:
            outcome = await self._proposer.one(command, PROPOSE_S)
        except NotCommitted as error:
            log.info("breaker not told", extra={"command": type(command).__name__, "error": str(error)})
            return False
        if isinstance(outcome, Rejected):
            log.debug("breaker refused", extra={"code": outcome.code, "reason": outcome.reason})
        return True


@dataclass(frozen=True, slots=True)
class Permit:
    """One call that may pass. Exactly one of its methods is called when the call is over."""

    breakers: Breakers
    key: str
    number: int
    probe_id: str = ""  # of a half-open breaker

    async def passed(self) -> None:
        """What the breaker guards works."""
        await self.breakers.report(self, ok=True)

    async def failed(self, reason: str) -> None:
        """It does not: no connection, a time-out, a fault of its own. Not: a request that was wrong."""
        await self.breakers.report(self, ok=False, reason=reason)

    async def unused(self) -> None:
        """The call was not made, or says nothing about what is guarded."""
        await self.breakers.give_back(self)


class BreakerLog:
    """Says on the leader what becomes of breakers: each transition once."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def look(self, breakers: Mapping[str, Breaker]) -> None:
        """Log what has changed since the last look."""
        for key, breaker in breakers.items():
            if self._told.get(key) == breaker.number:
                continue
            self._told[key] = breaker.number
            if breaker.state is BreakerState.CLOSED:
                log.info("breaker closed", extra={"breaker": key})
            else:
                wait_ms = breaker.until_ms - breaker.since_ms
                fields = {"breaker": key, "reason": breaker.reason, "for_ms": wait_ms}
                log.warning("breaker opened", extra=fields)


def _number(breaker: Breaker | None) -> int:
    return breaker.number if breaker is not None else 0
