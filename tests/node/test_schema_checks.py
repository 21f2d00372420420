"""Checks that a node does not do on its loop: in processes of their own, which can be ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from coterie.node import schema_checks
from coterie.node.errors import ApiError
from coterie.node.schema_checks import SchemaChecks
from tests.skills.support import until

NUMBERS = json.dumps({"properties": {"values": {"items": {"type": "number"}}}})
ENDLESS = json.dumps({"items": {"allOf": [{"$ref": "#"}] * 2}})
DEEP = b"[" * 60 + b"]" * 60  # 2 ** 60 steps


@pytest.fixture
async def checks() -> AsyncIterator[SchemaChecks]:
    made = SchemaChecks()
    yield made
    await made.close()


async def test_the_loop_keeps_turning_while_much_is_checked(checks: SchemaChecks) -> None:
    content = json.dumps({"values": [*(i / 7 for i in range(400_000)), "x"]}).encode()
    assert len(content) > 7_000_000
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    found = await checks.faults(NUMBERS, content)
    turning.cancel()
    assert found == [(".values[400000]", '"x" is not a number; send a number')]
    assert turns > 1_000


async def test_a_process_is_used_again_and_two_work_at_once(checks: SchemaChecks) -> None:
    content = b'{"values": [%s]}' % b",".join([b"1"] * 50_000)
    for _ in range(2):
        assert await asyncio.gather(*(checks.faults(NUMBERS, content) for _ in range(4))) == [[]] * 4
        assert len(checks._idle) == schema_checks.PROCESSES


async def test_a_check_that_takes_too_long_is_ended_and_told(
    checks: SchemaChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_checks, "LIMIT_S", 0.1)
    ((_, said),) = await checks.faults(ENDLESS, DEEP)
    assert "takes longer than 0 s to check" in said
    assert not checks._idle and not checks._busy


async def test_deep_values_are_checked_and_too_deep_ones_told(checks: SchemaChecks) -> None:
    tree = json.dumps({"properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}})
    for levels, said in ((100, ""), (600, "nested too deep"), (100_000, "not JSON")):
        found = await checks.faults(tree, b'{"kids": [' * levels + b"]}" * levels)
        assert bool(found) == bool(said) and all(said in text for _, text in found)


async def test_who_gives_up_ends_the_process(checks: SchemaChecks) -> None:
    waiting = asyncio.create_task(checks.faults(ENDLESS, DEEP))
    await until(lambda: bool(checks._busy), "a process is at work")
    (process,) = checks._busy
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await process.wait() < 0


async def test_a_process_that_dies_is_no_fault_of_the_content(checks: SchemaChecks) -> None:
    waiting = asyncio.create_task(checks.faults(ENDLESS, DEEP))
    await until(lambda: bool(checks._busy), "a process is at work")
    await checks.close()
    with pytest.raises(ApiError) as lost:
        await waiting
    assert lost.value.reason == "CHECK_LOST"


async def test_one_that_died_while_it_waited_is_replaced(checks: SchemaChecks) -> None:
    content = b"[%s]" % b",".join([b"1"] * 50_000)
    assert await checks.faults(NUMBERS, content) == []
    (process,) = checks._idle
    process.kill()
    await process.wait()
    assert await checks.faults(NUMBERS, content) == []


async def test_who_waits_for_a_process_when_all_end_is_told_and_gets_none(checks: SchemaChecks) -> None:
    waiting = [asyncio.create_task(checks.faults(ENDLESS, DEEP)) for _ in range(schema_checks.PROCESSES + 1)]
    await until(lambda: len(checks._busy) == schema_checks.PROCESSES, "all work")
    await checks.close()
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
    assert [getattr(one, "reason", one) for one in found] == ["CHECK_LOST"] * len(waiting)
    assert not checks._busy and not checks._idle
