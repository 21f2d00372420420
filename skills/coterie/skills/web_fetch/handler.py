"""Get one page. See SKILL.md."""

from __future__ import annotations

import base64
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.errors import NonRetryable
from coterie.skills.outbound import Answer, Request, endpoints_of, send
from coterie.skills.shipped import permissions_of, settings_of
from coterie.skills.web_fetch.page import decoded, read_page
from coterie.skills.web_fetch.request import FetchRequest, WaySettings

_TEXTS = ("json", "xml", "javascript", "yaml", "csv", "x-www-form-urlencoded")


class NoText(NonRetryable):
    """What came is no text."""

    code = "NOT_TEXT"


async def run(ctx: SkillContext, input: FetchRequest) -> dict[str, Any]:
    """Raises NotAllowed, BadInput, Unreachable (a retry may help), NoText, BadSettings."""
    settings = settings_of(ctx, "web-fetch", WaySettings)
    way = settings.way(endpoints_of(await permissions_of(ctx)))
    language = {"Accept-Language": input.accept_language} if input.accept_language else {}
    asked = Request("GET", input.url, language)
    answer = await ctx.call_in_thread(lambda: send(way, asked))
    found = {"url": answer.url, "status": answer.status, "media_type": answer.media_type}
    if input.format == "raw":
        content = base64.b64encode(answer.body).decode()
        return {**found, "encoding": "base64", "content": content, "truncated": answer.truncated}
    return {**found, **_text(answer, input)}


def _text(answer: Answer, request: FetchRequest) -> dict[str, Any]:
    kind = answer.media_type
    if (
        not kind.startswith("text/")
        and not any(word in kind for word in _TEXTS)
        and (kind or b"\0" in answer.body)
    ):
        raise NoText(f"{answer.url} is {kind or 'no text'}; ask with format raw")
    source = decoded(answer.body, answer.headers.get("content-type", ""))
    more: dict[str, Any] = {}
    if request.format == "text" and "html" in kind:
        page = read_page(source, answer.url)
        source, more = page.text, {"title": page.title, "links": page.links}
    end = request.offset + request.limit
    if end < len(source):
        more["next_offset"] = end
    return {**more, "text": source[request.offset : end], "truncated": answer.truncated}
