"""Topics: publishing, subscribing with a history, and groups of consumers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coterie.client.connection import Connection
from coterie.client.endpoints import Endpoint
from coterie.client.spec import encode_payload
from coterie.client.streams import resumed
from coterie.client.units import Duration
from coterie.client.values import decode, milliseconds, moment, new_request_id
from coterie.v1 import bus_pb2

_FETCH_S = 6.0
_SLACK_S = 4.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `position` is its place among all of the cluster, `sequence` in its topic; `delivery`: how
    often a group gave it out."""

    topic: str
    position: int
    sequence: int
    body: Any
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    publisher: str = ""
    published: datetime | None = None
    delivery: int = 0

    @classmethod
    def of(cls, raw: bus_pb2.BusMessage) -> Message:
        """The dataclass for a message."""
        return cls(
            topic=raw.topic,
            position=raw.position,
            sequence=raw.sequence,
            body=decode(raw.body),
            data=raw.body,
            headers=dict(raw.headers),
            publisher=raw.publisher,
            published=moment(raw.at_ms),
            delivery=raw.delivery,
        )


@dataclass(frozen=True, slots=True)
class MessageGap:
    """Messages of a topic, up to a position, that are not kept any more and that this subscriber has not
    seen."""

    topic: str
    up_to: int


@dataclass(frozen=True, slots=True)
class Topic:
    """How much of a topic is kept: messages, bytes and seconds (0: any time), and what there is of it now."""

    name: str
    kept_count: int = 0
    kept_bytes: int = 0
    kept_for: float = 0.0
    count: int = 0
    size_bytes: int = 0
    sequence: int = 0

    @classmethod
    def of(cls, raw: bus_pb2.Topic) -> Topic:
        """The dataclass for a message."""
        kept_for = raw.kept_ms / 1000
        return cls(
            raw.name, raw.kept_count, raw.kept_bytes, kept_for, raw.count, raw.size_bytes, raw.sequence
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Consumers who share the messages of a pattern. `cursor`: position of the newest one given out; `lost`:
    given out and not kept long enough; `dead`: given up, in the topic `$dead.NAME`."""

    name: str
    pattern: str
    cursor: int
    unacked: int = 0
    lost: int = 0
    dead: int = 0
    ack_wait: float = 30.0
    deliveries_max: int = 0

    @classmethod
    def of(cls, raw: bus_pb2.ConsumerGroup) -> Group:
        """The dataclass for a message."""
        counts = raw.unacked, raw.lost, raw.dead
        return cls(raw.name, raw.pattern, raw.cursor, *counts, raw.ack_wait_ms / 1000, raw.deliveries_max)


class Bus:
    """Topics: `cluster.bus`. Bodies are JSON, or bytes. Patterns: `a.b`, `a.*` or `a.+` for any one word,
    `a.>` for one or more, `a.#` for none too."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def publish(
        self, topic: str, body: Any = None, *, headers: Mapping[str, str] | None = None, request_id: str = ""
    ) -> int:
        """Publishes once, also when answers get lost; returns the position once a majority has it on disk."""
        request = bus_pb2.PublishRequest(
            parent=self._parent,
            topic=topic,
            body=encode_payload(body),
            headers=dict(headers or {}),
            request_id=new_request_id(request_id),
        )
        return (await self._opened().caller.unary(lambda e: e.bus.Publish, request)).position

    async def subscribe(
        self, pattern: str, *, after: int | None = None
    ) -> AsyncGenerator[Message | MessageGap, None]:
        """Every message under the pattern, in order and once, whatever happens to nodes. `after`: a position
        seen before, 0 for everything that is kept; None: what comes from now on. What retention took first is
        a MessageGap, never silence."""
        connection = self._opened()
        request = bus_pb2.SubscribeRequest(parent=f"tenants/{connection.tenant}", pattern=pattern)
        if after is not None:
            request.after = after
        gaps: dict[str, int] = {}

        def open_call(endpoint: Endpoint) -> Any:
            return endpoint.bus.Subscribe(request)

        async for event in resumed(connection.caller, open_call, bus_pb2.BusEvent):
            if event.HasField("gap") and event.gap.up_to > gaps.get(event.gap.topic, 0):
                gaps[event.gap.topic] = event.gap.up_to
                yield MessageGap(event.gap.topic, event.gap.up_to)
            for raw in event.messages:
                request.after = raw.position
                yield Message.of(raw)
            request.after = max(request.after, event.position)

    # --- topics

    async def set_topic(
        self, name: str, *, kept_count: int = 0, kept_bytes: int = 0, kept_for: Duration | None = "24h"
    ) -> Topic:
        """How much of the topic is kept; 0 is the cluster's default, None for `kept_for` any time."""
        topic = bus_pb2.Topic(
            name=name,
            kept_count=kept_count,
            kept_bytes=kept_bytes,
            kept_ms=milliseconds("kept_for", kept_for),
        )
        request = bus_pb2.SetTopicRequest(parent=self._parent, topic=topic)
        return Topic.of(await self._opened().caller.unary(lambda e: e.bus.SetTopic, request))

    async def topics(self, pattern: str = "") -> list[Topic]:
        """The tenant's topics, by name."""
        request = bus_pb2.ListTopicsRequest(parent=self._parent, pattern=pattern)
        answer = await self._opened().caller.unary(lambda e: e.bus.ListTopics, request)
        return [Topic.of(raw) for raw in answer.topics]

    async def remove_topic(self, name: str) -> None:
        """Forgets the topic and its messages."""
        request = bus_pb2.DeleteTopicRequest(parent=self._parent, name=name)
        await self._opened().caller.delete(lambda e: e.bus.DeleteTopic, request)

    # --- groups

    async def set_group(
        self,
        name: str,
        pattern: str,
        *,
        start: int | None = None,
        ack_wait: Duration = "30s",
        deliveries_max: int = 0,
    ) -> Group:
        """Makes a group, or changes it. A new one begins after position `start`; None: with what comes from
        now on. What is not acknowledged within `ack_wait` is given out again, at most `deliveries_max` times
        (0: any)."""
        group = bus_pb2.ConsumerGroup(
            name=name,
            pattern=pattern,
            ack_wait_ms=milliseconds("ack_wait", ack_wait),
            deliveries_max=deliveries_max,
        )
        request = bus_pb2.SetGroupRequest(parent=self._parent, group=group)
        if start is not None:
            request.start = start
        return Group.of(await self._opened().caller.unary(lambda e: e.bus.SetGroup, request))

    async def groups(self) -> list[Group]:
        """The tenant's groups, by name."""
        request = bus_pb2.ListGroupsRequest(parent=self._parent)
        answer = await self._opened().caller.unary(lambda e: e.bus.ListGroups, request)
        return [Group.of(raw) for raw in answer.groups]

    async def remove_group(self, name: str) -> None:
        """Forgets the group; the messages stay."""
        request = bus_pb2.DeleteGroupRequest(parent=self._parent, name=name)
        await self._opened().caller.delete(lambda e: e.bus.DeleteGroup, request)

    async def fetch(self, group: str, *, count: int = 10, wait: Duration = "5s") -> list[Message]:
        """Up to `count` messages, which are this caller's until the group's `ack_wait` is over. Waits for the
        first one; an empty list: none came in time."""
        caller = self._opened().caller
        ends_at = caller.clock() + milliseconds("wait", wait) / 1000
        request = bus_pb2.FetchRequest(
            parent=self._parent, group=group, count=count, fetch_id=uuid.uuid4().hex
        )
        while True:
            seconds = max(0.0, min(_FETCH_S, ends_at - caller.clock()))
            request.wait_ms = int(seconds * 1000)

            async def attempt(endpoint: Endpoint, limit: float) -> bus_pb2.FetchResponse:
                return await endpoint.bus.Fetch(request, timeout=limit)

            answer = await caller.run(attempt, attempt_timeout=seconds + _SLACK_S)
            if answer.messages or caller.clock() >= ends_at:
                return [Message.of(raw) for raw in answer.messages]

    async def ack(self, group: str, messages: Iterable[Message]) -> int:
        """They are done. Returns how many of them were open; when an answer is lost it is asked for again,
        and then those that were done at the first time count no more."""
        return await self._answer(group, messages, refused=False)

    async def nack(self, group: str, messages: Iterable[Message], *, delay: Duration = 0) -> int:
        """Give them out again, to somebody, after `delay`. When the answer is lost it is not repeated, for
        somebody else may have them by then: Unavailable says so."""
        return await self._answer(group, messages, refused=True, delay=delay)

    async def seek(self, group: str, position: int) -> Group:
        """The group goes on after that position: 0 replays everything that is kept. When an answer is lost
        it is asked for again, and what was given out in between is given out once more."""
        request = bus_pb2.SeekRequest(parent=self._parent, group=group, position=position)
        return Group.of(await self._opened().caller.unary(lambda e: e.bus.Seek, request))

    async def _answer(
        self, group: str, messages: Iterable[Message], *, refused: bool, delay: Duration = 0
    ) -> int:
        positions = [message.position for message in messages]
        if not positions:
            return 0
        request = bus_pb2.AckRequest(
            parent=self._parent,
            group=group,
            positions=positions,
            refused=refused,
            delay_ms=milliseconds("delay", delay),
        )
        look = "what was not is given out again when the group's ack_wait is over" if refused else ""
        return (await self._opened().caller.unary(lambda e: e.bus.Ack, request, look=look)).count

    @property
    def _parent(self) -> str:
        return f"tenants/{self._opened().tenant}"
