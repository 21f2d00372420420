"""Circuit breakers of the cluster: what it keeps work away from for a while, because it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from coterie.client.connection import Connection
from coterie.v1 import breakers_pb2

_STATES = {
    breakers_pb2.BREAKER_CLOSED: "CLOSED",
    breakers_pb2.BREAKER_OPEN: "OPEN",
    breakers_pb2.BREAKER_HALF_OPEN: "HALF_OPEN",
}


@dataclass(frozen=True, slots=True)
class Breaker:
    """One that has been open.

    - `key`: what it guards: node:ID, skill:TYPE, skill:TYPE@NODE, provider:NAME.
    - `state`: CLOSED, OPEN or HALF_OPEN, `since` then; `until`: when probes may pass, of an open one.
    - `opened`: times in a row without a lasting recovery.
    - `probes`, `passed`: of a half-open one: on their way, and successful.
    """

    key: str
    state: str
    reason: str
    since: datetime
    until: datetime | None = None
    opened: int = 0
    probes: int = 0
    passed: int = 0

    @classmethod
    def of(cls, raw: breakers_pb2.CircuitBreaker) -> Breaker:
        """The dataclass for a message."""
        return cls(
            key=raw.key,
            state=_STATES.get(raw.state, str(raw.state)),
            reason=raw.reason,
            since=_time(raw.since_ms),
            until=_time(raw.until_ms) if raw.until_ms else None,
            opened=raw.opened,
            probes=raw.probes,
            passed=raw.passed,
        )


BreakerList = list[Breaker]  # inside Breakers `list` is a method


class Breakers:
    """What keeps work away from what fails: `cluster.breakers`."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def list(self) -> BreakerList:
        """Those that have been open, by key."""
        request = breakers_pb2.ListBreakersRequest()
        answer = await self._opened().caller.unary(lambda e: e.breakers.ListBreakers, request)
        return [Breaker.of(raw) for raw in answer.breakers]

    async def reset(self, key: str) -> Breaker:
        """Closes one now. Raises NotFound when it never was open."""
        request = breakers_pb2.ResetBreakerRequest(key=key)
        return Breaker.of(await self._opened().caller.unary(lambda e: e.breakers.ResetBreaker, request))


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
