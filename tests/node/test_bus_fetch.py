"""What one fetch of a group is given: as much as its caller can receive, and no more is taken for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from coterie.client.endpoints import RECEIVED_BYTES_MAX
from coterie.core.commands import Accepted, Command
from coterie.core.coordination.bounds import BODY_BYTES_MAX, FETCH_MAX, NAME_CHARS_MAX
from coterie.core.coordination.commands import AckMessages, PublishMessage, SetGroup, SetTopic
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
        desk: Any = SimpleNamespace(
            state=lambda: self.core.state,
            commit=self.commit,
            time=SimpleNamespace(now_ms=lambda: self.core.now_ms),
        )
        self.service = BusService(desk, Gate(9))
        self.context: Any = SimpleNamespace(time_remaining=lambda: 10.0)
        self.core.do(SetGroup("default", "g", "t.>", 0, 60_000))

    async def commit(self, command: Command, context: object) -> Accepted:
        outcome = self.core.do(command)
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def publish(self, count: int, topic: str, body: bytes, headers: tuple[Label, ...] = ()) -> None:
        await self.commit(SetTopic("default", topic, 10_000, 16 << 20), None)
        for _ in range(count):
            await self.commit(PublishMessage("default", topic, body, headers, WIDE * NAME_CHARS_MAX), None)

    async def fetch(self, fetch_id: str) -> bus_pb2.FetchResponse:
        request = bus_pb2.FetchRequest(
            parent="tenants/default", group="g", count=FETCH_MAX, fetch_id=fetch_id
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
