"""What of a text is not for translation, and the marks that stand for it meanwhile."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MARK = re.compile(r"⟦\d+⟧")
_INLINE = r"""
    (?P<quote>`+)(?!`)[^\n]*?(?<!`)(?P=quote)(?!`)                 # code in a line
  | <!--.*?-->                                                     # HTML
  | </?[A-Za-z][^<>\n]*>
  | (?<=\])\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)                   # the target of a link
  | ^[ ]{0,3}\[[^\]\n]+\]:[ ][^\n]*$                               # a definition of one
  | <?https?://[^\s<>()]+>?                                        # addresses
  | \{\{.*?\}\} | \$?\{\w+\}                                       # placeholders of templates
  | ⟦\d+⟧                                                          # what looks like a mark of ours
"""
_BLOCKS = r"""
    \A---\n.*?\n---(?=\n|\Z)                                      # front matter
  | ^[ ]{0,3}(?P<ticks>`{3,}|~{3,})[^\n]*(?:\n|\Z)                # a code block,
        (?:.*?^[ ]{0,3}(?P=ticks)[`~]*[ ]*$|.*\Z)                  # to its end or that of the text
  | (?P<indented>(?<![^\n]\n)(?:^(?:[ ]{4}|\t)[^\n]+(?:\n|\Z))+)   # indented after an empty line
"""
_FLAGS = re.M | re.S | re.X
_WITHIN = re.compile(_INLINE, _FLAGS)
_KEPT = re.compile(f"{_BLOCKS}|{_INLINE}", _FLAGS)
_LIST_ITEM = re.compile(r"^[ ]{0,3}(?:[-*+]|\d+[.)])[ ]", re.M)


@dataclass(frozen=True, slots=True)
class Marked:
    """A text in which marks stand for what is kept."""

    text: str
    kept: tuple[str, ...]

    def restored(self, text: str) -> str:
        """With what the marks stand for."""
        return MARK.sub(lambda found: self.kept[int(found[0][1:-1])], text)


def marked(text: str) -> Marked:
    """The text with marks; restored it is the same again."""
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        piece = found[0]
        if found.groupdict().get("indented") and _in_list(text, found.start()):
            return _WITHIN.sub(keep, piece)  # goes on with what a list item says
        tail = "\n" if piece.endswith("\n") else ""
        kept.append(piece.removesuffix("\n"))
        return f"⟦{len(kept) - 1}⟧{tail}"

    return Marked(_KEPT.sub(keep, text), tuple(kept))


def _in_list(text: str, place: int) -> bool:
    """Whether the paragraphs before are a list, so that indentation means that it goes on."""
    before = text[:place].rstrip().rpartition("\n\n")[2]
    return _LIST_ITEM.search(before) is not None or before[:1] in (" ", "\t")


def spoilt(before: str, after: str) -> str:
    """What is wrong with the marks of a translation; empty: nothing."""
    wanted, found = Counter(MARK.findall(before)), Counter(MARK.findall(after))
    missing, extra = sorted((wanted - found).elements()), sorted((found - wanted).elements())
    said = [f"{' '.join(missing)} missing"] if missing else []
    said += [f"{' '.join(extra)} too many"] if extra else []
    return "; ".join(said)


def is_for_translation(text: str) -> bool:
    """Whether there is a letter in it besides marks."""
    return any(char.isalpha() for char in MARK.sub("", text))


def terms_in(text: str, terms: Sequence[str]) -> list[str]:
    """Those of the terms that stand in the text as words of their own."""
    return [term for term in terms if re.search(rf"(?<!\w){re.escape(term)}(?!\w)", text, re.IGNORECASE)]
