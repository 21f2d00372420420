"""The parts of a node end in order, and none keeps the others from it."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from coterie.node.stopping import NotStopped, end_all, end_loops


async def test_every_part_ends_whatever_the_others_do(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def well() -> None:
        ended.append("well")

    async def badly() -> None:
        ended.append("badly")
        raise OSError("the disk is gone")

    async def never() -> None:
        ended.append("never")
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)
            if "let go" in ended:
                return

    parts = [("badly", badly), ("never", never), ("well", well)]
    with (
        caplog.at_level(logging.WARNING, "coterie.node.stopping"),
        pytest.raises(NotStopped, match=r"did not end in time: never$"),
    ):
        await end_all(parts, slow_s=0.05, part_s=0.2)
    assert ended == ["badly", "never", "well"]
    said = [record.message for record in caplog.records]
    assert "a part of the node ended badly" in said
    assert "the node takes long to stop" in said
    assert any("await asyncio.sleep(3_600)" in record.__dict__.get("stack", "") for record in caplog.records)
    ended.append("let go")
    [task] = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    task.cancel()
    await task


async def test_nothing_is_said_of_parts_that_end(caplog: pytest.LogCaptureFixture) -> None:
    async def well() -> None:
        await asyncio.sleep(0)

    async def ends_by_error() -> None:
        raise OSError("known already")

    loops = [asyncio.create_task(asyncio.sleep(3_600, None)), asyncio.create_task(ends_by_error())]
    with caplog.at_level(logging.WARNING, "coterie.node.stopping"):
        await end_all([("loops", lambda: end_loops(loops)), ("well", well)])
    assert all(loop.done() for loop in loops)
    assert caplog.records == []
