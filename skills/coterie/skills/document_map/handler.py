"""Analyse one document in five recorded steps."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.document_map.fingerprint import fingerprint
from coterie.skills.document_map.prose import measure_words
from coterie.skills.document_map.python_code import measure_code
from coterie.skills.document_map.survey import KINDS, detect_kind, prose_of, prose_structure, survey
from coterie.skills.document_map.terms import key_terms
from coterie.skills.errors import BadInput

TEXT_CHARS_MAX = 1024 * 1024
PATH_CHARS_MAX = 1_024
_HALF = re.compile("[\ud800-\udfff]")  # JSON can spell it, no encoding has it


@dataclass(frozen=True, slots=True)
class Document:
    """The checked input."""

    path: str
    text: str
    kind: str
    witness: str


async def run(ctx: SkillContext, input: Any) -> dict[str, Any]:
    """The analysis of `input["text"]`. Raises BadInput naming every field that is wrong, BadSettings."""
    document = read_input(input)
    path, text, kind = document.path, document.text, document.kind
    if document.witness:
        from coterie.skills.document_map.request import check_witness  # most runs need none of it

        check_witness(ctx, document.witness)

    async def step(name: str, fn: Callable[..., dict[str, Any]], *args: str) -> dict[str, Any]:
        call = witnessed(document.witness, ctx, name, fn) if document.witness else fn
        result: dict[str, Any] = await ctx.step(name, call, *args)
        return result

    surveyed = await step("survey", survey, path, text, kind)
    words = await step("words", words_step, kind, text)
    terms = await step("terms", key_terms, text)
    await ctx.progress(60, "counted")
    structure = await step("structure", structure_step, path, text, kind)
    marked = await step("fingerprint", fingerprint, text)
    await ctx.progress(100, "analysed")
    return {
        "path": path,
        **surveyed,
        "words": words,
        "terms": terms,
        "code" if kind == "python" else "prose": structure,
        **marked,
        "summary": summary(surveyed, words, terms, structure),
    }


def read_input(input: Any) -> Document:
    """The payload as a Document. Raises BadInput naming every field that is wrong."""
    if not isinstance(input, Mapping):
        raise BadInput(
            f'input: {type(input).__name__} is not an object; send {{"path": "...", "text": "..."}}'
        )
    path, text, witness = (input.get(key, "") for key in ("path", "text", "witness"))
    problems = [
        f"{name}: {type(value).__name__} is not text"
        for name, value in (("path", path), ("text", text), ("witness", witness))
        if not isinstance(value, str)
    ]
    if isinstance(path, str) and not 0 < len(path) <= PATH_CHARS_MAX:
        problems.append(f"path: {len(path)} characters, give 1 to {PATH_CHARS_MAX}")
    if isinstance(text, str) and len(text) > TEXT_CHARS_MAX:
        problems.append(f"text: {len(text)} characters, at most {TEXT_CHARS_MAX}; split the document")
    elif isinstance(text, str) and (half := _HALF.search(text)) is not None:
        problems.append(f"text: half of a surrogate pair at character {half.start()}; send Unicode")
    kind = input.get("kind") or ""
    if kind and kind not in KINDS:
        problems.append(f"kind: {kind!r} is none of {', '.join(KINDS)}; leave it out to have it detected")
    if problems:
        raise BadInput("; ".join(problems))
    return Document(path, text, kind or detect_kind(path, text), witness)


def witnessed(
    witness: str, ctx: SkillContext, name: str, fn: Callable[..., dict[str, Any]]
) -> Callable[..., dict[str, Any]]:
    """`fn` that first says in the witness file that it is being executed.

    One write of one line to a file opened for appending, so lines of many processes do not mix.
    """
    line = f"{ctx.task_id}\t{name}\t{ctx.attempt}\t{os.getpid()}\n".encode()

    def call(*args: str) -> dict[str, Any]:
        file = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)
        return fn(*args)

    return call


def words_step(kind: str, text: str) -> dict[str, Any]:
    """Word counts of the text and readability of its prose."""
    return measure_words(text, prose_of(kind, text))


def structure_step(path: str, text: str, kind: str) -> dict[str, Any]:
    """Code metrics or the structure of prose."""
    return measure_code(path, text) if kind == "python" else prose_structure(kind, text)


def summary(
    surveyed: Mapping[str, Any],
    words: Mapping[str, Any],
    terms: Mapping[str, Any],
    structure: Mapping[str, Any],
) -> str:
    """One sentence about the document."""
    about = ", ".join(list(terms["top"])[:5]) or "nothing in particular"
    size = f"{surveyed['lines']} lines of {surveyed['kind']}, {words['words']} words"
    if structure.get("parsed"):
        size += f", {structure['functions']} functions, {structure['classes']} classes"
    elif "headings" in structure:
        size += f", {structure['headings']} headings"
    todo = sum(surveyed["markers"]["counts"].values())
    return f"{size}; about {about}" + (f"; {todo} markers left by the authors" if todo else "") + "."
