"""What one fetch of a group is given: as much as its caller can receive, and no more is taken for it. How
often it asks, and what a subscriber hears of what it did not see."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from coterie.client.endpoints import RECEIVED_BYTES_MAX
from coterie.core.commands import Accepted, Command
from coterie.core.coordination.bounds import BODY_BYTES_MAX, FETCH_MAX, NAME_CHARS_MAX, UNACKED_MAX
from coterie.core.coordination.commands import (
    AckMessages,
    FetchMessages,
    PublishMessage,
    SetGroup,
    SetTopic,
)
from coterie.core.coordination.topics import HEADERS_MAX
from coterie.core.nouns import Label
from coterie.node.coordination.bus import BusService
from coterie.node.coordination.desk import NAME_CHARS_MAX as TOPIC_CHARS_MAX
from coterie.node.rpc import Gate
from coterie.v1 import bus_pb2
from tests.core.builders import CoreCluster

WIDE = "\N{EARTH GLOBE EUROPE-AFRICA}"  # four bytes


class World:
    """The service over the rules of the core, and a group over the topics under `t`."""

    def __init__(self) -> None:
        self.core = CoreCluster()
        self.fetches, self.ahead_ms = 0, 0
        desk: Any = SimpleNamespace(
            state=lambda: self.core.state,
            commit=self.commit,
            time=SimpleNamespace(now_ms=lambda: self.core.now_ms + self.ahead_ms),
            tide=SimpleNamespace(wait=lambda kind, timeout_s: asyncio.sleep(timeout_s)),
            look=lambda context: asyncio.sleep(0),
            reader=SimpleNamespace(still_connected=lambda: asyncio.sleep(0)),
        )
        self.service = BusService(desk, Gate(9))
        self.context: Any = SimpleNamespace(time_remaining=lambda: 10.0)
        self.core.do(SetGroup("default", "g", "t.>", 0, 60_000))

    async def commit(self, command: Command, context: object) -> Accepted:
        self.fetches += isinstance(command, FetchMessages)
        outcome = self.core.do(command)
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def publish(self, count: int, topic: str, body: bytes, headers: tuple[Label, ...] = ()) -> None:
        await self.commit(SetTopic("default", topic, 10_000, 16 << 20), None)
        for _ in range(count):
            await self.commit(PublishMessage("default", topic, body, headers, WIDE * NAME_CHARS_MAX), None)

    async def fetch(self, fetch_id: str, wait_ms: int = 0) -> bus_pb2.FetchResponse:
        request = bus_pb2.FetchRequest(
            parent="tenants/default", group="g", count=FETCH_MAX, fetch_id=fetch_id, wait_ms=wait_ms
        )
        return await self.service.Fetch(request, self.context)

    def leased(self) -> int:
        return len(self.core.state.groups["default\0g"].unacked)


async def test_the_largest_messages_fit_into_the_answer_and_the_rest_is_left_for_others() -> None:
    world = World()
    wide = tuple(
        Label(f"{n:02}" + WIDE * (NAME_CHARS_MAX - 2), WIDE * NAME_CHARS_MAX) for n in range(HEADERS_MAX)
    )
    for number in range(3):
        topic = f"t.{number}".ljust(TOPIC_CHARS_MAX, "x")
        await world.publish(100, topic, b"x" * BODY_BYTES_MAX, wide)
    answer = await world.fetch("one")
    assert RECEIVED_BYTES_MAX * 3 // 4 < answer.ByteSize() <= RECEIVED_BYTES_MAX
    assert world.leased() == len(answer.messages)
    assert (await world.fetch("one")).messages == answer.messages


async def test_fetch_by_fetch_every_message_is_given_once() -> None:
    world = World()
    await world.publish(2 * FETCH_MAX, "t.small", b"x")
    given: list[int] = []
    for number in range(2 * FETCH_MAX):
        positions = [message.position for message in (await world.fetch(f"f{number}")).messages]
        if not positions:
            break
        given += positions
        await world.commit(AckMessages("default", "g", tuple(positions)), None)
    assert given == [*range(1, 2 * FETCH_MAX + 1)] and number < 8


async def test_who_waits_for_a_group_that_holds_all_it_may_proposes_nothing_meanwhile() -> None:
    world = World()
    await world.publish(UNACKED_MAX + 1, "t.small", b"x")
    while (await world.fetch(f"f{world.fetches}")).messages:
        pass
    assert world.leased() == UNACKED_MAX
    before = world.fetches
    assert not (await world.fetch("more", wait_ms=300)).messages
    assert world.fetches == before + 2, "at the beginning and at the end"


async def test_a_full_group_has_room_again_when_old_messages_are_kept_no_more() -> None:
    world = World()
    await world.publish(UNACKED_MAX, "t.small", b"x")
    while (await world.fetch(f"f{world.fetches}")).messages:
        pass
    assert world.leased() == UNACKED_MAX and not world.service._anything("default", "g")
    await world.publish(1, "t.small", b"y")
    assert not world.service._anything("default", "g"), "there is something, and no room for it"
    await world.commit(SetTopic("default", "t.small", kept_count=UNACKED_MAX), None)
    assert world.service._anything("default", "g")
    given = [message.position for message in (await world.fetch("more")).messages]
    assert given == [UNACKED_MAX + 1]


async def test_a_clock_that_is_ahead_of_the_log_makes_no_storm_of_proposals() -> None:
    world = World()
    await world.publish(1, "t.small", b"x")
    assert (await world.fetch("one")).messages
    world.ahead_ms = 120_000  # the lease of the message has ended by this node's clock only
    assert not (await world.fetch("two", wait_ms=300)).messages
    assert world.fetches < 20


async def test_what_is_forgotten_while_a_reader_is_told_of_a_gap_is_no_secret() -> None:
    world = World()
    await world.commit(SetTopic("default", "t.a", kept_count=2), None)

    async def publish(count: int) -> None:
        for _ in range(count):
            await world.commit(PublishMessage("default", "t.a", b"x"), None)

    await publish(5)
    request = bus_pb2.SubscribeRequest(parent="tenants/default", pattern="t.>", after=0)
    told, known = 0, 0  # the last sequence number up to which the reader knows what became of each message
    async for event in world.service.Subscribe(request, world.context):
        if event.HasField("gap"):
            known, told = max(known, event.gap.up_to), told + 1
            if told == 1:
                await publish(5)
        for message in event.messages:
            assert message.sequence <= known + 1, "some are missing, and nobody said so"
            known = max(known, message.sequence)
        if known >= 10:
            break
