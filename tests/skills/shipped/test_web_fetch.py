"""Pages of a real server: text is extracted, limits hold, and nothing inside is reached."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.node.tls import init_tls, node_paths
from coterie.skills import outbound
from coterie.skills.addresses import why_not
from coterie.skills.outbound import Request, Unreachable, Way, networks, send
from coterie.skills.web_fetch.page import read_page
from tests.skills.shipped.support import Journal, attempt, refusal, value
from tests.skills.shipped.webserver import INSIDE, Reply, WebServer, serving

SKILL = "web-fetch"
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = """<!doctype html><html><head><title>A
 title</title><style>p {}</style><script>var x = "<p>no</p>"</script></head><body>
<nav><a href="/home">Home</a></nav><h1>Big &amp; bold</h1><p>One
   two <b>three</b>.</p><ul><li>first<li>second <a href="b.html#part">a <i>link</i></a></ul>
<table><tr><th>n</th><th>m</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre>def f():
    return 1</pre><noscript>no</noscript><img alt="A cat"><a href="javascript:evil()">no</a>
</body></html>"""


TEXT = [
    "Home", "", "# Big & bold", "", "One two three.", "", "- first", "- second a link", "", "| n | m", "",
    "| 1 | 2", "", "def f():", "    return 1", "A cat no",
]  # fmt: skip


def settings(web: WebServer, **more: Any) -> dict[str, Any]:
    return {"hosts": [web.target], "insideNetworks": INSIDE, **more}


async def fetch(web: WebServer, path: str, **more: Any) -> Any:
    return await value(SKILL, {"url": web.url + path, **more}, settings(web))


async def test_a_page_is_read_as_people_see_it(web: WebServer) -> None:
    web.routes["/dir/a.html"] = lambda asked: Reply(PAGE.encode(), headers=HTML)
    page = await fetch(web, "/dir/a.html", accept_language="de")
    assert (page["title"], page["status"], page["media_type"]) == ("A title", 200, "text/html")
    assert page["text"].split("\n") == TEXT
    assert page["links"] == [
        {"url": f"{web.url}/home", "text": "Home"},
        {"url": f"{web.url}/dir/b.html", "text": "a link"},
    ]
    assert web.asked[0].headers["Accept-Language"] == "de"


async def test_a_long_text_comes_in_parts(web: WebServer) -> None:
    web.routes["/t"] = lambda asked: Reply(b"abcdefgh")
    first = await fetch(web, "/t", limit=5)
    assert (first["text"], first["next_offset"]) == ("abcde", 5)
    rest = await fetch(web, "/t", limit=5, offset=5)
    assert rest["text"] == "fgh" and "next_offset" not in rest


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("größe".encode("latin-1"), "text/plain; charset=iso-8859-1", "größe"),
        ("<meta charset='shift_jis'><p>日本".encode("shift_jis"), "text/html", "日本"),
        ("größe".encode(), "text/plain", "größe"),
        (b"\xff!", "text/plain; charset=nonsense", "\ufffd!"),
        (json.dumps({"a": 1}).encode(), "application/json", '{"a": 1}'),
    ],
)
async def test_text_is_decoded(web: WebServer, body: bytes, kind: str, text: str) -> None:
    web.routes["/t"] = lambda asked: Reply(body, headers={"Content-Type": kind})
    assert (await fetch(web, "/t"))["text"] == text


async def test_what_is_no_text_comes_as_base64(web: WebServer) -> None:
    web.routes["/i"] = lambda asked: Reply(b"\x89PNG\0", headers={"Content-Type": "image/png"})
    assert base64.b64decode((await fetch(web, "/i", format="raw"))["content"]) == b"\x89PNG\0"
    outcome = await refusal(SKILL, {"url": web.url + "/i"}, settings(web))
    assert (outcome.code, "image/png" in outcome.message) == ("NOT_TEXT", True)


async def test_a_page_that_is_not_there_says_so(web: WebServer) -> None:
    assert (await fetch(web, "/none"))["status"] == 404


async def test_too_much_is_cut_also_when_it_is_packed(web: WebServer) -> None:
    bomb = gzip.compress(b"x" * 50_000_000)
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    web.routes["/bomb"] = lambda asked: Reply(bomb, headers=headers)
    web.routes["/small"] = lambda asked: Reply(gzip.compress(b"packed"), headers=headers)
    assert (await fetch(web, "/small"))["text"] == "packed"
    given = {"url": web.url + "/bomb", "limit": 1_000_000}
    cut = await value(SKILL, given, settings(web, bytesMax=1_000))
    assert (len(cut["text"]), cut["truncated"]) == (1_000, True)


def test_a_packed_answer_is_whole_or_none(web: WebServer) -> None:
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    one, other = gzip.compress(b"one, " * 50_000), gzip.compress(b"other")
    way = Way(hosts=(web.target,), inside=networks(INSIDE))
    for name, body in {
        "both": one + other + b"\0\0",
        "empty": b"",
        "cut": one[:-20],
        "cut2": one + other[:9],
    }.items():
        web.routes[f"/{name}"] = lambda asked, body=body: Reply(body, headers=headers)  # type: ignore[misc]
    assert send(way, Request("GET", web.url + "/both")).body == b"one, " * 50_000 + b"other"
    assert send(way, Request("GET", web.url + "/empty")).body == b""
    for name in ("cut", "cut2"):
        with pytest.raises(Unreachable, match="no end"):
            send(way, Request("GET", f"{web.url}/{name}"))


async def test_redirections_are_followed_where_they_may_go(web: WebServer) -> None:
    def moved(to: str) -> Any:
        return lambda asked: Reply(status=302, headers={"Location": to})

    with serving() as other:
        web.routes |= {"/a": moved("/b"), "/loop": moved("/loop"), "/away": moved(other.url + "/x")}
        web.routes["/b"] = lambda asked: Reply(b"there")
        assert (await fetch(web, "/a"))["url"] == web.url + "/b"
        loop = await refusal(SKILL, {"url": web.url + "/loop"}, settings(web))
        away = await refusal(SKILL, {"url": web.url + "/away"}, settings(web))
        assert (loop.code, away.code, other.asked) == ("REDIRECTED", "NOT_ALLOWED", [])


def test_a_secret_is_not_carried_to_another_host(web: WebServer) -> None:
    with serving() as other:
        web.routes["/same"] = lambda asked: Reply(status=302, headers={"Location": "/end"})
        web.routes["/other"] = lambda asked: Reply(status=302, headers={"Location": other.url + "/end"})
        way = Way(hosts=(web.target, other.target), inside=networks(INSIDE))
        for path in ("/same", "/other"):
            send(way, Request("GET", web.url + path, {"Authorization": "secret", "X-Other": "1"}))
        assert web.asked[1].headers["Authorization"] == "secret"
        assert "Authorization" not in other.asked[0].headers and other.asked[0].headers["X-Other"] == "1"


@pytest.mark.parametrize(
    ("url", "hosts", "code"),
    [
        ("http://127.0.0.1:{port}/", ["*"], "NOT_ALLOWED"),
        ("http://127.0.0.1:{port}/", ["other.example:{port}"], "NOT_ALLOWED"),
        ("http://localhost:{port}/", ["127.0.0.1:{port}"], "NOT_ALLOWED"),
        ("http://169.254.169.254/latest/meta-data", ["*"], "NOT_ALLOWED"),
        ("http://[::1]/", ["*"], "NOT_ALLOWED"),
        ("http://0x7f000001/", ["*"], "NOT_ALLOWED"),
        ("http://[::ffff:127.0.0.1]/", ["*"], "NOT_ALLOWED"),
        ("http://10.0.0.1/", ["*"], "NOT_ALLOWED"),
        ("file:///etc/passwd", ["*"], "BAD_INPUT"),
        ("ftp://x/", ["*"], "BAD_INPUT"),
        ("http://user:pw@127.0.0.1:{port}/", ["127.0.0.1:{port}"], "BAD_INPUT"),
        ("http://127.0.0.1:{port}/a b", ["127.0.0.1:{port}"], "BAD_INPUT"),
        ("http://127.0.0.1:{port}/\r\nX: y", ["127.0.0.1:{port}"], "BAD_INPUT"),
        ("http://127.0.0.1:99999/", ["*"], "BAD_INPUT"),
        ("nonsense", ["*"], "BAD_INPUT"),
    ],
)
async def test_where_it_may_not_go_it_does_not(web: WebServer, url: str, hosts: list[str], code: str) -> None:
    given = {"hosts": [host.format(port=web.port) for host in hosts]}
    outcome = await refusal(SKILL, {"url": url.format(port=web.port)}, given)
    assert (outcome.code, web.asked) == (code, [])


async def test_loopback_is_inside_unless_the_operator_opens_it(web: WebServer) -> None:
    web.routes["/"] = lambda asked: Reply(b"x")
    given = {"url": web.url + "/"}
    assert "an address inside" in (await refusal(SKILL, given, {"hosts": [web.target]})).message
    assert (await value(SKILL, given, settings(web)))["text"] == "x"


async def test_a_name_is_resolved_once(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later answer for the name would lead elsewhere."""
    real, asked = socket.getaddrinfo, []

    def changing(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "moving.example":
            return real(host, *args, **kwargs)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    web.routes["/"] = lambda asked: Reply(b"x")
    given = {"hosts": [f"*.example:{web.port}"], "insideNetworks": ["127.0.0.1/32"]}
    assert (await value(SKILL, {"url": f"http://moving.example:{web.port}/"}, given))["text"] == "x"
    assert (len(asked), web.asked[0].headers["Host"]) == (1, f"moving.example:{web.port}")


@pytest.mark.parametrize("how", ["cut", "held", "closed"])
async def test_an_answer_that_does_not_come_whole_may_be_tried_again(web: WebServer, how: str) -> None:
    release = threading.Event()
    reply = Reply(b"half", cut=how == "cut", hold=release if how == "held" else None)
    web.routes["/"] = lambda asked: reply
    url = web.url if how != "closed" else "http://127.0.0.1:9"
    given = {"hosts": [web.target, "127.0.0.1:9"], "insideNetworks": INSIDE, "timeoutS": 0.3}
    outcome = await attempt(SKILL, {"url": url + "/"}, given)
    release.set()
    assert (outcome.code, outcome.retryable) == ("UNREACHABLE", True)


async def test_tls_is_checked(tmp_path: Path) -> None:
    ca, server = certificates(tmp_path)
    with serving(server) as web:
        web.routes["/"] = lambda asked: Reply(b"secure")
        url = f"https://127.0.0.1:{web.port}/"
        trusted = await value(SKILL, {"url": url}, settings(web, caFile=str(ca)))
        assert trusted["text"] == "secure"
        outcome = await attempt(SKILL, {"url": url}, settings(web))
        assert "certificate verify failed" in outcome.message


async def test_a_proxy_of_the_process_is_used(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the sandbox: no name is resolved here."""
    with serving() as proxy:
        monkeypatch.setitem(os.environ, "HTTP_PROXY", proxy.url)
        proxy.routes["http://far.example/x"] = lambda asked: Reply(b"by proxy")
        page = await value(SKILL, {"url": "http://far.example/x?y=1"}, {"hosts": ["far.example"]})
        assert (page["text"], proxy.asked[0].path) == ("by proxy", "http://far.example/x?y=1")


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ({"network_access": True, "allowed_endpoints": ["127.0.0.*"]}, True),
        ({"network_access": True, "allowed_endpoints": ["http://127.0.0.1:*/api/*"]}, True),
        ({"network_access": True, "allowed_endpoints": []}, True),
        ({"network_access": True, "allowed_endpoints": ["http://127.0.0.1:*/other/*"]}, False),
        ({"network_access": True, "allowed_endpoints": ["*.example.org"]}, False),
        ({"network_access": False, "allowed_endpoints": []}, False),
    ],
)
async def test_an_agent_goes_where_both_allow(
    web: WebServer, permissions: dict[str, Any], allowed: bool
) -> None:
    journal = Journal()
    journal.permissions = permissions
    web.routes["/api/x"] = lambda asked: Reply(b"x")
    outcome = await attempt(SKILL, {"url": web.url + "/api/x"}, settings(web), journal)
    assert (outcome.code, len(web.asked)) == (("", 1) if allowed else ("NOT_ALLOWED", 0))


@pytest.mark.parametrize("hosts", [[], ["http://x"], ["a b"]])
async def test_settings_are_checked(hosts: list[str]) -> None:
    assert (await refusal(SKILL, {"url": "http://x/"}, {"hosts": hosts})).code == "BAD_SETTINGS"


def test_broken_pages_have_a_text_too() -> None:
    page = read_page("<head><title>t<body><p>a<div>b</p></div></head><script>x", "http://x/")
    assert page.text.split() == ["a", "b"]


def certificates(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """An authority, and a server of it for 127.0.0.1."""
    init_tls(folder, ["web"], {"web": ["127.0.0.1"]})
    paths = node_paths(folder, "web")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(paths.cert, paths.key)
    return paths.ca, server


def test_what_is_packed_is_unpacked_in_small_parts() -> None:
    bomb = gzip.compress(b"x" * 10_000_000)
    assert max(len(part) for part in outbound._unpacked(iter([bomb]))) <= outbound.CHUNK_BYTES


def test_what_follows_the_end_of_what_is_packed_is_not_collected() -> None:
    read: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(1_000):
            read.append(number)
            yield b"rubbish" if number else gzip.compress(b"one") + gzip.compress(b" two")

    assert (b"".join(outbound._unpacked(parts())), len(read)) == (b"one two", 2)


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_comes_letter_by_letter_ends_with_its_time(beginning: bytes) -> None:
    over = threading.Event()

    def trickle(server: socket.socket) -> None:
        with server.accept()[0] as sock, contextlib.suppress(OSError):
            sock.recv(1_000)
            sock.sendall(beginning)
            while not over.wait(0.02):
                sock.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=trickle, args=(server,), daemon=True).start()
        host = f"127.0.0.1:{server.getsockname()[1]}"
        way = Way(hosts=(host,), inside=outbound.EVERYWHERE, timeout_s=0.5)
        with pytest.raises(outbound.Unreachable) as caught:
            send(way, Request("GET", f"http://{host}/"))
    over.set()
    assert caught.value.sent


def test_a_header_that_is_none_is_told_without_its_value() -> None:
    request = Request("GET", "http://127.0.0.1:9/", {"Authorization": "s3cret\n"})
    with pytest.raises(outbound.BadHeader, match="Authorization") as caught:
        send(Way(hosts=("127.0.0.1:9",), inside=outbound.EVERYWHERE), request)
    assert "s3cret" not in str(caught.value)


def test_a_link_is_listed_once_with_the_text_that_it_has_first() -> None:
    page = read_page("<a href=/x><img></a><a href=/x>one</a><a href=/x#y>two</a>", "http://x/")
    assert page.links == [{"url": "http://x/x", "text": "one"}]


def test_a_public_address_is_so_in_every_spelling() -> None:
    for address in ("8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2001:4860:4860::8888"):
        assert why_not("h", address, ()) == ""
    for address in ("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "fe80::1", "224.0.0.1", "0.0.0.0"):
        assert why_not("h", address, ()) != ""
    for address in ("168.63.129.16", "::ffff:168.63.129.16", "fd20:ce::254", "169.254.169.254"):
        assert "credentials" in why_not("h", address, outbound.EVERYWHERE)
