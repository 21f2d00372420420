from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from coterie.skills.document_map import fingerprint, handler, prose, python_code, survey, terms
from coterie.skills.errors import BadInput
from coterie.skills.shipped import BadSettings
from tests.demo.fakes import SOURCE, FakeLink, context, mapped

STEPS = ["survey", "words", "terms", "structure", "fingerprint"]
RESULT_BYTES_MAX = 8 * 1024


async def test_a_run_records_five_steps_in_order_and_reports_progress() -> None:
    link = FakeLink()
    result = await handler.run(context(link), {"path": "pkg/mod.py", "text": SOURCE})
    assert list(link.steps) == STEPS
    assert [percent for percent, _ in link.progress] == [60, 100]
    assert result["path"] == "pkg/mod.py"
    assert result["code"]["functions"] == 3


async def test_a_resumed_run_gives_the_same_result_without_running_recorded_steps(tmp_path: Path) -> None:
    first, allowed = FakeLink(), {"witness": str(tmp_path / "witness")}
    document = {"path": "a.md", "text": "# Title\n\nSome words.\n", **allowed}
    whole = await handler.run(context(first, settings=allowed), document)
    recorded = {name: first.steps[name] for name in STEPS[:3]}
    second = FakeLink()
    assert await handler.run(context(second, attempt=2, steps=recorded, settings=allowed), document) == whole
    assert list(second.steps) == STEPS[3:]
    lines = [line.split("\t") for line in (tmp_path / "witness").read_text().splitlines()]
    assert [(step, attempt) for _, step, attempt, _ in lines] == [
        *((step, "1") for step in STEPS),
        *((step, "2") for step in STEPS[3:]),
    ]


async def test_no_file_is_written_but_the_one_that_the_operator_names(tmp_path: Path) -> None:
    link, document = FakeLink(), {"path": "a.md", "text": "x", "witness": str(tmp_path / "log")}
    with pytest.raises(BadSettings, match=r"document-map\.witness"):
        await handler.run(context(link), document)
    with pytest.raises(BadInput, match="witness"):
        await handler.run(context(link, settings={"witness": str(tmp_path / "other")}), document)
    assert not link.steps and not os.listdir(tmp_path)


@pytest.mark.parametrize("document", [None, [], "text", {"path": 1, "text": b"", "witness": 3, "kind": "c"}])
async def test_bad_input_is_refused(document: Any) -> None:
    with pytest.raises(BadInput):
        await handler.run(context(FakeLink()), document)


async def test_a_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(BadInput, match="text: half of a surrogate pair at character 2"):
        await handler.run(context(FakeLink()), {"path": "a.md", "text": "ab\ud800"})


def test_a_refusal_names_every_field_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        handler.read_input(
            {"path": "", "text": "x" * (handler.TEXT_CHARS_MAX + 1), "kind": "c", "witness": 1}
        )
    for name in ("path:", "text:", "kind:", "witness:"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("a.py", "x", "python"),
        ("README.MD", "x", "markdown"),
        ("a.rst", "x", "restructuredtext"),
        ("notes", "x", "text"),
        ("tool", "#!/usr/bin/env python3\nx = 1\n", "python"),
    ],
)
def test_kinds(path: str, text: str, kind: str) -> None:
    assert survey.detect_kind(path, text) == kind


def test_words_are_letters_with_inner_marks() -> None:
    assert prose.words_of("Don't re-use 3 x_y's, naïve!") == ["don't", "re-use", "x", "y's", "naïve"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ("It costs 3.5 per unit, e.g. less.", 1),
        ("A heading\n\nA paragraph. Another", 3),
    ],
)
def test_sentences(text: str, sentences: int) -> None:
    assert prose.count_sentences(text) == sentences


@pytest.mark.parametrize(
    ("word", "count"), [("cat", 1), ("make", 1), ("table", 2), ("free", 1), ("reliability", 5), ("psst", 1)]
)
def test_syllables(word: str, count: int) -> None:
    prose.syllables.cache_clear()
    assert prose.syllables(word) == count


