"""What a misspelt name may have meant."""

from __future__ import annotations

from collections.abc import Iterable

DISTANCE_MAX = 2  # letters to change, add or leave out
CANDIDATES_MAX = 2_000
LENGTH_MAX = 64


def near(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest, the first of equals; empty when none is near. Its own, because the
    answer becomes part of replicated texts: a library's may change with its version."""
    best, distance = "", min(DISTANCE_MAX, max(1, len(name) // 3)) + 1
    for place, other in enumerate(known):
        if place >= CANDIDATES_MAX or len(name) > LENGTH_MAX:
            break
        if abs(len(other) - len(name)) < distance and (found := _distance(name, other)) < distance:
            best, distance = other, found
    return best


def _distance(one: str, other: str) -> int:
    """Levenshtein's (Soviet Physics Doklady 1966), row by row (Wagner and Fischer, JACM 1974)."""
    row = list(range(len(other) + 1))
    for place, char in enumerate(one, 1):
        before, row[0] = row[0], place
        for at, letter in enumerate(other, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (char != letter))
    return row[-1]
