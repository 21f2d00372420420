"""Parts of what children gave: small results are read at once, the others in a process of their own.

A thread would not do: the parser keeps the interpreter to itself to the last byte, half a second for 16 MiB,
and the node has heartbeats to send meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE

from coterie.node.json_part import json_part
from coterie.node.skill_calls import refused

HERE_BYTES_MAX = 1024 * 1024
PROCESSES = 2


class LargeJson:
    """All methods belong to one loop."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(PROCESSES)

    async def part(self, content: bytes, name: str | None) -> bytes:
        """See json_part. Raises ApiError for what is not JSON, OSError where there can be no process."""
        if len(content) > HERE_BYTES_MAX:
            async with self._room:
                return await _elsewhere(content, json.dumps(name).encode())
        try:
            return json_part(content, name)
        except ValueError as error:
            raise refused("BAD_RESULT", f"the result of a child is not JSON: {error}") from error


async def _elsewhere(content: bytes, name: bytes) -> bytes:
    words = [sys.executable, "-P", "-m", "coterie.node.json_part"]
    process = await asyncio.create_subprocess_exec(
        *words, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
    )
    try:
        part, _ = await process.communicate(name + b"\n" + content)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise refused("BAD_RESULT", "the result of a child is not JSON")
    return part
