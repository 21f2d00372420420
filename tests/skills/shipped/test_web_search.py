"""Engines behind real HTTP, and an index in a real file."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from coterie.skills.web_search import local
from coterie.skills.web_search.request import Document
from tests.skills.shipped.support import Journal, attempt, refusal, value
from tests.skills.shipped.webserver import Asked, Reply, WebServer, serving

SKILL = "web-search"
DOCUMENTS = [
    {
        "id": "raft",
        "title": "Raft",
        "text": "A leader is elected by a majority. The log is replicated.",
        "url": "u1",
    },
    {
        "id": "paxos",
        "title": "Paxos",
        "text": "Proposers and acceptors; a leader helps. It is older than Raft.",
    },
    {"id": "cafe", "title": "Café", "text": "Un café près de la gare, über Straßen"},
    {"id": "zh", "title": "共识算法", "text": "分布式系统中的领导者选举需要多数派同意。"},
    {"id": "ja", "title": "カフェ", "text": "東京のカフェで会いましょう"},
]


def answering(content: Any, status: int = 200) -> Any:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda asked: Reply(body, status, {"Content-Type": "application/json"})


def query_of(asked: Asked) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(asked.path).query).items()}


async def test_searxng_is_asked_and_understood(web: WebServer) -> None:
    found = {
        "title": "A <b>b</b>",
        "url": "https://a/",
        "content": "x &amp; y",
        "engine": "e",
        "publishedDate": "2026",
    }
    web.routes["/s/search"] = answering(
        {"results": [found, {"title": "no url"}, {**found, "url": "https://b/"}]}
    )
    engines = {"engines": {"main": {"kind": "searxng", "url": web.url + "/s/"}}}
    given = {"query": "raft & paxos", "limit": 1, "language": "en", "period": "month"}
    answer = await value(SKILL, given, engines)
    assert answer == {
        "engine": "main",
        "results": [{"title": "A b", "url": "https://a/", "snippet": "x & y", "published": "2026"}],
    }
    asked = {"q": "raft & paxos", "format": "json", "language": "en", "time_range": "month"}
    assert query_of(web.asked[0]) == asked


async def test_brave_is_asked_and_understood(web: WebServer) -> None:
    found = {"title": "A", "url": "https://a/", "description": "<strong>x</strong>"}
    web.routes["/web/search"] = answering({"web": {"results": [found]}})
    engines = {"engines": {"b": {"kind": "brave", "url": web.url, "apiKey": "k1"}}}
    answer = await value(SKILL, {"query": "q", "limit": 50, "period": "week"}, engines)
    assert answer["results"] == [{"title": "A", "url": "https://a/", "snippet": "x"}]
    assert query_of(web.asked[0]) == {"q": "q", "count": "20", "freshness": "pw"}
    assert web.asked[0].headers["X-Subscription-Token"] == "k1"


@pytest.mark.parametrize(
    ("reply", "code", "retryable"),
    [
        (answering({}, 503), "ENGINE_FAILED", True),
        (answering({}, 429), "ENGINE_FAILED", True),
        (answering({}, 401), "ENGINE_REFUSED", False),
        (answering(b"<html>"), "ENGINE_REFUSED", False),
        (answering([1]), "ENGINE_FAILED", True),
    ],
)
async def test_an_engine_that_fails_is_an_error(
    web: WebServer, reply: Any, code: str, retryable: bool
) -> None:
    web.routes["/search"] = reply
    engines = {"engines": {"main": {"kind": "searxng", "url": web.url}}}
    outcome = await attempt(SKILL, {"query": "q"}, engines)
    assert (outcome.code, outcome.retryable) == (code, retryable)


async def test_an_engine_leads_nowhere_else(web: WebServer) -> None:
    with serving() as other:
        web.routes["/web/search"] = lambda asked: Reply(status=302, headers={"Location": other.url})
        engines = {"engines": {"b": {"kind": "brave", "url": web.url, "apiKey": "k1"}}}
        outcome = await refusal(SKILL, {"query": "q"}, engines)
        assert (outcome.code, other.asked, "k1" in outcome.message) == ("REDIRECTED", [], False)


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, Any]:
    """One local index with documents."""
    path = tmp_path / "index.sqlite"
    local.add(path, [Document(**one) for one in DOCUMENTS])
    return {"engines": {"own": {"kind": "local", "path": str(path)}}}


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("raft", ["raft", "paxos"]),  # the title counts more
        ("leader majority", ["raft"]),
        ('"helps leader"', []),
        ('"leader helps"', ["paxos"]),
        ("cafe", ["cafe"]),
        ("ÜBER", ["cafe"]),
        ("领导者", ["zh"]),
        ("共识", ["zh"]),
        ("导领", []),
        ("カフェ", ["ja"]),
        ("raft nonsense", ["raft", "paxos"]),
        ("NEAR( - * ^ :", []),
        ('raft" OR "', ["raft", "paxos"]),
        ("'; DROP TABLE words", []),
        ("!!", []),
    ],
)
async def test_documents_are_found_by_their_words(engines: Any, query: str, ids: list[str]) -> None:
    answer = await value(SKILL, {"query": query}, engines)
    assert [one["id"] for one in answer["results"]] == ids


async def test_a_result_shows_where_the_words_are(engines: Any) -> None:
    (found,) = (await value(SKILL, {"query": "多数派"}, engines))["results"]
    assert found == {"id": "zh", "title": "共识算法", "url": "", "snippet": DOCUMENTS[3]["text"]}
    assert len((await value(SKILL, {"query": "leader", "limit": 1}, engines))["results"]) == 1


async def test_documents_are_replaced_and_removed_also_after_a_crash(engines: Any) -> None:
    new = [{"id": "raft", "text": "something else entirely"}, {"id": "more", "text": "leader"}]
    journal = Journal()
    journal.crash_before_record = True
    given = {"operation": "add", "documents": new}
    assert (await attempt(SKILL, given, engines, journal)).kind == "fenced"
    journal.crash_before_record = False
    assert (await value(SKILL, given, engines, journal=journal))["documents"] == 6
    answer = await value(SKILL, {"query": "leader"}, engines)
    assert sorted(one["id"] for one in answer["results"]) == ["more", "paxos"]
    assert (await value(SKILL, {"operation": "remove", "ids": ["more", "none"]}, engines))["documents"] == 5
    assert len((await value(SKILL, {"query": "leader"}, engines))["results"]) == 1


def _add(path: Path, start: int) -> None:
    for number in range(start, start + 20):
        local.add(path, [Document(id=str(number), text=f"word{number} common")])


def test_the_words_are_looked_through_once_whatever_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    connect = sqlite3.connect

    def traced(*args: Any, **more: Any) -> sqlite3.Connection:
        index: sqlite3.Connection = connect(*args, **more)
        index.set_trace_callback(said.append)
        return index

    monkeypatch.setattr(sqlite3, "connect", traced)
    documents = [Document(id=f"d{number}", text="word") for number in range(20)]
    assert local.add(tmp_path / "i", documents) == 20
    assert not [one for one in said if one.startswith("DELETE FROM words")]
    twice = [Document(id="d1", text="first"), Document(id="d1", text="last")]
    assert local.add(tmp_path / "i", [*documents, *twice]) == 20
    assert len([one for one in said if one.startswith("DELETE FROM words")]) == 1
    assert [one["id"] for one in local.search(tmp_path / "i", "last", 5)] == ["d1"]
    assert local.search(tmp_path / "i", "first", 5) == []
    assert len(local.search(tmp_path / "i", "wo\0rd word", 50)) == 19


def test_processes_may_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    local.add(path, [Document(id="0", text="x")])
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add, args=(path, start)) for start in (100, 200, 300)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(local.search(path, "common", 100)) == 60


@pytest.mark.parametrize("how", ["missing", "other", "folder"])
async def test_a_missing_index_is_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "no" / "index"
    if how == "other":
        path = tmp_path / "file"
        path.write_text("something else, long enough to be looked at" * 20)
    if how == "folder":
        path = tmp_path
    engines = {"engines": {"own": {"kind": "local", "path": str(path)}}}
    outcome = await refusal(SKILL, {"query": "q"}, engines)
    assert outcome.code == "NO_INDEX" and str(path) in outcome.message


async def test_a_busy_index_may_be_tried_again(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BUSY_S", 0.05)
    path = engines["engines"]["own"]["path"]
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    outcome = await attempt(SKILL, {"operation": "remove", "ids": ["raft"]}, engines)
    holder.close()
    assert (outcome.code, outcome.retryable) == ("INDEX_BUSY", True)


@pytest.mark.parametrize(
    ("given", "settings", "code", "named"),
    [
        ({}, None, "BAD_INPUT", "search needs query"),
        ({"operation": "add"}, None, "BAD_INPUT", "add needs documents"),
        ({"query": "q", "engine": "x"}, None, "BAD_INPUT", "there is no 'x'; known: own"),
        ({"query": "q", "limit": 51}, None, "BAD_INPUT", "limit"),
        ({"query": "q"}, {}, "BAD_SETTINGS", "engines: Field required"),
        (
            {"query": "q"},
            {"engines": {"b": {"kind": "brave"}}},
            "BAD_SETTINGS",
            "a brave engine needs apiKey",
        ),
        ({"query": "q"}, {"engines": {"s": {"kind": "searxng"}}}, "BAD_SETTINGS", "needs url"),
        ({"query": "q"}, {"engines": {"l": {"kind": "local"}}}, "BAD_SETTINGS", "needs path"),
        (
            {"operation": "remove", "ids": ["x"]},
            {"engines": {"s": {"kind": "searxng", "url": "http://x"}}},
            "BAD_INPUT",
            "remove is for an engine of kind local",
        ),
    ],
)
async def test_a_mistake_is_named(engines: Any, given: Any, settings: Any, code: str, named: str) -> None:
    outcome = await refusal(SKILL, given, engines if settings is None else settings)
    assert outcome.code == code and named in outcome.message


async def test_an_agent_without_network_searches_only_here(engines: Any) -> None:
    journal = Journal()
    journal.permissions = {"network_access": False, "allowed_endpoints": []}
    both = {"engines": {**engines["engines"], "far": {"kind": "searxng", "url": "http://x"}}}
    assert (await value(SKILL, {"query": "raft"}, both, journal=journal))["engine"] == "own"
    outcome = await refusal(SKILL, {"query": "raft", "engine": "far"}, both, journal=journal)
    assert outcome.code == "NOT_ALLOWED"
