"""Skills that write to the node's socket themselves, and others that cost the node more than themselves."""

# ruff: noqa: ASYNC251

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import time
from typing import Any

from coterie.skills import SkillContext, skill


def frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    """What the process would send."""
    text = json.dumps(header).encode()
    return struct.pack("!II", len(text), len(body)) + text + body


def write(ctx: SkillContext, data: bytes) -> None:
    """To the node, past every check of this process."""
    sock: socket.socket = ctx._link._node._sock  # type: ignore[attr-defined]
    with socket.socket(fileno=os.dup(sock.fileno())) as way:
        way.setblocking(True)
        way.sendall(data)
    os.set_blocking(sock.fileno(), False)


@skill(name="short-lines")
async def short_lines(ctx: SkillContext, count: int) -> str:
    """As many lines as the budget for bytes allows, at once."""
    os.write(1, b"a\n" * count)
    return "done"


@skill(name="log-frames")
async def log_frames(ctx: SkillContext, text: str) -> str:
    """Records for ever, whatever this process's own budget says."""
    while True:
        write(ctx, frame({"op": "log", "level": "info", "text": text}) * 500)


@skill(name="frames")
async def frames(ctx: SkillContext, given: dict[str, Any]) -> str:
    """These frames, so many times, then nothing."""
    data = b"".join(frame(header, body.encode()) for header, body in given["frames"])
    for _ in range(given["times"]):
        write(ctx, data)
    await asyncio.sleep(3_600)
    return "never"


@skill(name="raw-frame")
async def raw_frame(ctx: SkillContext, header: str) -> str:
    """A frame with this text for a header, again and again, until the socket is closed or this is killed."""
    text = header.encode()
    data = struct.pack("!II", len(text), 0) + text
    while True:
        write(ctx, data * 20)


@skill(name="big-call")
async def big_call(ctx: SkillContext, size: int) -> str:
    """Arguments that no honest process sends."""
    body = b"[" + b"{}," * (size // 3) + b"1]"
    write(ctx, frame({"op": "call", "id": 1, "name": "any"}, body))
    await asyncio.sleep(3_600)
    return "never"


@skill(name="unread")
async def unread(ctx: SkillContext, count: int) -> str:
    """Asks, and reads no answer."""
    for number in range(count):
        write(ctx, frame({"op": "call", "id": number, "name": "any"}, b"{}"))
        time.sleep(0.002)
    time.sleep(3_600)
    return "never"


@skill(name="many-steps")
async def many_steps(ctx: SkillContext, given: dict[str, int]) -> str:
    """Side by side, as an honest skill may."""
    steps = (ctx.step(f"s{number}", lambda: "x" * given["size"]) for number in range(given["count"]))
    await asyncio.gather(*steps)
    return "done"


@skill(name="impatient")
async def impatient(ctx: SkillContext, count: int) -> str:
    """Steps whose results nobody waits for long enough."""
    steps = (ctx.step(f"s{number}", str, number) for number in range(count))
    await asyncio.gather(*(asyncio.wait_for(step, 5.0) for step in steps), return_exceptions=True)
    return "done"


@skill(name="says")
async def says(ctx: SkillContext, given: dict[str, Any]) -> str:
    """A long error in the words of somebody else."""
    raise ValueError(given["char"] * given["count"])
