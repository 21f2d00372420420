"""Links as TCP gives them: in order and complete while they live; what was on the way dies with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sim.raft.timeline import Timeline

Deliver = Callable[[str, str, bytes], None]


@dataclass(slots=True)
class Direction:
    """One way of one link."""

    last_at: int = 0
    held: list[bytes] = field(default_factory=list)
    stalled: bool = False
    on_way: int = 0


@dataclass(slots=True)
class Link:
    """Between two nodes; `generation` grows at every connection."""

    up: bool = False
    generation: int = 0
    ways: dict[str, Direction] = field(default_factory=dict)  # by receiver


class Network:
    """Every frame gets a delay; none overtakes another of the same link."""

    def __init__(self, ids: list[str], timeline: Timeline) -> None:
        self._timeline, self._random = timeline, timeline.rng.random
        self.links: dict[tuple[str, str], Link] = {}  # each under both orders of its ends
        self.blocked: set[frozenset[str]] = set()
        self.deaf: set[tuple[str, str]] = set()  # (sender, receiver): nothing arrives, and nobody is told
        self.deliver: Deliver = lambda sender, receiver, frame: None
        self.slow_us = 0
        self._ids: list[str] = []
        for node_id in ids:
            self.add(node_id)

    def add(self, node_id: str) -> None:
        for other in self._ids:
            self.links[node_id, other] = self.links[other, node_id] = Link()
        self._ids.append(node_id)

    def link(self, a: str, b: str) -> Link:
        return self.links[a, b]

    def connect(self, a: str, b: str) -> None:
        link = self.link(a, b)
        link.up = True
        link.generation += 1
        link.ways = {a: Direction(), b: Direction()}

    def disconnect(self, a: str, b: str) -> None:
        link = self.link(a, b)
        link.up = False
        link.generation += 1

    def send(self, sender: str, receiver: str, frame: bytes) -> None:
        link = self.links[sender, receiver]
        if not link.up or (self.deaf and (sender, receiver) in self.deaf):
            return
        way = link.ways[receiver]
        if way.stalled:
            way.held.append(frame)
        else:
            self._dispatch(link, way, sender, receiver, frame)

    def _dispatch(self, link: Link, way: Direction, sender: str, receiver: str, frame: bytes) -> None:
        generation, now_us = link.generation, self._timeline.now_us
        at_us = now_us + 100 + int(self._random() * (1_400 + self.slow_us))
        if at_us <= way.last_at:
            at_us = way.last_at + 1
        way.last_at = at_us

        def arrive() -> None:
            if link.generation != generation:
                return
            if way.stalled:
                way.held.append(frame)
            else:
                self.deliver(sender, receiver, frame)

        self._timeline.later(at_us - now_us, arrive)

    def stall(self, sender: str, receiver: str) -> None:
        link = self.links[sender, receiver]
        if link.up:
            link.ways[receiver].stalled = True

    def release(self, sender: str, receiver: str) -> None:
        """What was held back arrives now, late and in order."""
        link = self.links[sender, receiver]
        if link.up and link.ways[receiver].stalled:
            way = link.ways[receiver]
            way.stalled = False
            held, way.held = way.held, []
            for frame in held:
                self._dispatch(link, way, sender, receiver, frame)
