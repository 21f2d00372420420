"""A small fingerprint of a text by which near duplicates are found without comparing the texts.

One-permutation min-hash (Li, Owen, Zhang: One Permutation Hashing, 2012) over shingles of five tokens: the
hash space is cut into BINS, each bin keeps its smallest hash. The share of equal bins estimates the Jaccard
similarity of two shingle sets with a standard error of at most 0.5/sqrt(BINS) = 0.0625.
Empty bins borrow from the next full one, with an offset (Shrivastava, Li: Densifying, 2014).
"""

from __future__ import annotations

import re
import zlib
from typing import Any

BINS = 64
SHINGLE_TOKENS = 5
# With fewer shingles most bins would be borrowed, and short files look alike by chance.
SHINGLES_MIN = BINS
_HASH_BITS = 32
_EMPTY = 1 << _HASH_BITS
_OFFSET = 0x9E3779B1
_TOKEN = re.compile(r"\w+")


def min_hash(text: str) -> list[int]:
    """BINS numbers of 32 bits; empty for a text with fewer than SHINGLES_MIN shingles."""
    tokens = _TOKEN.findall(text.lower())
    shingles = {
        " ".join(tokens[start : start + SHINGLE_TOKENS]) for start in range(len(tokens) - SHINGLE_TOKENS + 1)
    }
    if len(shingles) < SHINGLES_MIN:
        return []
    bins = [_EMPTY] * BINS
    for shingle in shingles:
        # The checksum alone is linear in its input; the multiplication spreads its low bits.
        value = zlib.crc32(shingle.encode()) * _OFFSET & (_EMPTY - 1)
        place = value >> 26
        if value < bins[place]:
            bins[place] = value
    return _filled(bins)


def similarity(left: list[int], right: list[int]) -> float:
    """Estimated share of shingles two texts have in common, 0..1; 0 when one has no fingerprint."""
    if len(left) != BINS or len(right) != BINS:
        return 0.0
    return sum(a == b for a, b in zip(left, right, strict=True)) / BINS


def fingerprint(text: str) -> dict[str, Any]:
    """The min-hash as hex text, 8 digits a bin."""
    return {"min_hash": "".join(f"{value:08x}" for value in min_hash(text))}


def decode(hex_text: str) -> list[int]:
    """The numbers of a `fingerprint`."""
    return [int(hex_text[start : start + 8], 16) for start in range(0, len(hex_text), 8)]


def _filled(bins: list[int]) -> list[int]:
    filled = list(bins)
    for place, value in enumerate(bins):
        if value != _EMPTY:
            continue
        distance = next(step for step in range(1, BINS) if bins[(place + step) % BINS] != _EMPTY)
        filled[place] = (bins[(place + distance) % BINS] + distance * _OFFSET) & (_EMPTY - 1)
    return filled
