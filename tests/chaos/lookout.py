"""Somebody who watches a cluster under faults: asks every node what it believes, several times a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from coterie.node.localcluster.wait import open_channel
from coterie.v1 import cluster_pb2, cluster_pb2_grpc, tasks_pb2
from tests.chaos.field import Field

ASK_EVERY_S = 0.1
ANSWER_S = 0.5
REOPEN_AFTER = 4  # failures in a row: a connection may sleep long after a cut


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one node said of itself at one moment (monotonic clock, seconds)."""

    at: float
    node_id: str
    leader: str
    term: int
    applied_index: int
    commit_index: int
    has_quorum: bool


class Lookout:
    """`async with Lookout(field) as lookout:`; sightings are in `seen`, the latest of each node in `last`."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self.seen: list[Sighting] = []
        self.last: dict[str, Sighting] = {}
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Lookout:
        self._loops = [
            asyncio.create_task(self._watch(node_id), name="lookout") for node_id in self._field.node_ids
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def leader(self, within_s: float = 1.0) -> str:
        """The node that said lately, in the highest term, that it leads with a majority; or nobody."""
        now = time.monotonic()
        fresh = [
            sight
            for sight in self.last.values()
            if sight.leader == sight.node_id and sight.has_quorum and now - sight.at < within_s
        ]
        return max(fresh, key=lambda sight: sight.term).node_id if fresh else ""

    async def known_leader(self, timeout_s: float = 30.0, but: str = "") -> str:
        """Wait until somebody leads (somebody other than `but`)."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (leader := self.leader()) and leader != but:
                return leader
            await asyncio.sleep(0.02)
        return ""

    def term(self) -> int:
        """The highest term seen."""
        return max((sight.term for sight in self.seen), default=0)

    async def _watch(self, node_id: str) -> None:
        while True:
            channel = open_channel(self._field.addresses[node_id], self._field.client_tls)
            try:
                await self._ask(node_id, cluster_pb2_grpc.ClusterStub(channel))
            finally:
                await channel.close()

    async def _ask(self, node_id: str, stub: Any) -> None:
        request = cluster_pb2.GetStatusRequest(read_mode=tasks_pb2.STALE)
        failures = 0
        while failures < REOPEN_AFTER:
            await asyncio.sleep(ASK_EVERY_S)
            try:
                answer = await stub.GetStatus(request, timeout=ANSWER_S)
            except grpc.aio.AioRpcError:
                failures += 1
                continue
            failures = 0
            self._note(node_id, answer)

    def _note(self, node_id: str, answer: cluster_pb2.ClusterStatus) -> None:
        sight = Sighting(
            time.monotonic(),
            node_id,
            answer.leader,
            answer.term,
            answer.applied_index,
            answer.commit_index,
            answer.has_quorum,
        )
        self.seen.append(sight)
        self.last[node_id] = sight


def logged(field: Field, node_id: str) -> Iterator[dict[str, Any]]:
    """The lines of a node's log that are JSON."""
    with contextlib.suppress(FileNotFoundError), field.log_path(node_id).open(errors="replace") as lines:
        for line in lines:
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    yield json.loads(line)


def leaders_by_term(field: Field) -> dict[int, set[str]]:
    """Who led, by term, as all nodes wrote into their logs when they learnt of it."""
    found: dict[int, set[str]] = defaultdict(set)
    for node_id in field.node_ids:
        for line in logged(field, node_id):
            if line.get("message") == "leader changed" and line.get("leader"):
                found[int(line["term"])].add(str(line["leader"]))
    return dict(found)
