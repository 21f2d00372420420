"""What the runs of agents come to: how they ended, how long they took, what they used.

It is counted in `apply`, from what the log says anyway, so that every node has the same figures, whoever ran
what, and keeps them when ledgers are pruned. Integers only.

Invariants: a run that is pinned is a live task; a tally belongs to an agent that is known; spans of a load
are ordered by their begin, and none is older than its kind is kept, counted from the newest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final

from coterie.core.bounds64 import within
from coterie.core.nouns import TaskId

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
FINE_MS: Final = 5 * MINUTE_MS
FINE_KEPT: Final = 75  # a little more than six hours
COARSE_MS: Final = 6 * HOUR_MS
COARSE_KEPT: Final = 124  # 31 days
WINDOW_MAX_MS: Final = 30 * DAY_MS
ERRORS_MAX: Final = 16  # codes of one revision that are counted one by one
OTHER: Final = "(others)"
# Upper bounds of the latencies that are counted together, in ms: ten to a decade, up to 28 hours.
_STEPS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
BOUNDS_MS: Final = (*(step * 10**power for power in range(7) for step in _STEPS), 100_000_000)


@dataclass(frozen=True, slots=True)
class AgentRun:
    """A live run, from when it chose the revision that it keeps, with what it has used so far."""

    task_id: TaskId
    agent_id: str
    revision: str
    queue_ms: int = 0  # before its first start
    held_ms: int = 0  # how long its ended attempts held a slot
    llm_calls: int = 0  # answered, of its tools too
    llm_failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class ErrorCount:
    code: str
    count: int


@dataclass(frozen=True, slots=True)
class AgentTally:
    """What the ended runs of one revision came to. An empty revision: those that never chose one."""

    agent_id: str
    revision: str
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    dead_lettered: int = 0
    cancelled: int = 0
    refused: int = 0  # the caller's fault: a bad input, an agent that is paused
    latencies: tuple[
        int, ...
    ] = ()  # of those that succeeded: counts by BOUNDS_MS, one more for what is above
    latency_ms: int = 0  # their sum
    steps: int = 0
    llm_calls: int = 0
    llm_failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    micro_usd: int = 0
    errors: tuple[ErrorCount, ...] = ()
    first_at_ms: int = 0
    last_at_ms: int = 0

    @property
    def name(self) -> str:
        """What it is kept under."""
        return tally_name(self.agent_id, self.revision)

    @property
    def bad(self) -> int:
        """Runs that the agent owed an answer and gave none."""
        return self.failed + self.timed_out + self.dead_lettered


@dataclass(frozen=True, slots=True)
class AgentSpan:
    """What happened to the runs of an agent from one moment on, for as long as its kind of span lasts."""

    begin_ms: int
    runs: int = 0  # that ended, good or bad
    bad: int = 0
    slow: int = 0  # good, but slower than was promised at the time
    arrived: int = 0  # that ended by now and were submitted here
    held_ms: int = 0  # slot time of those that ended
    queue_ms: int = 0  # their waits before the first start


@dataclass(frozen=True, slots=True)
class AgentLoad:
    """An agent's lately ended runs by time: finely for hours, coarsely for a month."""

    agent_id: str
    fine: tuple[AgentSpan, ...] = ()
    coarse: tuple[AgentSpan, ...] = ()


# Of the state: the name of the dict, what is in it, and under which key.
TABLES: tuple[tuple[str, type, Callable[[Any], str]], ...] = (
    ("agent_runs", AgentRun, attrgetter("task_id")),
    ("agent_tallies", AgentTally, attrgetter("name")),
    ("agent_loads", AgentLoad, attrgetter("agent_id")),
)


def tally_name(agent_id: str, revision: str) -> str:
    """What the tally of a revision is kept under."""
    return f"{agent_id}\0{revision}"


def counted(latencies: tuple[int, ...], took_ms: int) -> tuple[int, ...]:
    """The counts with one more; what is zero at the end is left out."""
    place = bisect_left(BOUNDS_MS, took_ms)
    counts = [*latencies, *([0] * (place + 1 - len(latencies)))]
    counts[place] += 1
    return tuple(counts)


def with_error(errors: tuple[ErrorCount, ...], code: str) -> tuple[ErrorCount, ...]:
    """The counts with one more of that code; beyond the bound the others are counted together."""
    codes = [one.code for one in errors]
    if code not in codes and len(errors) >= ERRORS_MAX:
        code = OTHER
    if code not in codes:
        return (*errors, ErrorCount(code, 1))
    return tuple(replace(one, count=one.count + (one.code == code)) for one in errors)


def noted(load: AgentLoad, at_ms: int, **more: int) -> AgentLoad:
    """The load with that added to the spans of the moment."""
    return replace(
        load,
        fine=_added(load.fine, at_ms, FINE_MS, FINE_KEPT, more),
        coarse=_added(load.coarse, at_ms, COARSE_MS, COARSE_KEPT, more),
    )


def _added(
    spans: tuple[AgentSpan, ...], at_ms: int, length_ms: int, kept: int, more: dict[str, int]
) -> tuple[AgentSpan, ...]:
    begin_ms = at_ms - at_ms % length_ms
    newest_ms = max(begin_ms, spans[-1].begin_ms) if spans else begin_ms
    if begin_ms <= newest_ms - kept * length_ms:
        return spans  # longer ago than is kept
    place = bisect_left(spans, begin_ms, key=attrgetter("begin_ms"))
    known = place < len(spans) and spans[place].begin_ms == begin_ms
    span = spans[place] if known else AgentSpan(begin_ms)
    span = replace(span, **{name: within(getattr(span, name) + by) for name, by in more.items()})
    joined = (*spans[:place], span, *spans[place + known :])
    return tuple(one for one in joined if one.begin_ms > newest_ms - kept * length_ms)


def since(load: AgentLoad, from_ms: int, now_ms: int) -> Iterator[AgentSpan]:
    """The spans that reach into that time: fine ones as far as they go back, coarse ones beyond that."""
    fine = now_ms - from_ms <= (FINE_KEPT - 2) * FINE_MS
    spans, length_ms = (load.fine, FINE_MS) if fine else (load.coarse, COARSE_MS)
    return (span for span in spans if span.begin_ms + length_ms > from_ms)
