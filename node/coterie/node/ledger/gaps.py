"""Arithmetic on the gaps of a ledger: sorted, disjoint, bounded in number."""

from __future__ import annotations

from collections.abc import Iterable

from coterie.node.ledger.rows import Gap

GAPS_MAX = 64


def add_gap(gaps: Iterable[Gap], new: Gap) -> tuple[Gap, ...]:
    """The gaps with `new` among them; touching ones are joined, and so are the nearest when there are too
    many: rows copied twice are ignored, rows never copied are lost."""
    if new.up_to_index <= new.after_index:
        return tuple(gaps)
    joined: list[Gap] = []
    for gap in sorted([*gaps, new], key=lambda gap: gap.after_index):
        if joined and gap.after_index <= joined[-1].up_to_index:
            last = joined.pop()
            gap = Gap(last.after_index, max(last.up_to_index, gap.up_to_index))
        joined.append(gap)
    while len(joined) > GAPS_MAX:
        at = min(range(len(joined) - 1), key=lambda i: joined[i + 1].after_index - joined[i].up_to_index)
        joined[at : at + 2] = [Gap(joined[at].after_index, joined[at + 1].up_to_index)]
    return tuple(joined)


def fill_gap(gaps: Iterable[Gap], filled: Gap) -> tuple[Gap, ...]:
    """The gaps without the indexes of `filled`."""
    if filled.up_to_index <= filled.after_index:
        return tuple(gaps)
    left: list[Gap] = []
    for gap in gaps:
        before = Gap(gap.after_index, min(gap.up_to_index, filled.after_index))
        behind = Gap(max(gap.after_index, filled.up_to_index), gap.up_to_index)
        left += [part for part in (before, behind) if part.up_to_index > part.after_index]
    return tuple(left)


def covered_through(gaps: Iterable[Gap], after_index: int, up_to_index: int) -> int:
    """The highest index up to which no row is missing, seen from `after_index`."""
    for gap in gaps:
        if gap.up_to_index > after_index:
            return max(after_index, min(up_to_index, gap.after_index))
    return max(after_index, up_to_index)
