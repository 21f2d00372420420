"""What an agent remembers from run to run: short texts in the cluster's key-value store, each with an end."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coterie.skills import SkillContext

TEXT_CHARS_MAX = 2_000
MEMORIES_MAX = 1_000  # looked at
FOUND = 5
_WORD = re.compile(r"\w+")
# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3.
_K1, _B = 1.2, 0.75


class Memory:
    """The memories of one agent and one of its users. Raises ValueError for a text that is too long."""

    def __init__(self, ctx: SkillContext, agent_id: str, user: str, ttl_s: float) -> None:
        whose = hashlib.sha256(user.encode()).hexdigest()[:16] if user else "all"
        self._ctx, self._ttl_s = ctx, ttl_s
        self._prefix = f"agents/{agent_id}/memory/{whose}/"

    async def remember(self, text: str) -> None:
        """Once for the run; the same text again only lives longer."""
        text = text.strip()
        if not text or len(text) > TEXT_CHARS_MAX:
            raise ValueError(f"text: 1 to {TEXT_CHARS_MAX} characters are expected, not {len(text)}")
        key = self._prefix + hashlib.sha256(text.encode()).hexdigest()[:32]
        await self._ctx.kv.put(key, text, ttl=self._ttl_s)

    async def recall(self, step: str, query: str) -> list[str]:
        """The memories that fit the query best, best first; a step: every attempt recalls the same."""
        found: list[str] = await self._ctx.step(step, self._search, query)
        return found

    async def _search(self, query: str) -> list[str]:
        texts: list[str] = []
        async for entry in self._ctx.kv.list(self._prefix):
            texts.append(str(entry.value))
            if len(texts) == MEMORIES_MAX:
                break
        return best(query, texts)


def best(query: str, texts: Sequence[str], count: int = FOUND) -> list[str]:
    """Of these texts those that share words with the query, by BM25."""
    documents = [Counter(_words(text)) for text in texts]
    sizes = [sum(words.values()) for words in documents]
    mean = sum(sizes) / len(sizes) if sizes else 0.0
    spread = Counter(word for words in documents for word in words)
    wanted = sorted(set(_words(query)))
    scores = [
        _score(wanted, words, size / mean if mean else 0.0, spread, len(texts))
        for words, size in zip(documents, sizes, strict=True)
    ]
    order = sorted(range(len(texts)), key=lambda place: (-scores[place], place))
    return [texts[place] for place in order[:count] if scores[place] > 0]


def _score(
    wanted: Iterable[str], words: Mapping[str, int], length: float, spread: Mapping[str, int], total: int
) -> float:
    score = 0.0
    for word in wanted:
        uses = words.get(word, 0)
        if uses:
            rarity = math.log(1 + (total - spread[word] + 0.5) / (spread[word] + 0.5))
            score += rarity * uses * (_K1 + 1) / (uses + _K1 * (1 - _B + _B * length))
    return score


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def memory_of(ctx: SkillContext, loaded: Mapping[str, Any], user: str) -> Memory | None:
    """None: the agent remembers nothing."""
    ttl_s = loaded["memory_ttl_s"]
    return Memory(ctx, loaded["id"], user, ttl_s) if ttl_s else None
