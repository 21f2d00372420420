"""HTTP to where a skill may go: allowed hosts, no addresses inside, limits of time and size.

A name is resolved once and the connection goes to the very address that was checked. Where the process has a
proxy (HTTPS_PROXY, as in the sandbox), that one resolves and checks.
"""

from __future__ import annotations

import fnmatch
import http.client
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, urljoin, urlsplit

from coterie.skills.addresses import Network, why_not
from coterie.skills.errors import BadInput, NonRetryable, SkillError
from coterie.skills.targets import parse_target

URL_CHARS_MAX = 8_192
REDIRECTS = frozenset({301, 302, 303, 307, 308})
REDIRECTS_MAX = 5
CHUNK_BYTES = 64 * 1024
AGENT = "coterie"
ANY_HOST = "*"
EVERYWHERE: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
GZIP_BEGINS = b"\x1f"
_HEADER_NAME, _HEADER_VALUE = (
    re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"),
    re.compile(r"[\t\x20-\x7e\xa0-\xff]*"),
)
_SECRET_HEADERS = frozenset({"authorization", "cookie", "x-subscription-token", "x-api-key"})


class NotAllowed(NonRetryable):
    """Nobody lets the skill go there."""

    code = "NOT_ALLOWED"


class BadHeader(NonRetryable):
    """What was to be sent beside a request is none; its value, which may be a secret, is not shown."""

    code = "BAD_HEADER"


class Unreachable(SkillError):
    """No whole answer came; a later attempt may get one. `sent`: the request may have got there."""

    code = "UNREACHABLE"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Where to. Hosts as in a skill's network list; "*" is every host, on the usual ports."""

    hosts: tuple[str, ...]
    inside: tuple[Network, ...] = ()
    """Networks that are open though they are not public."""
    endpoints: tuple[str, ...] | None = None
    """Globs over addresses, of which one must fit as well; None: no such limit."""
    timeout_s: float = 30.0
    bytes_max: int = 4 * 1024 * 1024
    redirects_max: int = REDIRECTS_MAX
    ca_file: str = ""
    """Certificates of authorities to be trusted instead of the system's."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came. Header names are in lower case."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes
    truncated: bool

    @property
    def media_type(self) -> str:
        """Without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def send(way: Way, request: Request) -> Answer:
    """Send it and follow redirections of a GET. Blocks. Raises NotAllowed, BadInput, BadHeader,
    Unreachable."""
    for name, value in request.headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise BadHeader(f"header {name[:80]!r}: name or value has characters that no header may have")
    until = time.monotonic() + way.timeout_s
    for _ in range(way.redirects_max + 1):
        answer = _once(way, request, until)
        target = answer.headers.get("location", "")
        if request.method not in ("GET", "HEAD") or answer.status not in REDIRECTS or not target:
            return answer
        request = _redirected(request, urljoin(request.url, target))
    raise NotAllowed(f"{request.url}: more than {way.redirects_max} redirections", code="REDIRECTED")


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Raises ValueError for what is no network."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """The same, when each is "*" or an entry of a network list. Raises ValueError."""
    for host in hosts:
        if host != ANY_HOST:
            parse_target(host)
    return hosts


def endpoints_of(permissions: Mapping[str, object] | None) -> tuple[str, ...] | None:
    """What an agent's permissions leave of the way."""
    if permissions is None:
        return None
    if not permissions["network_access"]:
        return ()
    allowed = permissions["allowed_endpoints"]
    return tuple(str(one) for one in allowed) or None if isinstance(allowed, list | tuple) else None


