"""A text in another language. See SKILL.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from coterie.skills import LlmAnswer, SkillContext
from coterie.skills.errors import TooLarge
from coterie.skills.long_text import WHOLE_CHARS_MAX, TextInput, TextSettings, pieces, quoted, side_by_side
from coterie.skills.shipped import settings_of
from coterie.skills.translate.markup import MARK, is_for_translation, marked, spoilt, terms_in

GLOSSARY_MAX = 500
HALVES_CHARS_MIN = 400  # what is shorter is not cut any more
SHOWN_CHARS = 200  # of a part that was left as it was
SYSTEM = (
    "You translate. Answer with the translation alone: no remark, no quotes around it. Keep line breaks,"
    " headings, lists, tables and emphasis of Markdown as they are. Signs such as ⟦7⟧ stand for code and the"
    " like: put each where it belongs, unchanged and exactly once."
)


class TranslationSettings(TextSettings):
    """`skills.settings.translate`."""

    chunk_chars: Annotated[int, Field(ge=200, le=1_000_000)] = 6_000  # the answer is as long as the question


Term = Annotated[str, Field(min_length=1, max_length=200)]


class TranslationRequest(TextInput):
    """See SKILL.md."""

    to: Annotated[str, Field(min_length=2, max_length=100)] = Field(description="the language")
    source: Annotated[str, Field(max_length=100)] = Field("", description="the language of the text")
    glossary: Annotated[dict[Term, Term], Field(max_length=GLOSSARY_MAX)] = Field(default_factory=dict)
    tone: Annotated[str, Field(max_length=200)] = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the text. `left`: why it is as it was."""

    text: str
    left: str = ""
    missed: tuple[str, ...] = ()


async def run(ctx: SkillContext, input: TranslationRequest) -> dict[str, Any]:
    """Raises TooLarge, BadSettings, and what `ctx.llm` raises."""
    settings = settings_of(ctx, "translate", TranslationSettings)
    if len(input.text) > settings.text_chars_max:
        raise TooLarge(f"text: {len(input.text)} characters, the limit is {settings.text_chars_max}")
    whole = marked(input.text)
    cut = pieces(whole.text, settings.chunk_chars, MARK)
    options = settings.options(input)
    calls = [_part(ctx, input, f"part{number}", part, options) for number, part in enumerate(cut, start=1)]

    async def done(count: int) -> None:
        await ctx.progress(100 * count / len(cut), f"{count} of {len(cut)} parts")

    parts = await side_by_side(calls, done)
    return {
        "text": whole.restored("".join(part.text for part in parts)),
        "parts": len(parts),
        "untranslated": [
            {"part": number, "why": part.left, "begins": whole.restored(part.text)[:SHOWN_CHARS]}
            for number, part in enumerate(parts, start=1)
            if part.left
        ],
        "glossary_missed": sorted({term for part in parts for term in part.missed}),
    }


async def _part(
    ctx: SkillContext, request: TranslationRequest, name: str, part: str, options: dict[str, Any]
) -> Part:
    """Asked once, and once more with what was wrong; in halves where the answer is longer than a model may
    make it. Its spaces at both ends are those that it had."""
    if not is_for_translation(part):
        return Part(part)
    core = part.strip()
    lead, trail = part[: part.index(core)], part[part.index(core) + len(core) :]
    terms = terms_in(core, tuple(request.glossary))
    talk = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": _asked(request, core, terms)}]
    fault, missed = "", tuple[str, ...]()
    for attempt in (name, f"{name}.again"):
        answer = await ctx.llm(talk, name=attempt, **options)
        if answer.finish_reason == "length" and len(part) > HALVES_CHARS_MIN:
            return await _halves(ctx, request, name, part, options)
        said = answer.text.strip()
        fault, missed = _fault(core, answer), _missed(request, terms, said)
        if not fault and not missed:
            return Part(f"{lead}{said}{trail}")
        talk = [
            *talk,
            {"role": "assistant", "content": said},
            {"role": "user", "content": _again(request, fault, missed)},
        ]
    return Part(part, left=fault) if fault else Part(f"{lead}{said}{trail}", missed=missed)


async def _halves(
    ctx: SkillContext, request: TranslationRequest, name: str, part: str, options: dict[str, Any]
) -> Part:
    cut = pieces(part, len(part) // 2 + WHOLE_CHARS_MAX, MARK)
    found = [await _part(ctx, request, f"{name}.{at}", one, options) for at, one in enumerate(cut, start=1)]
    left = "; ".join(dict.fromkeys(one.left for one in found if one.left))
    return Part("".join(one.text for one in found), left, tuple(term for one in found for term in one.missed))


def _asked(request: TranslationRequest, text: str, terms: list[str]) -> str:
    origin = f" from {request.source}" if request.source else ""
    tone = f" Tone: {request.tone}." if request.tone else ""
    words = "".join(f"\n- {term} = {request.glossary[term]}" for term in terms)
    glossary = f"\nUse these words:{words}" if terms else ""
    return f"Translate the text{origin} into {request.to}.{tone}{glossary}\n\n{quoted(text)}"


def _fault(before: str, answer: LlmAnswer) -> str:
    if answer.finish_reason == "length":
        return "the answer is longer than the model may make it (maxOutputTokens of the provider)"
    if not answer.text.strip():
        return "the answer is empty"
    return spoilt(before, answer.text)


def _missed(request: TranslationRequest, terms: list[str], said: str) -> tuple[str, ...]:
    return tuple(term for term in terms if request.glossary[term].lower() not in said.lower())


def _again(request: TranslationRequest, fault: str, missed: tuple[str, ...]) -> str:
    words = ", ".join(f"{request.glossary[term]} for {term}" for term in missed)
    said = [fault] if fault else []
    said += [f"use {words}"] if missed else []
    return f"Not right yet: {'; '.join(said)}. Give the whole translation again."
