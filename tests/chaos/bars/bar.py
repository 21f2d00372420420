"""What a bar is, and what it is given."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.report import Report

Need = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Setting:
    """full: the size that proves something (CI); else a shorter one for daily use, with its own minimum.
    seed: fixes the choice of the faults, not their timing. planted: a fault of the kind the bar must find, to
    see that it does. base_dir: an empty directory."""

    full: bool
    seed: int
    base_dir: Path
    planted: str = ""

    def dice(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")


@dataclass(frozen=True, slots=True)
class Bar:
    """needs: what the machine must have. own_network: run in a network namespace. limit_s: when to give up.
    plants: what may be planted."""

    number: int
    title: str
    run: Callable[[Setting, Report], Coroutine[Any, Any, None]]
    needs: tuple[Need, ...]
    own_network: bool = False
    limit_s: float = 1_500.0
    plants: tuple[str, ...] = ()
