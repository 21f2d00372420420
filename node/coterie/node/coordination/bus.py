"""The Bus service: publishing, subscribing, topics, and groups of consumers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from coterie.core.coordination import bounds, nouns, topics
from coterie.core.coordination.commands import (
    AckMessages,
    DeleteGroup,
    DeleteTopic,
    FetchMessages,
    PublishMessage,
    SeekGroup,
    SetGroup,
    SetTopic,
)
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import TopicMessage
from coterie.node.admission import request_id_faults
from coterie.node.coordination.desk import (
    Desk,
    check,
    group_faults,
    headers_of,
    not_there,
    pattern_faults,
    range_faults,
    topic_faults,
)
from coterie.node.errors import Violation
from coterie.node.links import FRAME_BYTES_MAX
from coterie.node.rpc import Context, Gate, seconds_left, streaming, unary
from coterie.v1 import bus_pb2, bus_pb2_grpc

HEARTBEAT_S = 5.0
PAGE = 200
PAGE_BYTES_MAX = 2 << 20
FETCH_S = 10.0  # how long one call waits at most
LOOK_S = 1.0  # between two looks for what was not acknowledged in time
AGAIN_S = 0.05  # between two proposals of one call, for each of which every node writes
MARGIN_S = 0.2
ACK_WAIT_MS = 30_000
POSITIONS_MAX = 1_000
CHAR_BYTES_MAX = 4
HEADER_BYTES_MAX = 2 * CHAR_BYTES_MAX * bounds.NAME_CHARS_MAX + 64
MESSAGE_BYTES_MAX = bounds.BODY_BYTES_MAX + (topics.HEADERS_MAX + 1) * HEADER_BYTES_MAX  # one for its names
# Of the largest messages so many fit into one answer: what is given is leased, and would be lost with it.
GIVEN_MAX = FRAME_BYTES_MAX // MESSAGE_BYTES_MAX


class BusService(bus_pb2_grpc.BusServicer):
    def __init__(self, desk: Desk, gate: Gate) -> None:
        self._desk, self.gate = desk, gate

    @unary
    async def Publish(self, request: bus_pb2.PublishRequest, context: Context) -> bus_pb2.PublishResponse:
        tenant = check(
            request.parent,
            topic_faults(request.topic),
            body_faults(request.body),
            request_id_faults(request.request_id),
        )
        headers = headers_of(request.headers)
        mark = self._desk.mark(request.request_id, request.topic, request.body, headers)
        command = PublishMessage(tenant, request.topic, request.body, headers, "", *mark)
        outcome = await self._desk.commit(command, context)
        return bus_pb2.PublishResponse(position=outcome.number)

    @streaming
    async def Subscribe(
        self, request: bus_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[bus_pb2.BusEvent]:
        """A reader that lags behind reads on from the state: nothing is buffered for it."""
        tenant = check(request.parent, pattern_faults(request.pattern))
        await self._desk.look(context)
        position = self._desk.state().meta.message_position
        seen = min(request.after, position) if request.HasField("after") else position
        yield bus_pb2.BusEvent(position=seen)
        while True:
            state = self._desk.state()
            newest = state.meta.message_position
            # Both at one moment: what is forgotten while a slow reader hears of the gaps would be in neither.
            gaps = topics.forgotten(state, tenant, request.pattern, seen)
            page = _page(topics.read(state, tenant, request.pattern, seen, PAGE))
            for topic in gaps:
                gap = bus_pb2.BusGap(topic=topic.name, up_to=topic.forgotten)
                yield bus_pb2.BusEvent(gap=gap, position=seen)
            seen = page[-1].position if page else max(seen, newest)
            yield bus_pb2.BusEvent(messages=[message_to_pb(one) for one in page], position=seen)
            await self._desk.reader.still_connected()
            if self._desk.state().meta.message_position <= seen:
                await self._desk.tide.wait("topic", HEARTBEAT_S)

    # --- topics

    @unary
    async def SetTopic(self, request: bus_pb2.SetTopicRequest, context: Context) -> bus_pb2.Topic:
        topic = request.topic
        least, most = topics.ROOM_BYTES, bounds.KEPT_BYTES_MAX
        size = range_faults("topic.kept_bytes", topic.kept_bytes, least, most) if topic.kept_bytes else []
        tenant = check(
            request.parent,
            topic_faults(topic.name, "topic.name"),
            range_faults("topic.kept_count", topic.kept_count, 0, bounds.KEPT_COUNT_MAX),
            size,
            range_faults("topic.kept_ms", topic.kept_ms, 0, bounds.TTL_MS_MAX),
        )
        command = SetTopic(tenant, topic.name, topic.kept_count, topic.kept_bytes, topic.kept_ms)
        await self._desk.commit(command, context)
        found = self._desk.state().topics.get(name_key(tenant, topic.name))
        if found is None:
            raise not_there("TOPIC", topic.name)
        return self._topic_to_pb(found)

    @unary
    async def ListTopics(
        self, request: bus_pb2.ListTopicsRequest, context: Context
    ) -> bus_pb2.ListTopicsResponse:
        tenant = check(request.parent, pattern_faults(request.pattern) if request.pattern else [])
        await self._desk.look(context)
        state = self._desk.state()
        names = sorted(state.coordination.topics.get(tenant, ()))
        names = [name for name in names if not request.pattern or topics.matches(request.pattern, name)]
        found = [self._topic_to_pb(state.topics[name_key(tenant, name)]) for name in names]
        return bus_pb2.ListTopicsResponse(topics=found, position=state.meta.message_position)

    @unary
    async def DeleteTopic(
        self, request: bus_pb2.DeleteTopicRequest, context: Context
    ) -> bus_pb2.DeleteTopicResponse:
        tenant = check(request.parent, pattern_faults(request.name, "name"))
        await self._desk.commit(DeleteTopic(tenant, request.name), context)
        return bus_pb2.DeleteTopicResponse()

    def _topic_to_pb(self, topic: nouns.Topic) -> bus_pb2.Topic:
        backlog = self._desk.state().coordination.backlogs[name_key(topic.tenant, topic.name)]
        return bus_pb2.Topic(
            name=topic.name,
            kept_count=topic.kept_count,
            kept_bytes=topic.kept_bytes,
            kept_ms=topic.kept_ms,
            sequence=topic.sequence,
            count=len(backlog),
            size_bytes=backlog.size_bytes,
        )

    # --- groups

    @unary
    async def SetGroup(self, request: bus_pb2.SetGroupRequest, context: Context) -> bus_pb2.ConsumerGroup:
        group = request.group
        tenant = check(
            request.parent,
            group_faults(group.name, "group.name"),
            pattern_faults(group.pattern, "group.pattern"),
            range_faults("group.ack_wait_ms", group.ack_wait_ms, 0, bounds.ACK_WAIT_MS_MAX),
            range_faults("group.deliveries_max", group.deliveries_max, 0, 1_000_000),
        )
        await self._desk.look(context)
        now = self._desk.state().meta.message_position
        command = SetGroup(
            tenant,
            group.name,
            group.pattern,
            request.start if request.HasField("start") else now,
            group.ack_wait_ms or ACK_WAIT_MS,
            group.deliveries_max,
        )
        await self._desk.commit(command, context)
        return self._group(tenant, group.name)

    @unary
    async def ListGroups(
        self, request: bus_pb2.ListGroupsRequest, context: Context
    ) -> bus_pb2.ListGroupsResponse:
        tenant = check(request.parent)
        await self._desk.look(context)
        names = sorted(one.name for one in self._desk.state().groups.values() if one.tenant == tenant)
        return bus_pb2.ListGroupsResponse(groups=[self._group(tenant, name) for name in names])

    @unary
    async def DeleteGroup(
        self, request: bus_pb2.DeleteGroupRequest, context: Context
    ) -> bus_pb2.DeleteGroupResponse:
        tenant = check(request.parent, group_faults(request.name, "name"))
        await self._desk.commit(DeleteGroup(tenant, request.name), context)
        return bus_pb2.DeleteGroupResponse()

    @unary
    async def Fetch(self, request: bus_pb2.FetchRequest, context: Context) -> bus_pb2.FetchResponse:
        tenant = check(
            request.parent,
            group_faults(request.group),
            range_faults("count", request.count, 1, bounds.FETCH_MAX),
            range_faults("wait_ms", request.wait_ms, 0, bounds.ACK_WAIT_MS_MAX),
            request_id_faults(request.fetch_id),
        )
        fetch_id = request.fetch_id or self._desk.clock.new_id()
        loop = asyncio.get_running_loop()
        wait_s = min(request.wait_ms / 1000, FETCH_S, seconds_left(context) - MARGIN_S)
        ends_at = loop.time() + wait_s
        command = FetchMessages(tenant, request.group, fetch_id, min(request.count, GIVEN_MAX))
        while True:
            if (await self._desk.commit(command, context)).number or loop.time() >= ends_at:
                return bus_pb2.FetchResponse(messages=self._fetched(tenant, request.group, fetch_id))
            again_at = loop.time() + AGAIN_S
            while loop.time() < ends_at and not self._anything(tenant, request.group):
                await self._desk.tide.wait("topic", min(LOOK_S, ends_at - loop.time()))
            await asyncio.sleep(min(again_at, ends_at) - loop.time())

    def _anything(self, tenant: str, name: str) -> bool:
        """Whether the group would be given something now."""
        state, now_ms = self._desk.state(), self._desk.time.now_ms()
        group = state.groups.get(name_key(tenant, name))
        if group is None or any(one.until_ms <= now_ms for one in group.unacked):
            return True
        if len(group.unacked) >= bounds.UNACKED_MAX:  # what is kept no more makes room
            return any(one.position not in state.messages for one in group.unacked)
        return bool(topics.read(state, tenant, group.pattern, group.cursor, 1))

    def _fetched(self, tenant: str, name: str, fetch_id: str) -> list[bus_pb2.BusMessage]:
        state = self._desk.state()
        group = state.groups.get(name_key(tenant, name))
        given = [one for one in group.unacked if one.fetch_id == fetch_id] if group is not None else []
        return [
            message_to_pb(state.messages[one.position], one.count)
            for one in given
            if one.position in state.messages
        ]

    @unary
    async def Ack(self, request: bus_pb2.AckRequest, context: Context) -> bus_pb2.AckResponse:
        count = range_faults("positions", len(request.positions), 1, POSITIONS_MAX, " of them")
        delay = range_faults("delay_ms", request.delay_ms, 0, bounds.ACK_WAIT_MS_MAX)
        tenant = check(request.parent, group_faults(request.group), count, delay)
        positions = tuple(request.positions)
        command = AckMessages(tenant, request.group, positions, request.refused, request.delay_ms)
        return bus_pb2.AckResponse(count=(await self._desk.commit(command, context)).number)

    @unary
    async def Seek(self, request: bus_pb2.SeekRequest, context: Context) -> bus_pb2.ConsumerGroup:
        low = range_faults("position", request.position, 0, 1 << 62)
        tenant = check(request.parent, group_faults(request.group), low)
        await self._desk.commit(SeekGroup(tenant, request.group, request.position), context)
        return self._group(tenant, request.group)

    def _group(self, tenant: str, name: str) -> bus_pb2.ConsumerGroup:
        group = self._desk.state().groups.get(name_key(tenant, name))
        if group is None:
            raise not_there("GROUP", name)
        return bus_pb2.ConsumerGroup(
            name=group.name,
            pattern=group.pattern,
            ack_wait_ms=group.ack_wait_ms,
            deliveries_max=group.deliveries_max,
            cursor=group.cursor,
            unacked=len(group.unacked),
            lost=group.lost,
            dead=group.dead,
        )


def body_faults(body: bytes, field: str = "body") -> list[Violation]:
    if len(body) <= bounds.BODY_BYTES_MAX:
        return []
    text = f"{len(body)} bytes, the limit is {bounds.BODY_BYTES_MAX}: send the name of where it is"
    return [Violation(field, text)]


def _page(messages: list[TopicMessage]) -> list[TopicMessage]:
    """As many as one answer holds."""
    held = 0
    for place, message in enumerate(messages):
        held += len(message.body)
        if place and held > PAGE_BYTES_MAX:
            return messages[:place]
    return messages


def message_to_pb(message: TopicMessage, delivery: int = 0) -> bus_pb2.BusMessage:
    headers: Mapping[str, str] = {header.key: header.value for header in message.headers}
    return bus_pb2.BusMessage(
        topic=message.topic,
        position=message.position,
        sequence=message.sequence,
        body=message.body,
        headers=headers,
        publisher=message.publisher,
        at_ms=message.at_ms,
        delivery=delivery,
    )
