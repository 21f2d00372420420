"""Objects in a real S3 server."""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.skills.shipped.support import Journal, attempt, hide, refusal, value
from tests.skills.shipped.webserver import Reply, WebServer

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SKILL = "object-storage"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server with two buckets."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
        aws_access_key_id="a", aws_secret_access_key="s",
    )  # fmt: skip
    for bucket in ("drafts", "library", "secret"):
        client.create_bucket(Bucket=bucket)
    client.put_object(Bucket="library", Key="books/one", Body="größe".encode(), ContentType="text/plain")
    client.put_object(Bucket="library", Key="letters/two", Body=b"x")
    yield f"http://{host}:{port}"
    moto.stop()


def settings(server: str, **more: Any) -> dict[str, Any]:
    keys = {"accessKey": "a", "secretKey": "s3cret", "timeoutS": 20}
    return {
        "stores": {
            "main": {"endpoint": server, **keys, "read": ["library/books/*"], "write": ["drafts"], **more}
        }
    }


def downloaded(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read())


async def do(server: str, operation: str, bucket: str = "drafts", **more: Any) -> Any:
    return await value(SKILL, {"operation": operation, "bucket": bucket, **more}, settings(server))


async def code(server: str, operation: str, bucket: str = "drafts", **more: Any) -> str:
    given = {"operation": operation, "bucket": bucket, **more}
    return (await refusal(SKILL, given, settings(server))).code


async def test_an_object_is_written_read_copied_and_deleted(server: str) -> None:
    made = await do(server, "put", key="a/b.txt", content="hällo", media_type="text/plain")
    assert made["bytes"] == 6
    found = await do(server, "get", key="a/b.txt")
    assert (found["content"], found["media_type"], found["etag"]) == ("hällo", "text/plain", made["etag"])
    part = await do(server, "get", key="a/b.txt", offset=1, limit=2, encoding="base64")
    assert (base64.b64decode(part["content"]), part["next_offset"]) == ("ä".encode(), 3)
    assert await code(server, "get", key="a/b.txt", limit=2) == "NOT_TEXT"
    assert await code(server, "put", key="a/b.txt", content="x") == "EXISTS"
    await do(server, "put", key="a/b.txt", content="eA==", encoding="base64", overwrite=True)
    await do(server, "copy", key="a/b.txt", to_bucket="drafts", to_key="c")
    assert (await do(server, "get", key="c"))["content"] == "x"
    await do(server, "delete", key="c")
    assert await code(server, "info", key="c") == "NOT_FOUND"
    assert (await do(server, "put", key="empty", content=""))["bytes"] == 0
    assert (await do(server, "get", key="empty"))["content"] == ""


