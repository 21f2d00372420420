"""Runs a target on mutated inputs and keeps what it should not have done."""

from __future__ import annotations

import random
import time
import traceback
from dataclasses import dataclass, field

from tests.fuzz.mutate import Explosive, mutated
from tests.fuzz.targets import TARGETS

FAILURES_KEPT = 3


@dataclass(slots=True)
class Tally:
    """What came of one target."""

    name: str
    executions: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def fuzz(name: str, seed: int, *, until: float = 0.0, executions: int = 0) -> Tally:
    """Until that moment (monotonic, seconds), or so many times. Call it with an event loop running: links
    need one for their timers."""
    target, tally, rng = TARGETS[name], Tally(name), random.Random(seed)
    corpus = target.corpus()
    for data in corpus:
        target.read(data)  # the good ones are good
    while tally.executions < executions or time.monotonic() < until:
        data = mutated(corpus, rng)
        tally.executions += 1
        try:
            target.read(data)
        except target.refusals:
            tally.refused += 1
        except Exception as error:
            if len(tally.failures) < FAILURES_KEPT:
                where = traceback.format_exc().splitlines()[-3:-1]
                tally.failures.append(f"{error!r} at {where} for {data[:200]!r}")
        if Explosive.went_off:
            raise AssertionError(f"{name} ran code from {data[:200]!r}")
    return tally
