"""The bars: one module each; `python -m tests.chaos.bars` runs those you choose and prints a line for each.

Every bar runs in a process of its own, with mounts and networks of its own: nothing of it is left behind."""

from __future__ import annotations

from tests.chaos.bars import asymmetric, clocks, damage, fsyncs, full_disks, nemesis, power
from tests.chaos.bars.bar import Bar

BARS: dict[int, Bar] = {
    bar.number: bar
    for bar in (nemesis.BAR, asymmetric.BAR, power.BAR, fsyncs.BAR, full_disks.BAR, damage.BAR, clocks.BAR)
}
