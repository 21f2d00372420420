"""Words, sentences, readability and natural language of a text, and the prose that hides in source code."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

from coterie.skills.document_map.wordlists import LANGUAGE_WORDS

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
# A sentence ends with . ! or ? before white space and a capital, a quote or a bracket, or at a blank line.
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f]+[\"')\]]*(?=\s+[\"'(\[]*[A-Z\d]|\s*$)|\n\s*\n")
_VOWELS = re.compile(r"[aeiouy]+")
_CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
# Below this many words or sentences the readability formulas say nothing.
READABILITY_WORDS_MIN = 100
READABILITY_SENTENCES_MIN = 5
LANGUAGE_SHARE_MIN = 0.08
LANGUAGE_WORDS_READ = 3_000

# Strings come first, so that a # inside one does not look like a comment.
_PYTHON_COMMENT = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''(?:\\.|[^\\])*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'"
    r"|(?P<comment>#[^\n]*)",
    re.DOTALL,
)


class Comment(NamedTuple):
    """One comment; `alone` on its line, or behind code."""

    line: int
    text: str
    alone: bool


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: letters with inner apostrophes and hyphens."""
    return WORD.findall(text.lower())


def python_comments(text: str) -> list[Comment]:
    """The comments of a Python source, also of one that does not compile."""
    found = []
    line, position = 1, 0
    for match in _PYTHON_COMMENT.finditer(text):
        if match["comment"] is not None:
            start = match.start()
            line += text.count("\n", position, start)
            position = start
            alone = not text[text.rfind("\n", 0, start) + 1 : start].strip()
            found.append(Comment(line, match["comment"], alone))
    return found


def comment_blocks(text: str) -> list[str]:
    """Comments that fill lines of their own, as paragraphs; notes behind code are no sentences."""
    blocks: list[str] = []
    last_line = -1
    for comment in python_comments(text):
        if not comment.alone:
            continue
        content = comment.text.lstrip("#!: ")
        if comment.line == last_line + 1:
            blocks[-1] += "\n" + content
        else:
            blocks.append(content)
        last_line = comment.line
    return blocks


def count_sentences(text: str) -> int:
    """Sentences in a text, at least one when it has a word."""
    parts = _SENTENCE_END.split(text)
    return sum(1 for part in parts if WORD.search(part))


@lru_cache(maxsize=50_000)
def syllables(word: str) -> int:
    """Syllables of an English word: groups of vowels, less a silent e at the end; at least one."""
    groups = len(_VOWELS.findall(word))
    if word.endswith("e") and not word.endswith(("le", "ee", "ye")) and groups > 1:
        groups -= 1
    return max(groups, 1)


def readability(words: list[str], sentences: int) -> dict[str, Any]:
    """Flesch reading ease (Flesch 1948) and Flesch-Kincaid grade (Kincaid 1975) of English words.

    Both are None below READABILITY_WORDS_MIN words or READABILITY_SENTENCES_MIN sentences.
    """
    if len(words) < READABILITY_WORDS_MIN or sentences < READABILITY_SENTENCES_MIN:
        return {"reading_ease": None, "grade": None, "words_per_sentence": None}
    counts = Counter(words)
    per_word = sum(syllables(word) * count for word, count in counts.items()) / len(words)
    per_sentence = len(words) / sentences
    return {
        "reading_ease": round(206.835 - 1.015 * per_sentence - 84.6 * per_word, 1),
        "grade": round(0.39 * per_sentence + 11.8 * per_word - 15.59, 1),
        "words_per_sentence": round(per_sentence, 1),
    }


def natural_language(text: str) -> str:
    """ISO 639-1 code by the share of each language's most frequent words; "und" when none stands out."""
    sample = text[:40_000]
    if len(_CJK.findall(sample)) > len(sample) / 10:
        return _cjk_language(sample)
    words = words_of(sample)[:LANGUAGE_WORDS_READ]
    if not words:
        return "und"
    counts = Counter(words)
    shares = {
        language: sum(counts[word] for word in frequent) / len(words)
        for language, frequent in LANGUAGE_WORDS.items()
    }
    best = max(sorted(shares), key=lambda language: shares[language])
    return best if shares[best] >= LANGUAGE_SHARE_MIN else "und"


def measure_words(text: str, prose: str) -> dict[str, Any]:
    """Counts over the whole text, and readability of its prose (for code: docstrings and comments)."""
    words = words_of(text)
    vocabulary = len(set(words))
    prose_words = words if prose is text else words_of(prose)
    sentences = count_sentences(prose)
    return {
        "language": natural_language(prose),
        "words": len(words),
        "vocabulary": vocabulary,
        "type_token_ratio": round(vocabulary / len(words), 4) if words else 0.0,
        "characters_per_word": round(sum(map(len, words)) / len(words), 2) if words else 0.0,
        "prose_words": len(prose_words),
        "sentences": sentences,
        **readability(prose_words, sentences),
    }


def _cjk_language(sample: str) -> str:
    if re.search(r"[\u3040-\u30ff]", sample):
        return "ja"
    return "ko" if re.search(r"[\uac00-\ud7af]", sample) else "zh"
