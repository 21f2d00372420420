"""Calls that survive nodes: another node, the same request_id, a pause that grows, and an end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import grpc
import grpc.aio

from coterie.client.endpoints import Endpoint, Pool
from coterie.client.errors import ClusterClosed, ClusterError, CoterieError, Unavailable
from coterie.client.rpc_errors import Verdict, decode_rpc_error, is_refused, verdict_of
from coterie.client.settings import Timeouts

Answer = TypeVar("Answer")
Request = TypeVar("Request")

_BACKOFF_FIRST_S = 0.05
_BACKOFF_MAX_S = 1.0
_PAUSE_MAX_S = 10.0
# A node that shuts down, drains, is cut off or has a full disk asks for another node, not for patience.
_GO_ELSEWHERE = frozenset({"SHUTTING_DOWN", "DRAINING", "NO_QUORUM", "DISK_FULL"})
# What gRPC says of a call that it had no line to send on.
_NEVER_SENT = "failed to connect to all addresses"
# A node proposes a command anew when it was not committed in 5 s: it must not be given the time to do so with
# one that is not safe to do twice.
_ONCE_S = 5.0


class RetryBudget:
    """Bounds retries over all calls of a client, so that many callers do not hammer a sick cluster.

    A token bucket: each retry takes a token, each success gives half a token back, and time gives
    `per_second`. With the bucket empty a retry is not refused but waits for its token, `pause_max` seconds
    at most: a leader change that fails a thousand calls at once must cost each of them a pause, and those
    that come later nothing. A retry beyond that goes without a token, so each call still rests for half of
    `pause_max` or more between two tries.
    """

    def __init__(
        self,
        burst: float = 100.0,
        per_second: float = 10.0,
        per_success: float = 0.5,
        pause_max: float = 2.0,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._per_success = per_success
        self._pause_max = pause_max
        self._dice = dice
        self._tokens = burst
        self._filled_at: float | None = None

    def spend(self, now: float) -> float:
        """Takes a token; returns the seconds to wait until it is really there, or `pause_max` with jitter
        where that is longer than anybody waits."""
        if self._filled_at is not None:
            earned = (now - self._filled_at) * self._per_second
            self._tokens = min(self._burst, self._tokens + earned)
        self._filled_at = now
        pause = (1 - self._tokens) / self._per_second
        if pause > self._pause_max:
            return self._pause_max * (1 + self._dice()) / 2
        self._tokens -= 1
        return max(0.0, pause)

    def earn(self) -> None:
        """A call succeeded."""
        self._tokens = min(self._burst, self._tokens + self._per_success)


class Backoff:
    """Exponential back-off with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter")."""

    def __init__(self, dice: Callable[[], float] = random.random) -> None:
        self._dice = dice
        self._tries = 0

    def reset(self) -> None:
        """The next pause is a short one again."""
        self._tries = 0

    def pause(self, failure: ClusterError | None = None) -> float:
        """Seconds to wait before the next try; what the cluster asked for is the least."""
        limit: float = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** min(self._tries, 10))
        self._tries += 1
        jitter = self._dice() * limit
        if failure is None or failure.retry_after is None or failure.reason in _GO_ELSEWHERE:
            return jitter
        return min(_PAUSE_MAX_S, failure.retry_after) + jitter


