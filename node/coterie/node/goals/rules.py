"""Which routing rule a request falls under."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from coterie.node.config.goal_settings import RoutingRule
from coterie.node.goals.patterns import compiled

GOAL_CHARS_MAX = 16_000


@dataclass(frozen=True, slots=True)
class Routed:
    """The rule, None where none matches; all that match, with their priorities, the first first; and those
    that had the same right to be chosen, where there are several."""

    rule: RoutingRule | None
    matched: tuple[tuple[str, int], ...] = ()
    ambiguous: tuple[str, ...] = ()


def route(rules: Sequence[RoutingRule], goal: str) -> Routed:
    """The highest priority wins; of equals the one that stands first, and that is told."""
    text = goal[:GOAL_CHARS_MAX]
    fits = [rule for rule in rules if compiled(rule.pattern).search(text)]
    fits.sort(key=lambda rule: -rule.priority)
    if not fits:
        return Routed(None)
    equals = tuple(rule.name for rule in fits if rule.priority == fits[0].priority)
    matched = tuple((rule.name, rule.priority) for rule in fits)
    return Routed(fits[0], matched, equals if len(equals) > 1 else ())


def revision_of(rules: Sequence[RoutingRule]) -> str:
    """Changes with any of them: 16 hex digits."""
    said = json.dumps([asdict(rule) for rule in rules], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def normalised(goal: str) -> str:
    """The same for requests that look the same: as written, but for what stands around it and for the ways to
    encode a character. (NFKC would make 10² to 102, and layout can mean something.)"""
    return unicodedata.normalize("NFC", goal).strip()
