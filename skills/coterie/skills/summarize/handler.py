"""A long text in few words. See SKILL.md."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from coterie.skills import LlmAnswer, SkillContext
from coterie.skills.errors import TooLarge
from coterie.skills.long_text import TextInput, TextSettings, pieces, quoted, side_by_side
from coterie.skills.shipped import settings_of

SHRINK = 4  # a part's summary is at most this part of it, so that each round has an end
CHARS_PER_WORD = 6
TOKENS_PER_WORD = 6  # room for any language
_ASIAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_STOPS, _COMMAS = "\u3002\uff01\uff1f", "\u3001\uff0c"  # of full width
_WORD = re.compile(rf"[{_ASIAN}][{_STOPS}{_COMMAS}]?|[^\s{_ASIAN}]+")
_END = re.compile(rf"[.!?](?=\s|$)|[{_STOPS}]|(?=\n- )")
FORMS = {"paragraphs": "in plain paragraphs", "points": "as a list of points, each beginning with '- '"}
SYSTEM = (
    "You sum up texts. Say only what the text says: no opinion, nothing from elsewhere, names and numbers as"
    " they stand there."
)


class SummaryRequest(TextInput):
    """See SKILL.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    max_words: Annotated[int, Field(ge=10, le=5_000)] = 150
    form: Literal["paragraphs", "points"] = "paragraphs"
    focus: Annotated[str, Field(max_length=1_000)] = ""
    language: Annotated[str, Field(max_length=100)] = ""
    output: dict[str, Any] | None = Field(None, alias="schema", description="a JSON schema of the answer")


async def run(ctx: SkillContext, input: SummaryRequest) -> dict[str, Any]:
    """Raises TooLarge, BadSettings, and what `ctx.llm` raises."""
    settings = settings_of(ctx, "summarize", TextSettings)
    if len(input.text) > settings.text_chars_max:
        raise TooLarge(f"text: {len(input.text)} characters, the limit is {settings.text_chars_max}")
    work = _Work(ctx, input, settings)
    text, parts = await work.condensed()
    if input.output is not None:
        return {"data": await work.as_data(text), "parts": parts}
    summary, cut = await work.final(text)
    return {"summary": summary, "words": count_words(summary), "parts": parts, "cut": cut}


class _Work:
    """The questions of one run, in an order that depends on the input and on recorded answers alone."""

    def __init__(self, ctx: SkillContext, request: SummaryRequest, settings: TextSettings) -> None:
        self._ctx, self._request = ctx, request
        self._chars, self._options = settings.chunk_chars, settings.options(request)

    async def condensed(self) -> tuple[str, int]:
        """A text that fits one question, and into how many parts the whole was cut."""
        text, parts, level = self._request.text, 0, 0
        while len(text) > self._chars:
            level += 1
            cut = pieces(text, self._chars)
            parts = parts or len(cut)
            text = "\n\n".join(await self._level(level, cut))
        return text, parts or 1

    async def _level(self, level: int, parts: list[str]) -> list[str]:
        calls = [
            self._ctx.llm(self._about_part(part, number, len(parts)), name=f"part{level}", **self._options)
            for number, part in enumerate(parts, start=1)
        ]

        async def done(count: int) -> None:
            await self._ctx.progress(90 * count / len(parts), f"level {level}: {count} of {len(parts)} parts")

        answers: list[LlmAnswer] = await side_by_side(calls, done)
        return [answer.text.strip()[: self._chars // SHRINK - 2] for answer in answers]

    async def as_data(self, text: str) -> Any:
        """A value of the caller's schema."""
        words = "Answer with JSON of the schema, with what the text says."
        answer = await self._ctx.llm(
            self._talk(words, text), name="data", schema=self._request.output, **self._options
        )
        return answer.data

    async def final(self, text: str) -> tuple[str, bool]:
        """The summary, and whether its end had to be cut off."""
        most = self._request.max_words
        words = f"Sum up the text in at most {most} words, {FORMS[self._request.form]}."
        talk = self._talk(words, text)
        summary, count = await self._asked("summary", talk)
        if count <= most:
            return summary, False
        again = f"That has {count} words. Say it in at most {most}, and leave out what matters least."
        talk += [{"role": "assistant", "content": summary}, {"role": "user", "content": again}]
        summary, count = await self._asked("shorter", talk)
        return (summary, False) if count <= most else (_cut(summary, most), True)

    async def _asked(self, name: str, talk: list[dict[str, str]]) -> tuple[str, int]:
        """The answer and its words; what the model was kept from ending counts as too long."""
        room = self._request.max_words * TOKENS_PER_WORD
        answer = await self._ctx.llm(talk, name=name, max_tokens=room, **self._options)
        text = answer.text.strip()
        over = self._request.max_words + 1 if answer.finish_reason == "length" else 0
        return text, max(over, count_words(text))

    def _about_part(self, part: str, number: int, count: int) -> list[dict[str, str]]:
        most = max(20, self._chars // SHRINK // CHARS_PER_WORD)
        words = f"This is part {number} of {count} of a longer text. Sum it up in at most {most} words."
        return self._talk(words, part)

    def _talk(self, words: str, text: str) -> list[dict[str, str]]:
        focus = f" What matters most: {self._request.focus}." if self._request.focus else ""
        language = self._request.language or "the language of the text"
        asked = f"{words}{focus} Write in {language}.\n\n{quoted(text)}"
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]


def count_words(text: str) -> int:
    """A character of Chinese, Japanese or Korean counts as a word."""
    return len(_WORD.findall(text))


def _cut(text: str, words: int) -> str:
    """Its first words, to the end of a sentence or point where there is one in their second half."""
    found = [word.end() for word in _WORD.finditer(text)]
    kept = text[: found[min(words, len(found)) - 1]] if found else ""
    ends = [end.end() for end in _END.finditer(kept)]
    return kept[: ends[-1]].rstrip() if ends and ends[-1] > len(kept) // 2 else f"{kept.rstrip('.,;:')}…"
