"""One client process of a bench: a plan as JSON on stdin, what it saw as JSON on stdout.

    plan     -> {"ready": …}     connected and warmed up
    go       -> the outcome      "closed": `callers` submit and wait in turn, for `seconds` or `count` tasks
                                 "probe": a submit every `interval_ms` until a line "stop" comes

Every result is compared with what the skill must answer. Times are those of the monotonic clock, which all
processes of a machine share."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import uvloop

from coterie.client import TLS, Cluster, CoterieError, Job, WaitTimeout

TASK_S = 60.0
ERRORS_SHOWN_MAX = 10


@dataclass(slots=True)
class Seen:
    """What this process saw, as parallel lists in the order of completion."""

    submitted: int = 0
    acked_at: list[float] = field(default_factory=list)
    ack_ms: list[float] = field(default_factory=list)
    task_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def finished(self) -> int:
        return len(self.task_ms)


class Load:
    """The callers of one process, spread over its connections."""

    def __init__(self, plan: dict[str, Any], clusters: list[Cluster]) -> None:
        self._plan, self._clusters = plan, clusters
        self._number = 0
        self.seen = Seen()

    async def warm_up(self) -> None:
        """The same calls as later, so that channels, streams and skill processes are there."""
        each = self._plan.get("warm_up", 2)
        await self._all(lambda caller: self._some(caller, each))
        if self.seen.errors:
            raise CoterieError(f"warm-up: {self.seen.errors[0]}")

    async def closed(self) -> None:
        """Each caller submits its next task when its last one is done."""
        if count := self._plan.get("count"):
            await self._all(lambda caller: self._some(caller, count))
        else:
            until = time.monotonic() + self._plan["seconds"]
            await self._all(lambda caller: self._until(caller, until))

    async def probe(self, stop: asyncio.Future[Any]) -> None:
        """A task at a fixed rate, whatever becomes of the ones before."""
        interval = self._plan["interval_ms"] / 1000
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not stop.done():
                group.create_task(self._task(0), name="probe")
                due = max(due + interval, time.monotonic() - interval)
                await asyncio.sleep(due - time.monotonic())

    async def _all(self, call: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for caller in range(self._plan["callers"]):
                group.create_task(call(caller), name=f"caller-{caller}")

    async def _some(self, caller: int, count: int) -> None:
        for _ in range(count):
            await self._task(caller)

    async def _until(self, caller: int, until: float) -> None:
        while time.monotonic() < until:
            await self._task(caller)

    async def _task(self, caller: int) -> None:
        cluster = self._clusters[caller % len(self._clusters)]
        payload, wanted = self._work()
        began = time.monotonic()
        self.seen.submitted += 1
        try:
            job = await cluster.submit_task(type=self._plan["skill"], payload=payload)
            acked = time.monotonic()
            self.seen.acked_at.append(acked)
            self.seen.ack_ms.append((acked - began) * 1000)
            result = await job.wait(timeout=TASK_S)
        except WaitTimeout as error:
            self.seen.errors.append(f"{error}; {await where(job)}")
            return
        except CoterieError as error:
            self.seen.errors.append(f"{type(error).__name__}: {error}")
            return
        self.seen.task_ms.append((time.monotonic() - began) * 1000)
        if result != wanted:
            self.seen.errors.append(f"task {job.id} answered {result!r} instead of {wanted!r}")

    def _work(self) -> tuple[Any, Any]:
        """A payload that nobody else has where the skill allows it, and the result it must give."""
        self._number += 1
        if self._plan["skill"] == "echo":
            payload = {"client": self._plan["client"], "number": self._number}
            return payload, payload
        seconds, steps = self._plan["sleep_seconds"], self._plan.get("steps", 1)
        return {"seconds": seconds, "steps": steps}, {"slept_seconds": seconds, "steps": steps}


async def where(job: Job) -> str:
    """What the cluster says of a task that does not end."""
    try:
        task = await job.get()
    except CoterieError as error:
        return f"asking for it: {error}"
    waits = f", waits for {task.wait_reason} {task.wait_detail}" if task.wait_reason else ""
    return f"it is {task.state} on {task.node or 'no node'}, attempt {task.attempt}{waits}"


async def serve() -> None:
    """One plan from beginning to end."""
    plan = await hear()
    tls = TLS(**plan["tls"]) if plan["tls"] else None
    async with AsyncExitStack() as stack:
        clusters = [
            await stack.enter_async_context(
                Cluster(plan["endpoints"], tls=tls, auto_discovery=plan.get("discovery", True))
            )
            for _ in range(plan.get("connections", 1))
        ]
        load = Load(plan, clusters)
        await load.warm_up()
        say({"ready": load.seen.finished})
        load.seen = Seen()
        await hear()
        used, began = _cpu_s(), time.monotonic()
        if plan["mode"] == "probe":
            await load.probe(asyncio.ensure_future(hear()))
        else:
            await load.closed()
        say(outcome(load.seen, began, _cpu_s() - used))


def outcome(seen: Seen, began: float, cpu_s: float) -> dict[str, Any]:
    """What the parent is told."""
    return {
        "began": began,
        "ended": time.monotonic(),
        "submitted": seen.submitted,
        "finished": seen.finished,
        "acked_at": seen.acked_at,
        "ack_ms": seen.ack_ms,
        "task_ms": seen.task_ms,
        "failed": len(seen.errors),
        "errors": seen.errors[:ERRORS_SHOWN_MAX],
        "cpu_s": cpu_s,
    }


async def hear() -> Any:
    """The parent's next line."""
    return json.loads(await asyncio.to_thread(sys.stdin.readline))


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(serve())
        except CoterieError as failure:
            say({"error": f"{type(failure).__name__}: {failure}"})