async def test_an_object_that_is_replaced_while_it_is_read_may_be_read_again(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coterie.skills.object_storage import store

    facts = store._info
    monkeypatch.setattr(store, "_info", lambda *given: {**facts(*given), "etag": "0" * 32})
    given = {"operation": "get", "bucket": "library", "key": "books/one"}
    ended = await attempt(SKILL, given, settings(server))
    assert (ended.kind, ended.code, ended.retryable) == ("failed", "STORE_FAILED", True)


async def test_objects_are_listed_in_parts(server: str) -> None:
    for number in range(5):
        await do(server, "put", key=f"many/{number}", content="x", overwrite=True)
    first = await do(server, "list", prefix="many/", limit=3)
    rest = await do(server, "list", prefix="many/", limit=3, after=first["next_after"])
    keys = [one["key"] for one in (*first["objects"], *rest["objects"])]
    assert keys == [f"many/{number}" for number in range(5)] and "next_after" not in rest


async def test_a_link_may_be_downloaded_from(server: str) -> None:
    link = await do(server, "link", "library", key="books/one")
    assert downloaded(link["url"]).decode() == "größe"


@pytest.mark.parametrize(
    ("operation", "bucket", "more", "expected"),
    [
        ("get", "secret", {"key": "x"}, "NOT_ALLOWED"),
        ("get", "library", {"key": "letters/two"}, "NOT_ALLOWED"),
        ("list", "library", {"prefix": "letters/"}, "NOT_ALLOWED"),
        ("list", "library", {}, "NOT_ALLOWED"),
        ("put", "library", {"key": "books/x", "content": "x"}, "NOT_ALLOWED"),
        ("delete", "library", {"key": "books/one"}, "NOT_ALLOWED"),
        ("copy", "library", {"key": "letters/two", "to_bucket": "drafts", "to_key": "x"}, "NOT_ALLOWED"),
        ("copy", "drafts", {"key": "x", "to_bucket": "library", "to_key": "books/x"}, "NOT_ALLOWED"),
        ("link", "secret", {"key": "x"}, "NOT_ALLOWED"),
        ("get", "drafts", {"key": "none"}, "NOT_FOUND"),
        ("copy", "drafts", {"key": "none", "to_bucket": "drafts", "to_key": "x"}, "NOT_FOUND"),
        ("get", "drafts", {}, "BAD_INPUT"),
        ("put", "drafts", {"key": "x"}, "BAD_INPUT"),
        ("put", "drafts", {"key": "x", "content": "?", "encoding": "base64"}, "BAD_INPUT"),
        ("put", "drafts", {"key": "x", "content": "x" * 11}, "TOO_LARGE"),
        ("get", "drafts", {"key": "x", "store": "other"}, "BAD_INPUT"),
    ],
)
async def test_what_may_not_be_is_refused(
    server: str, operation: str, bucket: str, more: dict[str, Any], expected: str
) -> None:
    given = {"operation": operation, "bucket": bucket, **more}
    assert (await refusal(SKILL, given, settings(server, bytesMax=10))).code == expected


async def test_a_put_in_doubt_is_found_done_and_another_one_is_not_taken_for_it(server: str) -> None:
    journal = Journal()
    journal.crash_before_record = True
    given = {"operation": "put", "bucket": "drafts", "key": "once", "content": "x"}
    assert (await attempt(SKILL, given, settings(server), journal)).kind == "fenced"
    journal.crash_before_record = False
    assert (await value(SKILL, given, settings(server), journal=journal))["bytes"] == 1
    other = Journal()
    other.begun["put"] = 1  # an attempt that did not come as far
    await do(server, "put", key="theirs", content="y")
    await do(server, "copy", key="theirs", to_bucket="drafts", to_key="copied")
    given = {**given, "key": "library-copy"}
    await do(server, "copy", "library", key="books/one", to_bucket="drafts", to_key="library-copy")
    assert (await refusal(SKILL, given, settings(server), journal=other)).code == "EXISTS"


@pytest.mark.parametrize(("status", "expected"), [(503, "STORE_FAILED"), (403, "STORE_REFUSED")])
async def test_what_a_store_answers_decides(web: WebServer, status: int, expected: str) -> None:
    web.routes["/drafts/x"] = lambda asked: Reply(b"", status)
    given = {"operation": "delete", "bucket": "drafts", "key": "x"}
    outcome = await attempt(SKILL, given, settings(web.url))
    assert outcome.retryable == (status == 503) and outcome.code in (expected, "NOT_ALLOWED")
    assert len(web.asked) == 1, "the client itself repeats nothing"


async def test_a_store_that_is_not_there_may_be_tried_again() -> None:
    given = {"operation": "info", "bucket": "drafts", "key": "x"}
    outcome = await attempt(SKILL, given, settings("http://127.0.0.1:9"))
    assert (outcome.code, outcome.retryable, "s3cret" in outcome.message) == ("STORE_FAILED", True, False)


async def test_the_client_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "boto3", "object_storage", "store")
    outcome = await refusal(
        SKILL, {"operation": "info", "bucket": "drafts", "key": "x"}, settings("http://x")
    )
    assert "boto3 is not installed on this node; run: pip install 'coterie[s3]'" in outcome.message
