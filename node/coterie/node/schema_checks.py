"""Checks of what skills take and give: small ones at once, the others in a process of their own.

A thread would not do: the check is pure Python, so it would take the node's own time, and nobody
could end it."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process

import grpc

from coterie.node.errors import ApiError
from coterie.node.observability import get_logger
from coterie.node.schema_child import ANSWER, REQUEST
from coterie.node.schemas import Faults, faults_here

log = get_logger(__name__)

PROCESSES = 2
LIMIT_S = 30.0
BYTES_A_SECOND = 200_000  # that a check gets more time for; it does some 800,000
IDLE_S = 60.0
GRACE_S = 5  # after which a process whose node is gone ends itself


class SchemaChecks:
    """All methods belong to one loop."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(PROCESSES)
        self._idle: dict[Process, asyncio.TimerHandle] = {}
        self._busy: set[Process] = set()
        self._closed = False

    async def faults(self, schema: str, content: bytes, published: bool = False) -> Faults:
        """See schemas.faults_by_text. Raises ApiError where the check came to no end."""
        found = faults_here(schema, content, published)
        if found is not None:
            return found
        async with self._room:
            if self._closed:
                raise _lost("this node is stopping")
            return await self._elsewhere(schema.encode(), content)

    async def close(self) -> None:
        """End the processes; who still waits for one gets ApiError."""
        self._closed = True
        processes = [*self._idle, *self._busy]
        for process in processes:
            _kill(process)
        for timer in self._idle.values():
            timer.cancel()
        self._idle.clear()
        await asyncio.gather(*(process.wait() for process in processes))

    # --- inside

    async def _elsewhere(self, schema: bytes, content: bytes) -> Faults:
        limit_s = LIMIT_S + len(content) / BYTES_A_SECOND
        process = await self._process()
        self._busy.add(process)
        answered = False
        try:
            async with asyncio.timeout(limit_s):
                found = await _asked(process, round(limit_s) + GRACE_S, schema, content)
            answered = True
            return found
        except TimeoutError:
            log.warning("a schema takes too long to check", extra={"bytes": len(content), "limit_s": limit_s})
            return [
                ("", f"takes longer than {limit_s:.0f} s to check; send less, or make the schema simpler")
            ]
        except (OSError, asyncio.IncompleteReadError) as error:
            raise _lost(f"the process that checks schemas ended: {error}") from error
        finally:
            self._busy.discard(process)
            if answered:
                later = asyncio.get_running_loop().call_later(IDLE_S, self._let_go, process)
                self._idle[process] = later
            else:
                _kill(process)
                await process.wait()

    async def _process(self) -> Process:
        """One that waits, or a new one."""
        while self._idle:
            process, timer = self._idle.popitem()
            timer.cancel()
            if process.returncode is None:
                return process
        words = [sys.executable, "-P", "-m", "coterie.node.schema_child"]
        return await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, start_new_session=True)

    def _let_go(self, process: Process) -> None:
        self._idle.pop(process, None)
        _kill(process)


async def _asked(process: Process, limit_s: int, schema: bytes, content: bytes) -> Faults:
    """Raises OSError, asyncio.IncompleteReadError."""
    assert process.stdin is not None and process.stdout is not None, "both are pipes"
    process.stdin.write(REQUEST.pack(limit_s, len(schema), len(content)) + schema)
    process.stdin.write(content)
    await process.stdin.drain()
    (size,) = ANSWER.unpack(await process.stdout.readexactly(ANSWER.size))
    return [(place, text) for place, text in json.loads(await process.stdout.readexactly(size))]


def _lost(text: str) -> ApiError:
    return ApiError(grpc.StatusCode.UNAVAILABLE, "CHECK_LOST", text)


def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
