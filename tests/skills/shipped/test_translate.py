"""Translations: what is code comes back to the letter, glossaries are kept to, crashes cost nothing twice."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.skills.long_text import pieces
from coterie.skills.translate.markup import MARK, marked, spoilt
from tests.skills.shipped.model import Model, Talk, text_in
from tests.skills.shipped.support import attempt, refusal, value

SKILL = "translate"
PAGE = """---
title: Tides
---
# The node

A node runs `run(node)` and reads [the page](https://example.org/node?a=(b) "Node") or <https://example.org/x>.

```python
node = "not to be translated"  # node

print(node)
```

- one node
    and more of `it`, on a line of its own

- another

    has a second paragraph with `{it}`

Between lists.

    indented node code
    more of it

| node | {name} |
|------|--------|
<b>bold node</b> <!-- a node --> ${home} ⟦7⟧

[ref]: https://example.org/node
"""
TRANSLATED = ["# The node", "A node runs", " and reads [the page]", ") or <", "- one node\n    and more of"]
TRANSLATED += [
    ", on a line of its own",
    "- another",
    "has a second paragraph with",
    "Between lists",
    "| node |",
    "bold node",
]


def shout(talk: Talk) -> str:
    """In another language: capitals."""
    return re.sub(r"[^\W\d_]+", lambda found: found[0].upper(), text_in(talk))


async def test_code_links_and_placeholders_come_back_to_the_letter() -> None:
    model = Model(shout)
    found = await value(SKILL, {"text": PAGE, "to": "Capitals"}, journal=model)
    expected = PAGE
    for words in TRANSLATED:
        expected = expected.replace(words, words.upper())
    assert found["text"] == expected
    assert (found["parts"], found["untranslated"], found["glossary_missed"]) == (1, [], [])
    sent = text_in(model.talks[0])
    assert not [word for word in ("example.org", "print", "indented", "title", "{name}") if word in sent]


async def test_a_long_text_is_translated_in_parts_and_a_crash_costs_nothing_twice() -> None:
    text = "\n\n".join(f"Paragraph {n} has `code{n}` and some words in it." for n in range(40))
    given_ = {"text": text, "to": "Capitals"}
    small = {"chunkChars": 300}
    model = Model(shout, dies_after=3)
    assert (await attempt(SKILL, given_, small, model)).kind == "fenced"
    found = await value(SKILL, given_, small, journal=model)
    shouted = re.sub(r"`code\d+`|[^\W\d_]+", lambda f: f[0] if f[0][0] == "`" else f[0].upper(), text)
    assert found["text"] == shouted
    assert found["parts"] == len(model.asked_keys) == len(set(model.asked_keys)) > 5
    assert all(len(text_in(talk)) <= 300 for talk in model.talks)


async def test_the_glossary_is_told_where_it_matters_and_asked_for_again() -> None:
    def stubborn(talk: Talk) -> str:
        return "Der Knoten" if "use Knoten for node" in talk[-1]["content"] else "Der Node"

    glossary = {"node": "Knoten", "tide": "Flut"}
    model = Model(stubborn)
    found = await value(SKILL, {"text": "The node", "to": "German", "glossary": glossary}, journal=model)
    assert (found["text"], found["glossary_missed"]) == ("Der Knoten", [])
    assert "- node = Knoten" in model.talks[0][-1]["content"] and "Flut" not in model.talks[0][-1]["content"]
    worse = Model(lambda talk: "Der Node")
    found = await value(SKILL, {"text": "The node", "to": "German", "glossary": glossary}, journal=worse)
    assert (found["text"], found["glossary_missed"]) == ("Der Node", ["node"])
    assert worse.asked_keys == ["part1", "part1.again"]


async def test_a_part_whose_marks_are_lost_twice_stays_as_it_was_and_is_named() -> None:
    model = Model(lambda talk: "nothing of it")
    text = "\n Call `f(x)` and {y}.\n"
    found = await value(SKILL, {"text": text, "to": "German"}, journal=model)
    assert found["text"] == text
    [left] = found["untranslated"]
    assert left["part"] == 1 and "⟦0⟧ ⟦1⟧ missing" in left["why"] and left["begins"] == text
    once = Model(lambda talk: shout(talk) if len(talk) > 2 else "")
    assert (await value(SKILL, {"text": text, "to": "Xx"}, journal=once))[
        "text"
    ] == "\n CALL `f(x)` AND {y}.\n"
    cut = Model(shout)
    cut.finish = lambda talk: "length"
    found = await value(SKILL, {"text": "Words.", "to": "Xx"}, journal=cut)
    assert found["text"] == "Words." and "maxOutputTokens" in found["untranslated"][0]["why"]


async def test_a_part_whose_answer_does_not_fit_is_translated_in_halves() -> None:
    text = "Some words and `code` in a sentence. " * 60
    model = Model(shout)
    model.finish = lambda talk: "length" if len(text_in(talk)) > 700 else "stop"
    found = await value(SKILL, {"text": text, "to": "Xx"}, journal=model)
    assert found["text"] == text.upper().replace("`CODE`", "`code`") and found["untranslated"] == []
    assert model.asked_keys[:2] == ["part1", "part1.1"] and len(set(model.asked_keys)) == len(
        model.asked_keys
    )


async def test_what_has_no_words_is_not_asked_about() -> None:
    model = Model(shout)
    text = "```\ncode\n```\n\n1 + 2\n"
    assert (await value(SKILL, {"text": text, "to": "Xx"}, journal=model))["text"] == text
    assert model.asked_keys == []


@pytest.mark.parametrize(
    ("given_", "settings_", "code"),
    [
        ({"text": "x"}, {}, "BAD_INPUT"),
        ({"text": "x", "to": "German", "glossary": {"": "x"}}, {}, "BAD_INPUT"),
        ({"text": "x" * 11, "to": "German"}, {"textCharsMax": 10}, "TOO_LARGE"),
    ],
)
async def test_what_cannot_be_is_refused(given_: Any, settings_: Any, code: str) -> None:
    assert (await refusal(SKILL, given_, settings_, journal=Model(shout))).code == code


FRAGMENTS = ["`", "```", "~~~\n", "\n", "\n\n", "    ", "\t", "- ", "word ", "⟦1⟧", "](", ")", "<b>", "<!--"]
FRAGMENTS += ["-->", "{a}", "{{", "}}", "---\n", "https://x.org/y ", "。", "é", ". "]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join), st.integers(20, 60))
def test_any_text_with_marks_restored_and_pieces_joined_is_the_same(text: str, chars: int) -> None:
    found = marked(text)
    assert found.restored(found.text) == text
    parts = pieces(found.text, chars, MARK)
    assert "".join(parts) == found.text and all(0 < len(part) <= chars for part in parts)
    assert sum(len(MARK.findall(part)) for part in parts) == len(MARK.findall(found.text)) == len(found.kept)
    assert spoilt(found.text, found.text) == ""


def test_marks_that_are_missing_or_too_many_are_named() -> None:
    assert spoilt("⟦1⟧ ⟦2⟧", "⟦2⟧ ⟦2⟧ ⟦3⟧") == "⟦1⟧ missing; ⟦2⟧ ⟦3⟧ too many"


def test_a_mark_is_never_cut_in_two() -> None:
    found = marked("{a}" * 40)
    assert found.restored("".join(pieces(found.text, 22, MARK))) == "{a}" * 40
    assert all(MARK.sub("", part) == "" for part in pieces(found.text, 22, MARK))
