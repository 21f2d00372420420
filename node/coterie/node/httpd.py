"""A small HTTP server in its own threads: /metrics, /healthz and /readyz for scrapers and supervisors."""

from __future__ import annotations

import contextlib
import errno
import http.server
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from coterie.node.metrics import NodeMetrics

Readiness = Callable[[], tuple[bool, str]]

_logger = logging.getLogger("coterie.http")
_CONNECTIONS_MAX = 16
_READ_SECONDS_MAX = 5.0  # for one piece of a request …
_CONNECTION_SECONDS_MAX = 10.0  # … and for the whole of it
_POLL_SECONDS = 0.2
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PLAIN_TYPE = "text/plain; charset=utf-8"


class HttpListenError(Exception):
    """The address cannot be listened on; the text names it and the remedy."""


class HttpServer:
    """`/healthz`: this process lives. `/readyz`: what `ready` says, 200 or 503. `/metrics`: Prometheus.

    `ready` is called, and the metrics are rendered, in threads of this server."""

    def __init__(self, host: str, port: int, metrics: NodeMetrics, ready: Readiness) -> None:
        self._host = host
        self._asked_port = port
        self._metrics = metrics
        self._ready = ready
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; of use when 0 was asked for."""
        return self._server.server_address[1] if self._server else self._asked_port

    def start(self) -> None:
        """Listen and answer in the background. Raises HttpListenError."""
        try:
            self._server = _Server(self._host, self._asked_port, self.answer)
        except (OSError, OverflowError) as error:
            raise HttpListenError(_why(self._host, self._asked_port, error)) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="coterie-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection. Blocks for less than a second; may be called twice."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.shutdown()
        server.server_close()
        server.cut_off(older_than_s=0)
        self._thread.join()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a GET of `path`."""
        match path.partition("?")[0]:
            case "/metrics":
                return HTTPStatus.OK, _METRICS_TYPE, self._metrics.render()
            case "/healthz":
                return HTTPStatus.OK, _PLAIN_TYPE, b"ok\n"
            case "/readyz":
                ready, reason = self._ready()
                status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
                return status, _PLAIN_TYPE, f"{reason or ('ready' if ready else 'not ready')}\n".encode()
        return HTTPStatus.NOT_FOUND, _PLAIN_TYPE, b"not found; try /metrics, /healthz or /readyz\n"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, host: str, port: int, answer: Callable[[str], tuple[HTTPStatus, str, bytes]]) -> None:
        self.answer = answer
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # The base class asks the name service for its own name here, which may take long and is of no use.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._lock:
            if len(self._open) >= _CONNECTIONS_MAX:
                return False
            self._open[request] = time.monotonic()
            return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.cut_off(_CONNECTION_SECONDS_MAX)

    def cut_off(self, older_than_s: float) -> None:
        """End connections that have lasted too long; their threads then see the end of the stream."""
        before = time.monotonic() - older_than_s
        with self._lock:
            late = [connection for connection, since in self._open.items() if since <= before]
        for connection in late:
            with contextlib.suppress(OSError):  # it may just have ended by itself
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.debug("http connection failed", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = _READ_SECONDS_MAX
    error_content_type = _PLAIN_TYPE
    error_message_format = "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        self._reply(with_body=True)

    def do_HEAD(self) -> None:
        self._reply(with_body=False)

    def version_string(self) -> str:
        return "coterie"

    def log_message(self, format: str, *args: Any) -> None:
        _logger.debug("http request", extra={"client": self.client_address[0], "request": format % args})

    def _reply(self, with_body: bool) -> None:
        try:
            status, content_type, body = self.server.answer(self.path)
        except Exception as error:
            _logger.warning("http answer failed", extra={"path": self.path[:200], "error": str(error)})
            status, content_type = HTTPStatus.SERVICE_UNAVAILABLE, _PLAIN_TYPE
            body = f"{type(error).__name__}: {error}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _why(host: str, port: int, error: Exception) -> str:
    where = f"listen.http: [{host}]:{port}" if ":" in host else f"listen.http: {host}:{port}"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another process; stop that or choose another port"
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        return f"{where} is not an address of this machine; use 127.0.0.1 or one that is"
    return f"{where} cannot be listened on: {error}"
