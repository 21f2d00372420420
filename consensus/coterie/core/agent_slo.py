"""How well an agent keeps what its registry pledges, and how many runs at a time it would need: read from the
state, never written to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from coterie.core.agentbook import Pledge
from coterie.core.agentstats import BOUNDS_MS, DAY_MS, FINE_MS, HOUR_MS, MINUTE_MS, AgentLoad, since

WINDOW_MS: Final = 28 * DAY_MS  # of an objective that names none
MILLION: Final = 1_000_000
QUICK_ENOUGH: Final = 0.99  # the share of answers that a p99 binds
BAD_MIN: Final = 3  # runs: fewer warn nobody, however few there were in all
LATELY_MS: Final = 30 * MINUTE_MS  # what advice is reckoned from
BUSY_PERCENT: Final = 70  # of the slots, where the registry does not say
DRAIN_MS: Final = MINUTE_MS  # within which waiting runs shall be gone

# (long window, short window, share of the budget that the long one may use up). Google, "The Site Reliability
# Workbook" (2018), chapter 5, "Multiwindow, Multi-Burn-Rate Alerts". The short one ends the alarm soon.
ALARMS: Final = ((HOUR_MS, FINE_MS, 0.02), (6 * HOUR_MS, HOUR_MS // 2, 0.05), (3 * DAY_MS, 6 * HOUR_MS, 0.1))


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast the error budget went in a window. 1: it would last exactly as long as the objective's."""

    window_ms: int
    rate: float
    limit: float  # above it, people shall know
    burning: bool  # it is above, in the short window too, and not by a run or two


@dataclass(frozen=True, slots=True)
class Standing:
    """One objective, and how the runs of its window kept it."""

    slo: str  # availability, response_time
    objective: float  # share of the runs that must be good
    window_ms: int
    runs: int
    bad: int
    burns: tuple[Burn, ...]

    @property
    def attained(self) -> float:
        """The share of good runs; where there was none, nothing was broken."""
        return 1 - self.bad / self.runs if self.runs else 1.0

    @property
    def budget_left(self) -> float:
        """The part of the allowed bad runs that is left; below 0: the objective is missed."""
        return 1 - self.bad / (self.runs * (1 - self.objective)) if self.runs else 1.0

    @property
    def burning(self) -> Burn | None:
        """The shortest window in which it burns too fast."""
        return next((burn for burn in self.burns if burn.burning), None)


def standings(pledge: Pledge, load: AgentLoad, now_ms: int) -> Iterator[Standing]:
    """One for each objective that is pledged."""
    window_ms = pledge.window_ms or WINDOW_MS
    if pledge.availability_ppm:
        yield _standing("availability", pledge.availability_ppm / MILLION, window_ms, load, now_ms)
    if pledge.response_ms:
        yield _standing("response_time", QUICK_ENOUGH, window_ms, load, now_ms)


def _standing(slo: str, objective: float, window_ms: int, load: AgentLoad, now_ms: int) -> Standing:
    runs, bad = _sums(slo, load, window_ms, now_ms)
    burns = []
    for long_ms, short_ms, share in ALARMS:
        if long_ms <= window_ms:
            limit = max(1.0, share * window_ms / long_ms)
            rate, count = _rate(slo, objective, load, long_ms, now_ms)
            soon, _ = _rate(slo, objective, load, short_ms, now_ms)
            burns.append(Burn(long_ms, rate, limit, min(rate, soon) > limit and count >= BAD_MIN))
    return Standing(slo, objective, window_ms, runs, bad, tuple(burns))


def _rate(slo: str, objective: float, load: AgentLoad, window_ms: int, now_ms: int) -> tuple[float, int]:
    runs, bad = _sums(slo, load, window_ms, now_ms)
    return (bad / runs / (1 - objective) if runs else 0.0), bad


def _sums(slo: str, load: AgentLoad, window_ms: int, now_ms: int) -> tuple[int, int]:
    """Runs that count for the objective, and the bad ones of them. Only answers can be slow."""
    runs = bad = 0
    for span in since(load, now_ms - window_ms, now_ms):
        answers = slo == "response_time"
        runs += span.runs - (span.bad if answers else 0)
        bad += span.slow if answers else span.bad
    return runs, bad


