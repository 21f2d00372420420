from __future__ import annotations

import math
import random
from typing import Any

import pytest

from coterie.skills import jsonio
from coterie.skills.document_reduce import handler, links, markdown, rankings, terms
from coterie.skills.errors import BadInput
from tests.demo.fakes import SOURCE, FakeLink, context, mapped

STEPS = ["totals", "terms", "rankings", "duplicates", "imports", "markdown"]
LONG = " ".join(f"word{number}" for number in range(300))


@pytest.fixture
async def documents() -> list[dict[str, Any]]:
    return [
        await mapped("pkg/mod.py", SOURCE),
        await mapped("pkg/user.py", "import pkg.mod\nimport os.path\n# TODO later\n"),
        await mapped("pkg/other.py", "from pkg.mod import Reader\n"),
        await mapped("docs/a.md", "# Cluster\n\nA cluster of nodes. " + LONG),
        await mapped("docs/b.md", "# Cluster\n\nA cluster of hosts. " + LONG),
        await mapped("docs/copy.md", "# Cluster\n\nA cluster of nodes. " + LONG),
        await mapped("broken.py", "def broken(:\n"),
    ]


async def test_a_run_records_its_steps_and_a_checkpoint(documents: list[dict[str, Any]]) -> None:
    link = FakeLink()
    result = await handler.run(context(link), {"documents": documents, "title": "T", "failed": ["x: why"]})
    assert list(link.steps) == STEPS
    assert len(link.checkpoints) == 1
    assert link.progress[-1] == (100, "7 documents merged")
    assert result["markdown"].startswith("# T\n")
    assert "x: why" in result["markdown"]
    assert result["report"]["totals"]["documents"] == len(result["report"]["documents"]) == 7


async def test_the_order_of_the_documents_does_not_matter(documents: list[dict[str, Any]]) -> None:
    results = []
    for seed in range(5):
        random.Random(seed).shuffle(documents)
        results.append(await handler.run(context(FakeLink()), {"documents": list(documents)}))
    assert all(result == results[0] for result in results)


async def test_a_resumed_run_writes_the_report_from_the_checkpoint(documents: list[dict[str, Any]]) -> None:
    first, second = FakeLink(), FakeLink()
    whole = await handler.run(context(first), {"documents": documents})
    again = context(second, attempt=2, checkpoint=first.checkpoints[0])
    assert await handler.run(again, {"documents": documents}) == whole
    assert list(second.steps) == ["markdown"]


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (None, "documents:"),
        ({"documents": []}, "documents: 0"),
        ({"documents": [{"path": "a"}]}, "documents[0]: no result of document-map: kind"),
        ({"documents": [3]}, "documents[0]"),
    ],
)
def test_bad_input_is_refused(payload: Any, named: str) -> None:
    with pytest.raises(BadInput) as caught:
        handler.read_input(payload)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"terms": 1}, {"words": {}}, {"markers": []}, {"min_hash": "xyz"}, {"code": {"parsed": True}}],
)
async def test_what_document_map_did_not_give_is_refused(
    documents: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match="as document-map gives it"):
        await handler.run(context(FakeLink()), {"documents": [*documents, {**documents[0], **change}]})


def test_totals(documents: list[dict[str, Any]]) -> None:
    found = rankings.totals(documents)
    assert found["kinds"] == {"python": 4, "markdown": 3}
    assert found["markers"] == {"TODO": 2, "FIXME": 1}
    assert found["unparsed"] == ["broken.py"]
    assert found["functions"] == 3


def test_rankings(documents: list[dict[str, Any]]) -> None:
    found = rankings.rank(documents)
    assert found["most_complex"][0]["name"] == "Reader.read"
    assert found["most_markers"][0] == {"path": "pkg/mod.py", "markers": 2}
    assert [row["marker"] for row in found["markers"]] == ["FIXME", "TODO", "TODO"]
    assert {row["folder"] for row in found["folders"]} == {"docs", "pkg"}


def test_rare_terms_weigh_more_than_common_ones() -> None:
    def document(path: str, top: dict[str, int]) -> dict[str, Any]:
        return {"path": path, "terms": {"total": sum(top.values()), "top": top}}

    corpus = [
        document("a", {"common": 2, "rare": 2}),
        document("b", {"common": 1, "second": 1}),
        document("c", {"common": 1}),
    ]
    assert terms.weigh_terms(corpus)["documents"] == [["rare", "common"], ["second", "common"], ["common"]]
    assert terms.idf(3, 3) == 1.0
    assert terms.idf(3, 1) == math.log(2) + 1
    assert terms.inverted_index(corpus) == {"common": [[0, 2], [1, 1], [2, 1]]}


def test_equal_and_near_documents_are_told_apart(documents: list[dict[str, Any]]) -> None:
    found = links.find_duplicates(documents)
    assert found["exact"] == [["docs/a.md", "docs/copy.md"]]
    pairs = {(row["left"], row["right"]) for row in found["nearest"]}
    assert pairs == {("docs/a.md", "docs/b.md"), ("docs/b.md", "docs/copy.md")}
    assert found["families"] == [{"documents": 3, "members": ["docs/a.md", "docs/b.md", "docs/copy.md"]}]


async def test_a_large_family_is_found_without_comparing_all_pairs() -> None:
    many = [await mapped(f"f{number:03}.txt", f"{LONG} end{number}") for number in range(100)]
    found = links.find_duplicates(many)
    assert found["families"][0]["documents"] == 100
    assert found["near_pairs"] < 100 * 99 / 4


def test_the_import_graph_joins_names_to_modules(documents: list[dict[str, Any]]) -> None:
    found = links.import_graph(documents)
    assert found["hubs"] == [{"module": "pkg.mod", "imported_by": 2}]
    assert {"module": "os", "imported_by": 2} in found["outside"]


async def test_text_of_documents_cannot_break_the_report() -> None:
    nasty = "a|b`c\\d.py"
    documents = [await mapped(nasty, "# TODO x | y `z`\ndef f():\n    pass\n")]
    result = await handler.run(context(FakeLink()), {"documents": documents, "title": "a\n# b"})
    text = result["markdown"]
    assert text.splitlines()[0] == "# a # b"
    rows = [line for line in text.splitlines() if "TODO x" in line]
    assert rows == ["| a\\|b'c\\\\d.py | 1 | TODO | TODO x \\| y 'z' |"]


async def test_the_report_of_one_plain_document_has_no_empty_sections() -> None:
    documents = [await mapped("a.txt", "hello world")]
    result = await handler.run(context(FakeLink()), {"documents": documents})
    assert "## Import hubs" not in result["markdown"]
    assert "## Most complex functions" not in result["markdown"]
    assert jsonio.decode(jsonio.encode(result, "the result", 1 << 20)) == result


def test_line_numbers_have_no_thousands_separator() -> None:
    report = {
        "totals": rankings.totals([]),
        "failed": [],
        "terms": {"corpus": []},
        "rankings": {**rankings.rank([]), "longest": [{"path": "a", "line": 12345, "lines": 6789}]},
        "duplicates": links.find_duplicates([]),
        "imports": links.import_graph([]),
    }
    assert "| a | 12345 | 6,789 |" in markdown.write_markdown("T", report)
