"""A real web server on loopback, that answers as a test says and remembers what it was asked."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INSIDE = ["127.0.0.0/8"]


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Reply:
    """One answer. `cut`: say that it is longer than it is, and hang up."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain; charset=utf-8"})
    cut: bool = False
    hold: threading.Event | None = None


Routes = dict[str, Callable[[Asked], Reply]]


@dataclass
class WebServer:
    """Add to `routes`, look at `asked`."""

    port: int
    routes: Routes
    asked: list[Asked]
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """As an entry of a list of hosts."""
        return f"{self.host}:{self.port}"


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    """A server until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    web = WebServer(server.server_address[1], {}, [])
    server.RequestHandlerClass = _handler(web)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(web: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            asked = Asked(self.command, self.path, dict(self.headers.items()), self.rfile.read(size))
            web.asked.append(asked)
            route = web.routes.get(self.path.partition("?")[0])
            reply = route(asked) if route else Reply(b"nothing here", 404)
            if reply.hold is not None:
                reply.hold.wait(30)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body) + 10 * reply.cut))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
