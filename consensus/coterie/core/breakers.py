"""Circuit breakers as nouns: what stays away from whatever fails, for how long, and who may try it again.

A key names what is guarded: `node:ID`, `skill:TYPE`, `skill:TYPE@NODE`, `provider:NAME`, any other KIND:NAME.
Closed: everything passes. Open, until a committed time: nothing does. From then on half-open: a few probes
pass, granted by the state machine. When that many have succeeded the breaker closes; the first that fails
opens it again, for longer. (Nygard, "Release It!", 2007; the jitter as in Brooker, AWS 2015.)"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from coterie.core.nouns import NodeId, Policy

BREAKERS_MAX = 4_096
DOUBLINGS_MAX = 3  # of the recovery time, while probes keep failing
JITTER = 5  # up to a fifth of the recovery time on top: not everything is tried at the same moment
MEMORY = 10  # recovery times after which a closed breaker starts with the shortest again
REASON_CHARS_MAX = 500
DICE_SIDES = 1 << 32
_KEY = re.compile(r"[a-z][a-z0-9-]{0,31}:[^\s\0]{1,400}")


class BreakerState(IntEnum):
    """The numbers are those of the public API. HALF_OPEN is never stored: it is OPEN whose time has come."""

    CLOSED = 1
    OPEN = 2
    HALF_OPEN = 3


@dataclass(frozen=True, slots=True)
class Probe:
    """Somebody who may try what the breaker guards."""

    probe_id: str  # of a task: see `probe_of`
    until_ms: int  # then the permit is somebody else's, whatever has become of this one


@dataclass(frozen=True, slots=True)
class Breaker:
    """One that has been open. What has no record is closed."""

    key: str
    state: BreakerState
    number: int  # of its transitions: what was decided before the latest of them changes nothing
    since_ms: int
    until_ms: int = 0  # when probes may pass
    opened: int = 1  # times in a row without a lasting recovery
    reason: str = ""
    dice: int = 0  # of the command that opened it; later jitter is drawn from it
    probes: tuple[Probe, ...] = ()
    passed: int = 0  # probes that succeeded since it is half-open


def is_key(key: str) -> bool:
    """KIND:NAME, without white space."""
    return _KEY.fullmatch(key) is not None


def keys_of(task_type: str, node_id: NodeId) -> tuple[str, str, str]:
    """What guards a task of that type on that node."""
    return f"node:{node_id}", f"skill:{task_type}@{node_id}", f"skill:{task_type}"


def probe_of(task_id: str, attempt: int) -> str:
    """The permit of one attempt."""
    return f"{task_id}/{attempt}"


def phase(breaker: Breaker, now_ms: int) -> BreakerState:
    """Half-open from the committed time on."""
    if breaker.state is BreakerState.OPEN and now_ms >= breaker.until_ms:
        return BreakerState.HALF_OPEN
    return breaker.state


def live_probes(breaker: Breaker, now_ms: int) -> tuple[Probe, ...]:
    """Those whose permits have not run out."""
    return tuple(probe for probe in breaker.probes if probe.until_ms > now_ms)


def permits(breaker: Breaker, policy: Policy, now_ms: int) -> int:
    """How many more may pass now, of a half-open one. The first that passes one that is proven closes it."""
    probes = max(1, policy.breaker_probes)
    if is_proven(breaker, policy):
        return probes
    return probes - breaker.passed - len(live_probes(breaker, now_ms))


def is_proven(breaker: Breaker, policy: Policy) -> bool:
    """So many probes have succeeded that it closes: maybe fewer are asked for than when they began."""
    return breaker.passed >= max(1, policy.breaker_probes)


def why(breaker: Breaker, policy: Policy, now_ms: int) -> str:
    """Why nobody passes; empty: somebody may."""
    match phase(breaker, now_ms):
        case BreakerState.OPEN:
            return f"breaker {breaker.key} is open for {breaker.until_ms - now_ms} ms more: {breaker.reason}"
        case BreakerState.HALF_OPEN if permits(breaker, policy, now_ms) <= 0:
            return f"breaker {breaker.key} is half-open, and all its probes are on their way"
    return ""


def recovery_ms(policy: Policy, opened: int, dice: int) -> int:
    """How long a breaker stays open that opens for the n-th time in a row."""
    base = max(1, policy.breaker_recovery_ms) << min(opened - 1, DOUBLINGS_MAX)
    return base + base * (_draw(dice, opened) % DICE_SIDES) // (DICE_SIDES * JITTER)


def _draw(dice: int, turn: int) -> int:
    """The n-th number that follows from committed dice (Press et al., "Numerical Recipes", 7.1)."""
    for _ in range(min(turn, MEMORY) - 1):
        dice = (dice * 1_664_525 + 1_013_904_223) % DICE_SIDES
    return dice


def has_room(breakers: Mapping[str, Breaker]) -> bool:
    """One more may open: there are few enough, or one that is closed may be forgotten."""
    return len(breakers) < BREAKERS_MAX or any(
        breaker.state is BreakerState.CLOSED for breaker in breakers.values()
    )


def open_ones(breakers: Iterable[Breaker], now_ms: int) -> Iterator[Breaker]:
    """All that are not closed."""
    return (breaker for breaker in breakers if phase(breaker, now_ms) is not BreakerState.CLOSED)
