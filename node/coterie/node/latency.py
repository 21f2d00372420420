"""How far the other nodes are away: a small call to each now and then, smoothed."""

from __future__ import annotations

import asyncio
import random

import grpc

from coterie.node.clock import Clock
from coterie.node.links import PeerChannels, outliving
from coterie.v1 import peer_pb2

INTERVAL_MIN_S, INTERVAL_MAX_S = 1.0, 10.0
WEIGHT = 0.3  # of a new round trip in the average


class LatencyProbe:
    """Round trips between this node and every peer, in ms. A peer that does not answer is unknown."""

    def __init__(self, channels: PeerChannels, clock: Clock, interval_s: float, timeout_s: float) -> None:
        """The interval and the timeout of a health check; the interval is kept between 1 and 10 s."""
        self._channels, self._clock, self._timeout_s = channels, clock, timeout_s
        self._interval_s = min(max(interval_s, INTERVAL_MIN_S), INTERVAL_MAX_S)
        self.rtt_ms: dict[str, float] = {}

    async def run(self) -> None:
        while True:
            await asyncio.gather(*(self.measure(peer) for peer in list(self._channels.peers)))
            for gone in self.rtt_ms.keys() - self._channels.peers.keys():
                del self.rtt_ms[gone]
            await asyncio.sleep(self._interval_s * random.uniform(0.75, 1.25))

    async def measure(self, peer: str) -> None:
        began = self._clock.monotonic()
        try:
            stub, metadata = self._channels.stub(peer), self._channels.metadata
            with outliving(peer):
                await stub.Ping(peer_pb2.PingRequest(), metadata=metadata, timeout=self._timeout_s)
        except (grpc.aio.AioRpcError, KeyError):
            self.rtt_ms.pop(peer, None)
            return
        took_ms = (self._clock.monotonic() - began) * 1000
        before = self.rtt_ms.get(peer, took_ms)
        self.rtt_ms[peer] = before + WEIGHT * (took_ms - before)
