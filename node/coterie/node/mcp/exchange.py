"""What the transport saw of one call: whether it was sent, and what HTTP said to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

NOT_FOUND, TIMED_OUT = 404, 408
# How the library's HTTP transport begins what it says where the server said nothing in the protocol's words.
# A server may use the same words itself: what is said of one kind of status does not come with the other.
OF_REFUSALS = ("Session terminated", "Not Found", "Server returned an error response")
OF_ANSWERS = (
    "Unexpected content type",
    "Failed to parse JSON response",
    "server answered a request with 202",
)


@dataclass(slots=True)
class Exchange:
    """Of one call. `sent`: it was handed to the transport; `unreached`: which found nobody at the address.
    `status`: of the last HTTP answer, 0: none came; `accepted`: one of them was good."""

    sent: bool = False
    posts: int = 0
    unreached: bool = False
    status: int = 0
    accepted: bool = False
    in_session: bool = False

    @property
    def session_ended(self) -> bool:
        """The server does not know the session any more: so it says, and does nothing."""
        return self.in_session and self.status == NOT_FOUND

    def is_stand_in(self, error: str) -> bool:
        """Whether an error is not the server's word in the protocol."""
        if 300 <= self.status < 400 or self.session_ended:
            return True
        words = OF_REFUSALS if self.status >= 400 else OF_ANSWERS
        return bool(self.status) and error.startswith(words)

    @property
    def undone(self) -> bool:
        """Whether the server certainly did nothing."""
        refused = 300 <= self.status < 500 and self.status != TIMED_OUT
        return not self.sent or self.unreached or (refused and not self.accepted)

    def answered(self, status: int, in_session: bool) -> None:
        """By HTTP."""
        self.status, self.in_session = status, in_session
        self.accepted = self.accepted or status < 300


_current: ContextVar[Exchange | None] = ContextVar("the call that is made", default=None)


@contextmanager
def observed() -> Iterator[Exchange]:
    """What is sent within belongs to this exchange: the library hands the context on to the sending task."""
    exchange = Exchange()
    before = _current.set(exchange)
    try:
        yield exchange
    finally:
        _current.reset(before)


def current() -> Exchange:
    """That of the call that is made; outside of calls one that nobody reads."""
    return _current.get() or Exchange()
