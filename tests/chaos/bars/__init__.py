"""The bars: one module each; `python -m tests.chaos.bars` runs those you choose and prints a line for each.

Every bar runs in a process of its own, with mounts and networks of its own: nothing of it is left behind."""

from __future__ import annotations

from tests.chaos.bars import (
    asymmetric,
    backups,
    clocks,
    damage,
    fsyncs,
    full_disks,
    gray,
    leaders,
    nemesis,
    overload,
    points,
    poison,
    power,
    replies,
    sizes,
    zombies,
)
from tests.chaos.bars.bar import Bar

_MODULES = (
    nemesis,
    leaders,
    points,
    zombies,
    replies,
    asymmetric,
    power,
    damage,
    fsyncs,
    full_disks,
    clocks,
    gray,
    overload,
    poison,
    sizes,
    backups,
)
BARS: dict[int, Bar] = {module.BAR.number: module.BAR for module in _MODULES}
