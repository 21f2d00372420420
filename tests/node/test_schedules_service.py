"""Schedules as they are shown: times out of range, zones that this node does not know, very many of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coterie.core.coordination.commands import ApplySchedule
from coterie.core.coordination.nouns import SchedulePlan, TaskTemplate
from coterie.core.nouns import Data, RetryPolicy
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.coordination.schedules import TURN, SchedulesService
from coterie.node.rpc import Gate
from coterie.v1 import schedules_pb2
from tests.core.builders import CoreCluster

TEMPLATE = TaskTemplate("echo", Data(b"{}"), 2, RetryPolicy())
PARENT = "tenants/default"


class Refused(Exception):
    """What the caller is told."""


class World:
    """The service over the rules of the core."""

    def __init__(self, *plans: SchedulePlan) -> None:
        self.core = CoreCluster()
        for number, plan in enumerate(plans):
            self.core.do(ApplySchedule("default", f"s{number:03}", plan, TEMPLATE))
        desk: Any = SimpleNamespace(
            state=lambda: self.core.state,
            look=lambda context: asyncio.sleep(0),
            time=SimpleNamespace(now_ms=lambda: self.core.now_ms),
        )
        admission = Admission(AdmissionLimits())
        self.service = SchedulesService(desk, Gate(9), admission, lambda: frozenset({"echo"}))
        self.context: Any = SimpleNamespace(time_remaining=lambda: 10.0, abort=self._abort)

    async def _abort(self, code: grpc.StatusCode, message: str, **_: object) -> None:
        raise Refused(f"{code.name}: {message}")

    async def list(self) -> schedules_pb2.ListSchedulesResponse:
        return await self.service.ListSchedules(
            schedules_pb2.ListSchedulesRequest(parent=PARENT), self.context
        )

    async def backfill(self, from_ms: int) -> schedules_pb2.RunScheduleResponse:
        request = schedules_pb2.BackfillScheduleRequest(
            parent=PARENT, schedule_id="s000", from_ms=from_ms, to_ms=1 << 60
        )
        return await self.service.BackfillSchedule(request, self.context)


@pytest.mark.parametrize("from_ms", [-1, -(10**17), 10**17])
async def test_a_backfill_from_no_time_that_there_is_is_refused_by_name(from_ms: int) -> None:
    with pytest.raises(Refused, match="INVALID_ARGUMENT: from_ms"):
        await World(SchedulePlan("* * * * *")).backfill(from_ms)


async def test_a_zone_that_only_other_nodes_know_hides_no_schedules() -> None:
    world = World(SchedulePlan("* * * * *", time_zone="Mars/Olympus"), SchedulePlan("* * * * *"))
    strange, usual = (await world.list()).schedules
    assert not strange.next_ms and strange.time_zone == "Mars/Olympus" and len(usual.next_ms) == 3
    with pytest.raises(Refused, match=r"INVALID_ARGUMENT: schedule\.time_zone"):
        await world.backfill(0)


async def test_others_have_their_turn_while_very_many_schedules_are_shown() -> None:
    world = World(*[SchedulePlan("", 60_000)] * (3 * TURN))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    assert len((await world.list()).schedules) == 3 * TURN
    beside.cancel()
    assert turns >= 3
