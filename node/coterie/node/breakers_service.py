"""The Breakers service: what the cluster keeps work away from, and closing a breaker by hand."""

from __future__ import annotations

from collections.abc import Callable

from coterie.core.breaker_commands import ResetBreaker
from coterie.core.breakers import Breaker, is_key, live_probes, phase
from coterie.core.commands import Rejected
from coterie.core.state import ClusterState
from coterie.node.clock import Clock, LogTime
from coterie.node.errors import Violation, from_rejection, invalid
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.v1 import breakers_pb2, breakers_pb2_grpc, tasks_pb2


class BreakersService(breakers_pb2_grpc.BreakersServicer):
    """Both calls may be repeated."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        reader: Reader,
        proposer: Proposer,
        clock: Clock,
        gate: Gate,
    ) -> None:
        self._state, self._reader, self._proposer, self.gate = state, reader, proposer, gate
        self._time = LogTime(clock, lambda: state().meta.clock_ms)

    @unary
    async def ListBreakers(
        self, request: breakers_pb2.ListBreakersRequest, context: Context
    ) -> breakers_pb2.ListBreakersResponse:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        known = self._state().breakers
        found = [self._told(known[key]) for key in sorted(known)]
        return breakers_pb2.ListBreakersResponse(breakers=found)

    @unary
    async def ResetBreaker(
        self, request: breakers_pb2.ResetBreakerRequest, context: Context
    ) -> breakers_pb2.CircuitBreaker:
        if not is_key(request.key):
            text = f"{request.key!r}: write KIND:NAME, as `coterie breakers list` shows it"
            raise invalid([Violation("key", text)])
        await self._reader.connected()
        outcome = await self._proposer.one(ResetBreaker(request.key), propose_seconds(context))
        if isinstance(outcome, Rejected):
            raise from_rejection(outcome)
        known = self._state().breakers.get(request.key)
        return self._told(known) if known else breakers_pb2.CircuitBreaker(key=request.key)

    def _told(self, breaker: Breaker) -> breakers_pb2.CircuitBreaker:
        now_ms = self._time.now_ms()
        return breakers_pb2.CircuitBreaker(
            key=breaker.key,
            state=int(phase(breaker, now_ms)),  # type: ignore[arg-type]
            reason=breaker.reason,
            since_ms=breaker.since_ms,
            until_ms=breaker.until_ms,
            opened=breaker.opened,
            probes=len(live_probes(breaker, now_ms)),
            passed=breaker.passed,
        )