def quantile_ms(latencies: tuple[int, ...], share: float) -> float:
    """Below which that share of the counted latencies lies, evenly spread within their bucket; 0: none."""
    rank, seen = share * sum(latencies), 0
    for place, count in enumerate(latencies):
        if count and seen + count >= rank:
            low = BOUNDS_MS[place - 1] if place else 0
            high = BOUNDS_MS[min(place, len(BOUNDS_MS) - 1)]
            return float(low + (high - low) * max(0.0, rank - seen) / count)
        seen += count
    return 0.0


# --- how many runs at a time


@dataclass(frozen=True, slots=True)
class Live:
    """The runs of an agent that have not ended. Those that sleep wait for people, tools or time."""

    waiting: int = 0  # for a slot
    running: int = 0
    sleeping: int = 0
    arrived: int = 0  # of all these, those submitted lately


@dataclass(frozen=True, slots=True)
class Room:
    """What the nodes that are up have, all alike."""

    nodes: int
    slots: int  # of all
    free: int
    memory_bytes: int = 0  # of one; 0: not counted


@dataclass(frozen=True, slots=True)
class Advice:
    """How many runs at a time the agent would need, and how many nodes more for that."""

    replicas: int
    nodes_more: int
    arrivals_per_hour: float
    run_ms: float  # slot time of one run
    queue_ms: float  # wait for the first slot, on average
    reason: str


def advice(pledge: Pledge, load: AgentLoad, live: Live, room: Room, now_ms: int) -> Advice:
    """Little's law: slots that are busy = arrivals in a time x slot time of each (Little, "A Proof for the
    Queuing Formula L = λW", 1961); of these a share is kept free, and what waits is to be gone soon."""
    per_hour, run_ms, queue_ms = _lately(load, live, now_ms)
    if not run_ms:
        text = "no run has ended yet: there is nothing to reckon with"
        return Advice(max(1, pledge.replicas), 0, per_hour, 0.0, queue_ms, text)
    demanded = max(per_hour, float(pledge.runs_per_hour))
    percent = pledge.slots_percent or BUSY_PERCENT
    busy = demanded / HOUR_MS * run_ms
    drained = live.waiting * run_ms / max(pledge.response_ms, DRAIN_MS)
    wanted = max(1, math.ceil(round(busy * 100 / percent + drained, 6)))
    held = min(max(wanted, pledge.replicas_min), pledge.replicas_max or wanted)
    reason = _reason(pledge, demanded, per_hour, run_ms, busy, percent, live.waiting)
    if held != wanted:
        reason += f"; {wanted} are held to {'max' if held < wanted else 'min'}_replicas {held}"
    return Advice(held, _nodes_more(pledge, held, live, room), per_hour, run_ms, queue_ms, reason)


def _lately(load: AgentLoad, live: Live, now_ms: int) -> tuple[float, float, float]:
    """Arrivals an hour; slot time and wait of a run, over the whole month where none ended lately."""
    spans = list(since(load, now_ms - LATELY_MS, now_ms))
    elapsed_ms = LATELY_MS if not load.fine else min(LATELY_MS, max(FINE_MS, now_ms - load.fine[0].begin_ms))
    per_hour = (sum(span.arrived for span in spans) + live.arrived) * HOUR_MS / elapsed_ms
    if not any(span.runs for span in spans):
        spans = list(load.coarse)
    runs = sum(span.runs for span in spans)
    if not runs:
        return per_hour, 0.0, 0.0
    return per_hour, sum(span.held_ms for span in spans) / runs, sum(span.queue_ms for span in spans) / runs


def _reason(
    pledge: Pledge, demanded: float, per_hour: float, run_ms: float, busy: float, percent: int, waiting: int
) -> str:
    what = "arrive" if per_hour >= pledge.runs_per_hour else "are pledged (slo.throughput)"
    text = f"{demanded:.3g} runs an hour {what}, each holds a slot for {run_ms / 1000:.3g} s: "
    text += f"{busy:.3g} slots are busy, and shall be {percent} % of all"
    return f"{text}; {waiting} wait" if waiting else text


def _nodes_more(pledge: Pledge, wanted: int, live: Live, room: Room) -> int:
    """Nodes like those that are there, for what has no free slot on them."""
    if not room.nodes:
        return 0
    slots = room.slots / room.nodes
    if pledge.memory_bytes and room.memory_bytes:
        share = (pledge.memory_percent or 100) / 100
        slots = min(slots, max(1.0, room.memory_bytes * share // pledge.memory_bytes))
    missing = wanted - live.running - room.free
    return max(0, math.ceil(missing / slots)) if slots else 0