class Caller:
    """Runs unary calls (and other short exchanges) against whichever node answers."""

    def __init__(self, pool: Pool, timeouts: Timeouts, clock: Callable[[], float] = time.monotonic) -> None:
        self.pool = pool
        self.timeouts = timeouts
        self.clock = clock
        self.budget = RetryBudget()
        self._closing = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether it makes no calls any more."""
        return self._closing.is_set()

    def close(self) -> None:
        """Makes no further call; those that wait for their next try raise ClusterClosed at once."""
        self._closing.set()

    async def rest(self, seconds: float) -> None:
        """Sleeps, at most until the Cluster is closed: then it raises ClusterClosed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        if self.closed:
            raise ClusterClosed("the Cluster was closed during the call")

    async def unary(
        self,
        rpc: Callable[[Endpoint], grpc.aio.UnaryUnaryMultiCallable[Request, Answer]],
        request: Request,
        *,
        request_id: str = "",
        timeout: float | None = None,
        urgent: bool = False,
        look: str = "",
    ) -> Answer:
        """One unary RPC with retries. The request must be safe to repeat: a read, or with a request_id. Else
        `look` says how to find out what became of it, and once it may have been done it is not repeated."""

        async def attempt(endpoint: Endpoint, seconds: float) -> Answer:
            return await rpc(endpoint)(request, timeout=seconds)

        return await self.run(attempt, request_id=request_id, timeout=timeout, urgent=urgent, look=look)

    async def delete(
        self, rpc: Callable[[Endpoint], grpc.aio.UnaryUnaryMultiCallable[Request, Answer]], request: Request
    ) -> None:
        """A unary RPC that takes something away. After a try of which nobody knows what became of it, not to
        be found is to be gone: else the caller would be told NotFound of what it has just deleted itself."""
        doubtful = False

        async def attempt(endpoint: Endpoint, seconds: float) -> None:
            nonlocal doubtful
            try:
                await rpc(endpoint)(request, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                if doubtful and error.code() is grpc.StatusCode.NOT_FOUND:
                    return
                doubtful = doubtful or not is_refused(error)
                raise

        await self.run(attempt)

    async def run(
        self,
        attempt: Callable[[Endpoint, float], Awaitable[Answer]],
        *,
        attempt_timeout: float | None = None,
        request_id: str = "",
        timeout: float | None = None,
        urgent: bool = False,
        look: str = "",
    ) -> Answer:
        """Runs `attempt(endpoint, seconds)` until one try succeeds, fails for good, or time is up. An
        `urgent` one is not held up by the retries of others; one with `look` is over with the first try that
        may have done it.

        Raises the decoded ClusterError of a final failure, and Unavailable with the last error of every
        endpoint when `timeout` (by default `timeouts.call`) seconds passed.
        """
        try_for = attempt_timeout or self.timeouts.attempt
        # An exchange whose one try takes longer, as a large blob does, also gets longer in all.
        usual = self.timeouts.call + max(0.0, try_for - self.timeouts.attempt)
        deadline = self.clock() + (usual if timeout is None else timeout)
        if look:
            try_for = min(try_for, _ONCE_S)
        backoff = Backoff()
        endpoint: Endpoint | None = None
        while True:
            endpoint = self.pool.pick(avoid=endpoint)
            try:
                with self.using(endpoint):
                    answer = await attempt(endpoint, min(try_for, deadline - self.clock()))
                self.budget.earn()
                return answer
            except ClusterError as failure:
                if look and _may_be_done(failure):
                    raise self._in_doubt(failure, look) from failure
                await self.before_retry(failure, backoff, deadline, request_id, urgent=urgent)

    @contextlib.contextmanager
    def using(self, endpoint: Endpoint) -> Iterator[None]:
        """Keeps the books around a use of an endpoint; failures come out as ClusterError."""
        if self.closed:
            raise ClusterClosed("this Cluster is closed: use it inside `async with Cluster(...) as c:`")
        endpoint.calls += 1
        try:
            yield
            self.pool.succeeded(endpoint)
        except grpc.aio.AioRpcError as error:
            failure = decode_rpc_error(error)
            self.pool.failed(endpoint, failure, verdict_of(failure))
            raise failure from error
        except asyncio.CancelledError:
            # gRPC reports a stream that the server cancelled, and a call whose channel was closed, as a
            # cancellation. Neither must look to the caller as if its own task were cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self._cut(endpoint) from None
        except grpc.aio.UsageError:
            if not self.closed:
                raise
            raise self._cut(endpoint) from None
        finally:
            endpoint.calls -= 1

    def _cut(self, endpoint: Endpoint) -> CoterieError:
        if self.closed:
            return ClusterClosed("the Cluster was closed during the call")
        failure = ClusterError("the node cancelled the call", code="CANCELLED")
        self.pool.failed(endpoint, failure, verdict_of(failure))
        return failure

    def silent(self, endpoint: Endpoint, message: str) -> ClusterError:
        """Notes that an endpoint holds a stream without serving it; returns the error to raise."""
        failure = ClusterError(message, code="DEADLINE_EXCEEDED")
        self.pool.failed(endpoint, failure, Verdict.TIMED_OUT)
        return failure

    async def before_retry(
        self,
        failure: ClusterError,
        backoff: Backoff,
        deadline: float,
        request_id: str = "",
        *,
        urgent: bool = False,
    ) -> None:
        """Waits before the next try; raises when there must not be one, or not before the deadline. What
        others did to the budget delays a try, and never makes a call give up; nor an `urgent` one wait."""
        if verdict_of(failure) is Verdict.FATAL:
            raise failure
        if self.pool.hopeless:
            raise self.unreachable("TLS cannot work with any endpoint", failure, request_id) from failure
        now, pause = self.clock(), backoff.pause(failure)
        if now + pause >= deadline:
            raise self.unreachable("no node answered in time", failure, request_id) from failure
        if not urgent:
            pause = max(pause, min(self.budget.spend(now), (deadline - now) / 2))
        await self.rest(pause)

    def _in_doubt(self, failure: ClusterError, look: str) -> Unavailable:
        told = self.unreachable(f"no answer came, and it may have been done: {look}", failure)
        told.retry_after = None  # The cluster meant the same request, which is safe only once one has looked.
        return told

    def unreachable(self, sentence: str, failure: ClusterError, request_id: str = "") -> Unavailable:
        """Unavailable, naming each endpoint and its last error."""
        return Unavailable(
            sentence,
            endpoints=self.pool.last_errors(),
            request_id=request_id,
            reason=failure.reason,
            metadata=failure.metadata,
            retry_after=failure.retry_after,
        )


def _may_be_done(failure: ClusterError) -> bool:
    """Whether a try that failed so may have done its work all the same, now or in a moment. It reached
    nobody where gRPC says so; what a node says with a reason is about one part of the call, and no proof."""
    if verdict_of(failure) is Verdict.FATAL:
        return False
    cause = failure.__cause__
    refused = isinstance(cause, grpc.aio.AioRpcError) and is_refused(cause)
    return bool(failure.reason) or not (refused or _NEVER_SENT in failure.message.lower())