def target_of(url: str) -> str:
    """Where it leads, as an entry of `Way.hosts`. Raises BadInput."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise BadInput(f"is no address: {error}") from error
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check(way: Way, url: str) -> SplitResult:
    """The parts of an address that may be asked. Raises BadInput, NotAllowed."""
    try:
        parts = urlsplit(url)
        host, port = (
            (parts.hostname or "").rstrip("."),
            parts.port or (443 if parts.scheme == "https" else 80),
        )
    except ValueError as error:
        raise BadInput(f"{url!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not host or len(url) > URL_CHARS_MAX:
        raise BadInput(f"{url[:200]!r} is no address; write it as https://host/path")
    if any(char <= " " or char == "\x7f" for char in url) or not url.isascii():
        raise BadInput(
            f"{url[:200]!r} has characters that an address may not have; write them as %20 and the like"
        )
    if parts.username is not None:
        raise BadInput("an address may not hold a name and a password; take them out")
    named = f"[{host}]" if ":" in host else host
    usual = ANY_HOST in way.hosts and port in (80, 443)
    targets = (parse_target(one) for one in way.hosts if one != ANY_HOST)
    if not usual and not any(target.covers(named, port) for target in targets):
        raise NotAllowed(f"{host}:{port} is not among the allowed hosts: {', '.join(way.hosts) or 'none'}")
    if way.endpoints is not None and not any(_fits(parts, host, glob) for glob in way.endpoints):
        raise NotAllowed(f"{url}: the agent may not go there (agent.permissions.network_access)")
    return parts


def _fits(parts: SplitResult, host: str, glob: str) -> bool:
    """A glob with a scheme is over the whole address, one without is over the host."""
    if "://" in glob:
        return fnmatch.fnmatchcase(parts._replace(query="", fragment="").geturl(), glob)
    return fnmatch.fnmatchcase(host, glob.partition("/")[0])


def _once(way: Way, request: Request, until: float) -> Answer:
    parts = check(way, request.url)
    connection, target = _connection(way, parts, until)
    sent = False
    try:
        connection.connect()
        sent = True
        headers = {"User-Agent": AGENT, "Accept-Encoding": "gzip", "Host": parts.netloc, **request.headers}
        headers["Connection"] = "close"
        with _cut_off(connection.sock, until):
            connection.request(request.method, target, request.body or None, headers)
            with connection.getresponse() as response:
                found = {name.lower(): value for name, value in response.getheaders()}
                body, truncated = _body(response, found, way.bytes_max, until)
        _left_s(until)  # else what was cut off would pass for the whole
        return Answer(response.status, request.url, found, body, truncated)
    except (OSError, http.client.HTTPException, zlib.error) as error:
        said = str(error) or type(error).__name__
        raise Unreachable(f"{parts.hostname}: {said}", sent=sent) from error
    finally:
        connection.close()


@contextmanager
def _cut_off(sock: socket.socket, until: float) -> Iterator[None]:
    """A server that sends a letter now and then never lets a read time out."""

    def shut() -> None:
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, until - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _connection(way: Way, parts: SplitResult, until: float) -> tuple[http.client.HTTPConnection, str]:
    """An unopened connection, and the target of the request on it."""
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    path = path if path.startswith("/") else f"/{path}"
    proxy = os.environ.get("HTTPS_PROXY" if secure else "HTTP_PROXY", "")
    trusted = _trusted(way) if secure else None
    if proxy:
        near = urlsplit(proxy)
        place = [(near.hostname or "", near.port or 80)]
        if secure:
            return _Pinned(host, port, place, until, trusted, tunnel=(host, port)), path
        return _Pinned(host, port, place, until, None), parts._replace(fragment="").geturl()
    return _Pinned(host, port, _resolve(way, host, port), until, trusted), path


def _trusted(way: Way) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=way.ca_file or None)
    except OSError as error:
        raise Unreachable(f"caFile {way.ca_file}: {error.strerror or error}", sent=False) from error


def _resolve(way: Way, host: str, port: int) -> list[tuple[str, int]]:
    """All that a name resolves to must be allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{host}: is not known: {error}", sent=False) from error
    addresses = list(dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found))
    for address in addresses:
        if reason := why_not(host, address, way.inside):
            raise NotAllowed(reason)
    return [(address, port) for address in addresses]


class _Pinned(http.client.HTTPConnection):
    """A connection to addresses that were checked, whatever the name says now."""

    def __init__(
        self,
        host: str,
        port: int,
        places: list[tuple[str, int]],
        until: float,
        trusted: ssl.SSLContext | None,
        tunnel: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(host, port)
        self._places, self._until, self._trusted = places, until, trusted
        if tunnel is not None:
            self.set_tunnel(*tunnel)

    def connect(self) -> None:
        """To the first that answers. Raises OSError."""
        failed: OSError = OSError("no address")
        for place in self._places:
            try:
                self.sock = socket.create_connection(place, _left_s(self._until))
                break
            except OSError as error:
                failed = error
        else:
            raise failed
        if self._tunnel_host:  # type: ignore[attr-defined]
            self._tunnel()  # type: ignore[attr-defined]
        if self._trusted is not None:
            self.sock = self._trusted.wrap_socket(self.sock, server_hostname=self.host.strip("[]"))


def _left_s(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("no whole answer in time")
    return left


def _body(
    response: http.client.HTTPResponse, headers: Mapping[str, str], bytes_max: int, until: float
) -> tuple[bytes, bool]:
    """The content, unpacked, and whether more was left."""
    parts = _raw(response, until)
    if headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate"):
        parts = _unpacked(parts)
    body = bytearray()
    for part in parts:
        body += part
        if len(body) > bytes_max:
            return bytes(body[:bytes_max]), True
    return bytes(body), False


def _raw(response: http.client.HTTPResponse, until: float) -> Iterator[bytes]:
    # The socket times out after a silence; the sum of all is looked at here.
    while part := response.read1(CHUNK_BYTES):
        yield part
        _left_s(until)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)


def _unpacked(parts: Iterator[bytes]) -> Iterator[bytes]:
    """A small answer that unpacks to a huge one is never held, nor what follows its end; but gzip may have
    several members, one behind the other (RFC 1952). Raises zlib.error where the last one does not end."""
    unpack, begun = _unpacker(), False
    for part in parts:
        while part:
            if unpack.eof:
                if not part.startswith(GZIP_BEGINS):
                    return
                unpack = _unpacker()
            begun = True
            yield unpack.decompress(part, CHUNK_BYTES)
            part = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
    yield unpack.flush()
    if begun and not unpack.eof:
        raise zlib.error("the packed content has no end")


def _unpacker() -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)


def _redirected(request: Request, url: str) -> Request:
    """What is secret is for the host that it was meant for."""
    if urlsplit(url)[:2] == urlsplit(request.url)[:2]:
        return replace(request, url=url)
    kept = {name: value for name, value in request.headers.items() if name.lower() not in _SECRET_HEADERS}
    return replace(request, url=url, headers=kept)
