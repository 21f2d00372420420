"""One client process of the etcd bench: a plan as JSON on stdin, what it saw as JSON on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc.aio
import uvloop

from bench import etcd_wire

PUT_TIMEOUT_S = 30.0


async def load(plan: dict[str, Any]) -> dict[str, Any]:
    """Keep `outstanding` puts under way for `seconds`."""
    value = b"x" * plan["value_bytes"]
    latencies_ms: list[float] = []
    async with grpc.aio.insecure_channel(plan["address"]) as channel:
        put: Any = channel.unary_unary(etcd_wire.PUT)
        await channel.channel_ready()
        began = time.monotonic()
        until = began + plan["seconds"]

        async def caller(number: int) -> None:
            key = f"bench/{plan['prefix']}/{number}".encode()
            while (sent := time.monotonic()) < until:
                await put(etcd_wire.put_request(key, value), timeout=PUT_TIMEOUT_S)
                latencies_ms.append((time.monotonic() - sent) * 1000)

        async with asyncio.TaskGroup() as group:
            for number in range(plan["outstanding"]):
                group.create_task(caller(number), name=f"caller-{number}")
        return {"began": began, "ended": time.monotonic(), "latencies_ms": latencies_ms}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load(json.loads(sys.stdin.readline())))), flush=True)
