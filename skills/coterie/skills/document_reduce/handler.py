"""Merge the analyses of many documents into one report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.document_reduce.links import find_duplicates, import_graph
from coterie.skills.document_reduce.markdown import write_markdown
from coterie.skills.document_reduce.rankings import marker_count, rank, totals
from coterie.skills.document_reduce.terms import inverted_index, weigh_terms
from coterie.skills.errors import BadInput

DOCUMENTS_MAX = 20_000
TITLE_CHARS_MAX = 200
_NEEDED = ("path", "kind", "lines", "markers", "words", "terms", "min_hash", "sha256")


async def run(ctx: SkillContext, input: Any) -> dict[str, Any]:
    """The report over `input["documents"]`. Raises BadInput naming what is wrong."""
    given = read_input(input)
    try:
        return await _merged(ctx, *given)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise BadInput(f"documents: something in them is not as document-map gives it: {said}") from error


async def _merged(
    ctx: SkillContext, documents: list[dict[str, Any]], title: str, failed: list[str]
) -> dict[str, Any]:
    analysis = ctx.restored
    if analysis is None:
        analysis = await _analyse(ctx, documents)
        await ctx.checkpoint(analysis)
    await ctx.progress(80, "writing the report")
    report = {
        "title": title,
        "failed": failed,
        **analysis,
        "documents": [_row(*both) for both in zip(documents, analysis["terms"]["documents"], strict=True)],
    }
    markdown = await ctx.step("markdown", write_markdown, title, report)
    index = inverted_index(documents)
    await ctx.progress(100, f"{len(documents)} documents merged")
    return {"markdown": markdown, "report": report, "index": index}


def read_input(input: Any) -> tuple[list[dict[str, Any]], str, list[str]]:
    """Documents ordered by path, title, failures. Raises BadInput."""
    if not isinstance(input, Mapping) or not isinstance(input.get("documents"), list):
        raise BadInput('documents: missing; send {"documents": [results of document-map]}')
    documents = input["documents"]
    if not 0 < len(documents) <= DOCUMENTS_MAX:
        raise BadInput(f"documents: {len(documents)} of them, give 1 to {DOCUMENTS_MAX}")
    for number, document in enumerate(documents):
        missing = [key for key in _NEEDED if not isinstance(document, Mapping) or key not in document]
        if missing:
            raise BadInput(f"documents[{number}]: no result of document-map: {', '.join(missing)} missing")
    title = input.get("title") or "Document report"
    failed = input.get("failed") or []
    if not isinstance(title, str) or len(title) > TITLE_CHARS_MAX:
        raise BadInput(f"title: not a text of at most {TITLE_CHARS_MAX} characters")
    if not isinstance(failed, list) or not all(isinstance(line, str) for line in failed):
        raise BadInput("failed: not a list of texts")
    return sorted(documents, key=lambda document: str(document["path"])), title, failed


async def _analyse(ctx: SkillContext, documents: list[dict[str, Any]]) -> dict[str, Any]:
    analysis: dict[str, Any] = {}
    stages = (
        ("totals", totals),
        ("terms", weigh_terms),
        ("rankings", rank),
        ("duplicates", find_duplicates),
        ("imports", import_graph),
    )
    for number, (name, fn) in enumerate(stages):
        await ctx.progress(15 * number, name)
        analysis[name] = await ctx.step(name, fn, documents)
    return analysis


def _row(document: Mapping[str, Any], terms: list[str]) -> dict[str, Any]:
    words = document["words"]
    return {
        "path": document["path"],
        "kind": document["kind"],
        "lines": document["lines"],
        "words": words["words"],
        "reading_ease": words["reading_ease"],
        "complexity_max": document.get("code", {}).get("complexity_max"),
        "markers": marker_count(document),
        "terms": terms,
        "summary": document.get("summary", ""),
    }
