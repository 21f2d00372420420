"""Which agent gets a piece of work. What is wanted is announced, every agent that can bids, the best bid
wins: the contract net of Smith (IEEE Transactions on Computers C-29(12), 1980). Bids are computed from what
is known of the agents, the same on every node that knows the same; all numbers are thousandths, so that no
rounding decides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

FULL = 1_000
WEIGHTS = (600, 250, 150)  # of fit, load and success in a contract net
LABEL_FITS_SHOWN = 8
_WORD = re.compile(r"[a-z0-9]+|[^\W\da-z_]+")
_ENDINGS = ("ations", "ation", "ments", "ment", "ings", "ing", "ers", "er", "es", "ed", "s", "e")
_STEM_CHARS_MIN = 4
_WORD_CHARS_MIN = 2  # of Latin script
_SMALL = frozenset(
    {
        *("and", "are", "can", "for", "from", "how", "our", "please", "that", "the", "this", "what", "with"),
        *("you", "your", "an", "as", "at", "be", "by", "do", "if", "in", "is", "it", "me", "my", "of", "on"),
        *("or", "so", "to", "us", "we"),
    }
)


class Selection(StrEnum):
    """How the winner is found."""

    SCORE = "score"  # the best fit alone; load and success decide between equals
    CONTRACT_NET = "contract-net"  # fit, load and success together


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent, as far as bids go."""

    agent_id: str
    labels: tuple[str, ...] = ()  # capabilities, domains, names of its skills, its own name
    running: int = 0
    queued: int = 0
    capacity: int = 1  # runs at once
    succeeded: int = 0  # of the runs that are remembered
    failed: int = 0
    declines: str = ""  # why it takes no work


@dataclass(frozen=True, slots=True)
class Bid:
    """What an agent offers, in thousandths. `declined`: why it offers nothing."""

    agent_id: str
    score: int = 0
    fit: int = 0
    load: int = 0  # FULL: idle
    success: int = 0
    matched: tuple[str, ...] = ()  # the labels that fit
    declined: str = ""


def words_of(text: str) -> frozenset[str]:
    """The words that say something, without endings; of scripts without spaces, pairs of characters."""
    found: set[str] = set()
    for word in _WORD.findall(text.lower()):
        if not word.isascii():
            found.update(word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif len(word) >= _WORD_CHARS_MIN and word not in _SMALL:
            found.add(_stem(word))
    return frozenset(found)


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _STEM_CHARS_MIN:
            return word[: -len(ending)]
    return word


def bids(wanted: Sequence[str], candidates: Iterable[Candidate], how: Selection) -> list[Bid]:
    """One of each candidate, the winner first; those that decline last. `wanted`: capabilities, or a text."""
    wants = [words for words in (words_of(want) for want in wanted) if words]
    found = [_bid(wants, one, how) for one in candidates]
    return sorted(
        found, key=lambda bid: (bool(bid.declined), -bid.score, -bid.load, -bid.success, bid.agent_id)
    )


def winner(offers: Sequence[Bid]) -> str:
    """Whose bid is the best; empty: nobody's."""
    return offers[0].agent_id if offers and not offers[0].declined else ""


def _bid(wants: Sequence[frozenset[str]], one: Candidate, how: Selection) -> Bid:
    if one.declines:
        return Bid(one.agent_id, declined=one.declines)
    fit, matched = _fit(wants, one.labels)
    if wants and not fit:
        return Bid(one.agent_id, declined="nothing it can do is wanted")
    capacity = max(1, one.capacity)
    load = FULL * capacity // (capacity + one.running + one.queued)
    success = FULL * (one.succeeded + 1) // (one.succeeded + one.failed + 1)
    of_fit, of_load, of_success = WEIGHTS
    score = (of_fit * fit + of_load * load + of_success * success) // FULL
    return Bid(one.agent_id, fit if how is Selection.SCORE else score, fit, load, success, matched)


def _fit(wants: Sequence[frozenset[str]], labels: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """The mean over what is wanted of how well the best label covers it, or is covered by it."""
    if not wants:
        return FULL, ()
    known = [(label, words) for label in labels if (words := words_of(label))]
    total, matched = 0, dict[str, None]()
    for want in wants:
        shares = [(_overlap(want, words), label) for label, words in known]
        total += max((share for share, _ in shares), default=0)
        matched |= dict.fromkeys(label for share, label in shares if share)
    return total // len(wants), tuple(matched)[:LABEL_FITS_SHOWN]


def _overlap(one: frozenset[str], other: frozenset[str]) -> int:
    """Shared words, as a share of the shorter one (Szymkiewicz-Simpson)."""
    return FULL * len(one & other) // min(len(one), len(other))