def test_readability_follows_the_formulas() -> None:
    # Ten sentences of ten one-syllable words each.
    found = prose.readability(["cat"] * 100, 10)
    assert found == {
        "reading_ease": round(206.835 - 1.015 * 10 - 84.6, 1),
        "grade": round(0.39 * 10 + 11.8 - 15.59, 1),
        "words_per_sentence": 10.0,
    }
    assert prose.readability(["cat"] * 99, 10)["grade"] is None
    assert prose.readability(["cat"] * 100, 4)["grade"] is None


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("the end of the story is that it was not for the better", "en"),
        ("das ist nicht die ganze Geschichte und wird auch nicht mit der Zeit besser", "de"),
        ("el final de la historia es que no se como en los libros por la noche", "es"),
        ("分布式系统中一致性可用性", "zh"),
        ("これは日本語です", "ja"),
        ("0x00 0x01", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert prose.natural_language(text) == language


def test_comments_are_told_from_strings_and_from_notes_behind_code() -> None:
    found = prose.python_comments(SOURCE)
    assert [(comment.line, comment.alone) for comment in found] == [(12, False), (13, True)]
    text = "# one\n# two\nx = 1  # note\n\n# three\n"
    assert prose.comment_blocks(text) == ["one\ntwo", "three"]


def test_markers_in_source_are_looked_for_in_comments_only() -> None:
    markers = survey.survey("a.py", SOURCE, "python")["markers"]
    assert markers["counts"] == {"FIXME": 1, "TODO": 1}
    assert markers["first"] == [
        {"line": 12, "marker": "TODO", "text": "TODO: read faster"},
        {"line": 13, "marker": "FIXME", "text": "FIXME this is wrong"},
    ]


def test_markers_in_prose_are_words_of_their_own() -> None:
    lines = enumerate(["a TODO", "mastodon TODOs", "BUG-123 is a name", "XXX"], start=1)
    assert terms.find_markers(lines)["counts"] == {"TODO": 1, "XXX": 1}


def test_terms_split_names_and_leave_out_stop_words() -> None:
    counted = terms.count_terms("read_file readFile HTTPServer the and self of ab")
    assert dict(counted) == {"read": 2, "file": 2, "http": 1, "server": 1}


def test_terms_are_ranked_by_count_then_name() -> None:
    found = terms.key_terms("zebra apple zebra mango")
    assert list(found["top"].items()) == [("zebra", 2), ("apple", 1), ("mango", 1)]
    assert (found["total"], found["distinct"]) == (4, 3)


def test_code_metrics() -> None:
    found = python_code.measure_code("pkg/sub/mod.py", SOURCE)
    assert (found["functions"], found["classes"]) == (3, 1)
    read = found["most_complex"][0]
    # 1 + for + if + and + elif + elif + comprehension with its condition
    assert (read["name"], read["complexity"], read["nesting"]) == ("Reader.read", 8, 3)
    assert (found["documented"], found["documentable"]) == (2, 5)
    assert found["imports"] == ["os", "pkg.outer", "pkg.sub.deep.er", "pkg.sub.sibling"]
    assert {row["name"] for row in found["longest"]} == {"Reader.read", "undocumented", "undocumented.inner"}


@pytest.mark.parametrize("text", ["def broken(:", "x = '\0'", "print 'old'", "(" * 2_000])
def test_what_is_no_python_is_said_to_be_none(text: str) -> None:
    assert python_code.measure_code("a.py", text) == {"parsed": False}


def test_a_tree_too_deep_is_cut_not_fatal() -> None:
    text = "x = 0\n" + "if x == 1:\n    pass\n" + "elif x == 2:\n    pass\n" * 600
    found = python_code.measure_code("a.py", text)
    assert found == {"parsed": False} or found["too_deep"]


def test_relative_imports_in_a_package_start_at_the_package() -> None:
    found = python_code.measure_code("pkg/__init__.py", "from . import a\nfrom .b import c\n")
    assert found["imports"] == ["pkg.a", "pkg.b"]
    assert found["module"] == "pkg"


def test_the_fingerprint_tells_near_from_far() -> None:
    base = [f"word{number}" for number in range(400)]
    changed = [*base[:200], "other", *base[201:]]
    stranger = [f"term{number}" for number in range(400)]
    hashes = [fingerprint.min_hash(" ".join(text)) for text in (base, changed, stranger)]
    assert fingerprint.similarity(hashes[0], hashes[0]) == 1.0
    assert fingerprint.similarity(hashes[0], hashes[1]) > 0.85
    assert fingerprint.similarity(hashes[0], hashes[2]) < 0.15


def test_the_fingerprint_survives_its_encoding_and_short_texts_have_none() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    assert fingerprint.decode(fingerprint.fingerprint(text)["min_hash"]) == fingerprint.min_hash(text)
    assert fingerprint.fingerprint("too short")["min_hash"] == ""
    assert fingerprint.similarity([], []) == 0.0


def test_structure_of_prose() -> None:
    text = "# One\n\nWords [here](https://example.org/a).\n\n## Two ##\n\nMore.\n"
    found = survey.prose_structure("markdown", text)
    assert (found["headings"], found["first_headings"]) == (2, ["One", "Two"])
    assert (found["paragraphs"], found["links"]) == (4, 1)
    assert survey.prose_structure("text", "Title\n=====\n\nWords.\n")["first_headings"] == ["Title"]


async def test_results_of_real_modules_are_compact_and_the_same_every_time() -> None:
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("argparse.py", "typing.py", "subprocess.py", "tkinter/__init__.py"):
        file = library / name
        if file.exists():
            text = file.read_text(encoding="utf-8")
            result = await mapped(name, text)
            assert len(json.dumps(result)) < RESULT_BYTES_MAX
            assert await mapped(name, text) == result
            assert result["code"]["functions"] > 50


async def test_an_empty_document_has_an_analysis_too() -> None:
    result = await mapped("empty.txt", "")
    assert (result["lines"], result["words"]["words"], result["min_hash"]) == (0, 0, "")
