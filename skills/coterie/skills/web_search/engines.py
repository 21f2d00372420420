"""Engines on the web. SearXNG's API and Brave's differ in names only."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from coterie.skills.errors import NonRetryable, SkillError
from coterie.skills.outbound import EVERYWHERE, Request, Way, send, target_of
from coterie.skills.web_search.request import Engine, SearchRequest

BRAVE_URL = "https://api.search.brave.com/res/v1"
BRAVE_PERIODS = {"day": "pd", "week": "pw", "month": "pm", "year": "py"}
BRAVE_COUNT_MAX = 20
TEXT_CHARS_MAX = 1_000
ANSWER_BYTES_MAX = 8 * 1024 * 1024
_TAG = re.compile(r"<[^>]{0,200}>")


class EngineRefused(NonRetryable):
    """The engine refuses us: a key is wrong, or what we ask is."""

    code = "ENGINE_REFUSED"


class EngineFailed(SkillError):
    """The engine does not answer as it should; a later attempt may fare better."""

    code = "ENGINE_FAILED"


def search(engine: Engine, request: SearchRequest) -> list[dict[str, Any]]:
    """The best first. Blocks. Raises EngineRefused, EngineFailed, Unreachable."""
    results = _brave(engine, request) if engine.kind == "brave" else _searxng(engine, request)
    return list(results)[: request.limit]


def _searxng(engine: Engine, request: SearchRequest) -> Iterator[dict[str, Any]]:
    asked = {"q": request.query, "format": "json"}
    asked |= {"language": request.language} if request.language else {}
    asked |= {"time_range": request.period} if request.period else {}
    key = {"Authorization": f"Bearer {engine.api_key}"} if engine.api_key else {}
    answer = _ask(engine, f"{engine.url.rstrip('/')}/search?{urlencode(asked)}", key)
    for found in _list(answer, "results"):
        yield _result(found, "content", "publishedDate")


def _brave(engine: Engine, request: SearchRequest) -> Iterator[dict[str, Any]]:
    asked = {"q": request.query, "count": str(min(request.limit, BRAVE_COUNT_MAX))}
    asked |= {"search_lang": request.language} if request.language else {}
    asked |= {"freshness": BRAVE_PERIODS[request.period]} if request.period else {}
    base = (engine.url or BRAVE_URL).rstrip("/")
    answer = _ask(engine, f"{base}/web/search?{urlencode(asked)}", {"X-Subscription-Token": engine.api_key})
    for found in _list(answer.get("web") or {}, "results"):
        yield _result(found, "description", "page_age")


def _ask(engine: Engine, url: str, headers: Mapping[str, str]) -> Mapping[str, Any]:
    parts = urlsplit(url)
    # The operator wrote this address: it may be inside, and no answer may lead away from it.
    way = Way(
        hosts=(target_of(url),),
        inside=EVERYWHERE,
        timeout_s=engine.timeout_s,
        bytes_max=ANSWER_BYTES_MAX,
        redirects_max=0,
    )
    answer = send(way, Request("GET", url, {"Accept": "application/json", **headers}))
    if answer.status == 429 or answer.status >= 500:
        raise EngineFailed(f"{parts.hostname} answers {answer.status}")
    if answer.status != 200:
        raise EngineRefused(
            f"{parts.hostname} answers {answer.status}; look at url and apiKey in the settings"
        )
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise EngineRefused(f"{parts.hostname} answers no JSON; does it offer format=json?") from error
    if not isinstance(found, dict):
        raise EngineFailed(f"{parts.hostname} answers JSON that is no search result")
    return found


def _list(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = answer.get(key) if isinstance(answer, dict) else None
    return (
        [one for one in found if isinstance(one, dict) and one.get("url")] if isinstance(found, list) else []
    )


def _result(found: Mapping[str, Any], text: str, date: str) -> dict[str, Any]:
    result = {
        "title": _plain(found.get("title")),
        "url": str(found["url"]),
        "snippet": _plain(found.get(text)),
    }
    return {**result, "published": str(found[date])} if found.get(date) else result


def _plain(value: object) -> str:
    return " ".join(html.unescape(_TAG.sub("", str(value or ""))).split())[:TEXT_CHARS_MAX]
