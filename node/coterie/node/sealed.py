"""Mutual TLS around a protocol, for streams whose messages are small and urgent.

The event loop's own TLS takes two to three times as long for a message of a few hundred bytes: it is made for
bulk. Here a message is sealed and handed to the socket at once, and what comes is opened in one go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

RECORD_BYTES: Final = 16 * 1024  # of plain text; TLS has no larger ones
Inner = TypeVar("Inner", bound=asyncio.Protocol)


class Sealed(asyncio.Transport, asyncio.Protocol, Generic[Inner]):
    """The protocol of a TCP connection, and the transport of the protocol inside, which `make` makes when the
    handshake is done."""

    def __init__(
        self, make: Callable[[], Inner], context: ssl.SSLContext, handshake_s: float, dials: str = ""
    ) -> None:
        """dials: the name that the other side's certificate must have; empty when this side was dialled."""
        super().__init__()
        self._make, self._handshake_s = make, handshake_s
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=not dials, server_hostname=dials or None
        )
        self._inner: Inner | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._failure: OSError = ConnectionResetError("the connection ended in the TLS handshake")
        self.opened: asyncio.Future[Inner] = self._loop.create_future()  # or OSError; ssl.SSLError is one
        self.opened.add_done_callback(_take_note)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._timer = self._loop.call_later(self._handshake_s, self._give_up)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._inner is None:
            self._shake_hands()
        if self._inner is not None:
            try:
                text = self._open()
            except ssl.SSLError as error:
                self._fail(error)
                return
            if text:
                self._inner.data_received(text)
            self._flush()  # what TLS says of itself, such as new keys

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._inner is not None:
            self._inner.connection_lost(error)
        elif not self.opened.done():
            self.opened.set_exception(self._failure)

    # --- asyncio.Transport

    def write(self, data: Any) -> None:
        """Seal and send; never blocks."""
        self._tls.write(data)
        self._transport.write(self._outgoing.read())

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())

    def get_write_buffer_size(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of any transport with TLS."""
        if name == "ssl_object":
            return self._tls
        if name == "peercert":
            return self._tls.getpeercert()
        return self._transport.get_extra_info(name, default)

    # --- inside

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        self._inner = self._make()
        self._inner.connection_made(self)
        if not self.opened.done():
            self.opened.set_result(self._inner)

    def _open(self) -> bytes:
        """All plain text that has come complete. Raises SSLError; SSLZeroReturnError: the other side has
        ended the session."""
        parts = []
        try:
            while True:
                part = self._tls.read(RECORD_BYTES)
                if not part:
                    raise ssl.SSLZeroReturnError("the peer closed the connection")
                parts.append(part)
                if not (self._incoming.pending or self._tls.pending()):
                    break
        except ssl.SSLWantReadError:
            pass
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _give_up(self) -> None:
        self._failure = TimeoutError(f"no TLS handshake within {self._handshake_s:g} s")
        self._transport.abort()

    def _fail(self, error: ssl.SSLError) -> None:
        """The other side is told why, as far as TLS has words for it."""
        self._failure = error
        self._flush()
        self._transport.close()


def _take_note(opened: asyncio.Future[Any]) -> None:
    """Who was dialled asks nobody; an exception that nobody asks for would be logged as forgotten."""
    if not opened.cancelled():
        opened.exception()
