"""What may be proposed about circuit breakers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TripBreaker:
    """Too much of what the key guards has failed: open it. Changes nothing when it is open already."""

    key: str
    number: int  # of the breaker's transitions when this was decided; 0: it never was open
    reason: str
    dice: int = 0  # uniform in 0..2**32-1: the jitter of the recovery time


@dataclass(frozen=True, slots=True)
class TakeProbe:
    """May one pass? Yes through a closed breaker; through a half-open one only so many at a time."""

    key: str
    probe_id: str
    lease_ms: int  # after which the permit is somebody else's


@dataclass(frozen=True, slots=True)
class EndProbe:
    """What became of a probe. Neither `ok` nor `failed`: it was never tried, the permit is free again."""

    key: str
    probe_id: str
    ok: bool
    failed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ResetBreaker:
    """An operator knows that what it guards works again."""

    key: str
