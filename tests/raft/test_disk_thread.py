"""The thread for the disk: everything in its order, and every end is told."""

from __future__ import annotations

import asyncio
import threading

from coterie.raft.disk_thread import DiskThread


async def test_jobs_run_in_their_order_in_one_thread_and_their_ends_are_told_on_the_loop() -> None:
    thread: DiskThread[int] = DiskThread(asyncio.get_running_loop(), "disk")
    ran: list[tuple[int, int]] = []
    told: list[tuple[object, int]] = []

    def work(number: int) -> int:
        ran.append((number, threading.get_ident()))
        return number

    for number in range(100):
        thread.submit(lambda n=number: work(n), lambda end: told.append((end, threading.get_ident())))  # type: ignore[misc]
    await asyncio.to_thread(thread.shutdown)
    await asyncio.sleep(0)
    assert [number for number, _ in ran] == list(range(100))
    assert len({where for _, where in ran}) == 1 and ran[0][1] != threading.get_ident()
    assert told == [(number, threading.get_ident()) for number in range(100)]


async def test_an_error_is_told_and_the_next_job_runs() -> None:
    thread: DiskThread[int] = DiskThread(asyncio.get_running_loop(), "disk")
    told: list[object] = []
    thread.submit(lambda: 1 // 0, told.append)
    thread.submit(lambda: 2, told.append)
    await asyncio.to_thread(thread.shutdown)
    await asyncio.sleep(0)
    assert isinstance(told[0], ZeroDivisionError) and told[1:] == [2]


async def test_what_is_no_exception_is_told_too_and_the_thread_lives() -> None:
    """An extension that panics raises a BaseException of its own."""
    thread: DiskThread[int] = DiskThread(asyncio.get_running_loop(), "disk")
    told: list[object] = []

    def panic() -> int:
        raise SystemExit("panicked")

    thread.submit(panic, told.append)
    thread.submit(lambda: 2, told.append)
    await asyncio.to_thread(thread.shutdown)
    await asyncio.sleep(0)
    assert isinstance(told[0], RuntimeError) and "SystemExit: panicked" in str(told[0])
    assert told[1:] == [2]


def test_a_loop_that_is_closed_is_not_told() -> None:
    """The process is ending; what the thread was given is done all the same."""
    loop = asyncio.new_event_loop()
    thread: DiskThread[None] = DiskThread(loop, "disk")
    loop.close()
    done: list[int] = []
    for number in range(2):
        thread.submit(lambda n=number: done.append(n), lambda end: None)  # type: ignore[misc]
    thread.shutdown()
    assert done == [0, 1]
