"""How long skills take on this node: the measurement that routing compares between the nodes."""

from __future__ import annotations

from collections import defaultdict

from coterie.core.routing import SkillLoad
from coterie.node.clock import Clock

WEIGHT_MIN = 0.2  # of a sample that follows closely on the last
HALF_LIFE_S = 5.0  # of what was learned before a pause: the first sample after it counts for more


class ServiceTimes:
    """One average per skill, and when each running attempt began; all on the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, SkillLoad] = {}
        self._ended_at: dict[str, float] = {}
        self._running: defaultdict[str, list[float]] = defaultdict(list)

    def begin(self, skill: str) -> float:
        """An attempt begins; returns what `end` wants to know."""
        now = self._clock.monotonic()
        self._running[skill].append(now)
        return now

    def end(self, skill: str, began: float, succeeded: bool) -> float | None:
        """The attempt that began then has ended. Returns the ms it took when it counts: failures do not, they
        may be over at once."""
        self._running[skill].remove(began)
        if not self._running[skill]:
            del self._running[skill]
        if not succeeded:
            return None
        now = self._clock.monotonic()
        took_ms = (now - began) * 1000
        known = self._known.get(skill)
        if known is None:
            self._known[skill] = SkillLoad(took_ms, 1)
        else:
            weight = max(WEIGHT_MIN, 1.0 - 0.5 ** ((now - self._ended_at[skill]) / HALF_LIFE_S))
            average = known.service_ms + weight * (took_ms - known.service_ms)
            self._known[skill] = SkillLoad(average, known.samples + 1)
        self._ended_at[skill] = now
        return took_ms

    def loads(self) -> dict[str, SkillLoad]:
        """As of now, for a load report."""
        return {skill: self._load(skill) for skill in self._known.keys() | self._running.keys()}

    def _load(self, skill: str) -> SkillLoad:
        now = self._clock.monotonic()
        known = self._known.get(skill, SkillLoad(0.0, 0))
        idle_ms = int((now - self._ended_at.get(skill, now)) * 1000)
        running = sorted(now - began for began in self._running.get(skill, ()))
        median_ms = running[(len(running) - 1) // 2] * 1000 if running else 0.0
        return SkillLoad(known.service_ms, known.samples, idle_ms, len(running), median_ms)
