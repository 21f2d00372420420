"""Skills that tests run: good ones, and ones that do everything a skill should not."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC251, C901

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from pydantic import BaseModel

from coterie.skills import Cancelled, NonRetryable, SkillContext, SyncSkillContext, skill

KEPT: list[Any] = []


class Order(BaseModel):
    """An input with rules."""

    item: str
    count: int = 1


class Receipt(BaseModel):
    """A result that is a model."""

    total: int


@skill(name="pid")
async def pid(ctx: SkillContext, input: Any) -> int:
    """The process it runs in."""
    return os.getpid()


@skill(name="model", effects="none", timeout="2m", version="1.2.3")
async def model(ctx: SkillContext, input: Order) -> Receipt:
    """Takes and gives models."""
    return Receipt(total=len(input.item) * input.count)


@skill(name="facts")
async def facts(ctx: SkillContext, input: Any) -> dict[str, Any]:
    """What the context says."""
    return {"task": ctx.task_id, "attempt": ctx.attempt, "node": ctx.node_id, "restored": ctx.restored}


@skill(name="surroundings")
async def surroundings(ctx: SkillContext, input: Any) -> dict[str, Any]:
    """What the process sees and may use."""
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in input or ()}
    return {
        "env": dict(os.environ),
        "limits": limits,
        "nice": os.nice(0),
        "is_leader": os.getsid(0) == os.getpid(),
        "stdin": os.read(0, 10).decode(),
        "fds": len(os.listdir("/proc/self/fd")),
    }


@skill(name="plain")
def plain(ctx: SyncSkillContext, input: Any) -> dict[str, Any]:
    """A plain function with steps."""
    first = ctx.step("double", lambda n: n * 2, input)
    ctx.progress(50, "half")
    ctx.checkpoint({"first": first})
    return {"value": ctx.step("double", _double_slowly, first), "main": _in_main_thread()}


async def _double_slowly(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@skill(name="steps")
async def steps(ctx: SkillContext, input: list[str]) -> dict[str, Any]:
    """One step for each name; says which were really run."""
    ran: list[str] = []

    def work(name: str) -> dict[str, Any]:
        ran.append(name)
        return {"name": name, "pair": (1, 2)}

    results = [await ctx.step(name, work, name) for name in input]
    return {"ran": ran, "results": results}


@skill(name="gather")
async def gather(ctx: SkillContext, input: int) -> list[int]:
    """Many steps at once."""
    return list(await asyncio.gather(*(ctx.step("square", lambda n=n: n * n) for n in range(input))))


@skill(name="bad-step")
async def bad_step(ctx: SkillContext, input: str) -> None:
    """Steps that are refused before anything is recorded."""
    if input == "json":
        await ctx.step("s", object)
    elif input == "large":
        await ctx.step("s", lambda: "x" * 2_000_000)
    elif input == "raises":
        await ctx.step("s", lambda: 1 // 0)
    elif input == "stop-iteration":
        await ctx.step("s", lambda: next(iter(())))
    else:
        await ctx.step(input, int)


@skill(name="report")
async def report(ctx: SkillContext, input: list[Any]) -> None:
    """Progress reports in a burst."""
    for percent in input:
        await ctx.progress(percent, f"at {percent}")


@skill(name="chatty")
async def chatty(ctx: SkillContext, input: Any) -> None:
    """Logs and prints in all the ways."""
    ctx.log.warning("by %s", "log")
    print("by print")
    os.write(1, b"by descriptor\n")
    await asyncio.to_thread(ctx.log.error, "by thread")
    subprocess.run(["/bin/sh", "-c", "echo by program"], check=True)


@skill(name="wait")
async def wait(ctx: SkillContext, input: Any) -> str:
    """Waits until it is cancelled."""
    await ctx.progress(1, "waiting")
    try:
        await asyncio.sleep(3_600)
    finally:
        if input == "tidy":
            await ctx.checkpoint("tidied")
    return "never"


@skill(name="wait-plain")
def wait_plain(ctx: SyncSkillContext, input: Any) -> str:
    """The same as a plain function."""
    ctx.progress(1, "waiting")
    if input == "in a step":
        ctx.step("nap", asyncio.sleep, 3_600)
    while not ctx.cancelled:
        time.sleep(0.005)
    raise Cancelled("as you wish")


@skill(name="stubborn")
async def stubborn(ctx: SkillContext, input: Any) -> str:
    """Does not stop when asked."""
    await ctx.progress(1, "waiting")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)


@skill(name="late")
async def late(ctx: SkillContext, input: Any) -> str:
    """Finishes although it was asked to stop."""
    await ctx.progress(1, "waiting")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(3_600)
    return "finished all the same"


@skill(name="spin")
async def spin(ctx: SkillContext, input: Any) -> None:
    """Blocks its loop with work."""
    await ctx.progress(1, "spinning")
    while True:
        pass


@skill(name="block")
async def block(ctx: SkillContext, input: Any) -> None:
    """Blocks its loop in a system call."""
    await ctx.progress(1, "blocking")
    time.sleep(3_600)


@skill(name="family")
async def family(ctx: SkillContext, input: Any) -> None:
    """Starts a child, and a daemon in a session of its own, says who they are, and waits."""
    child = subprocess.Popen(["sleep", "3600"])
    daemon = int(subprocess.check_output(["/bin/sh", "-c", "setsid sleep 3600 >/dev/null & echo $!"]))
    await ctx.checkpoint([os.getpid(), child.pid, daemon])
    if input != "end":
        await asyncio.sleep(3_600)


@skill(name="fail")
async def fail(ctx: SkillContext, input: str) -> Any:
    """Ends in each of the ways that Python knows."""
    if input == "raise":
        raise ValueError("no good")
    if input == "give-up":
        raise NonRetryable("hopeless", code="HOPELESS")
    if input == "huge":
        raise ValueError("x" * 10_000_000 + "\ud800")
    if input == "unprintable":
        raise Unprintable()
    if input == "exit":
        sys.exit(3)
    if input == "interrupt":
        raise KeyboardInterrupt
    if input == "self-cancel":
        raise asyncio.CancelledError
    if input == "recursion":
        return await fail(ctx, input)
    return {"object": object(), "nan": float("nan"), "large": "x" * 100_000_000}[input]


class Unprintable(Exception):
    """An exception whose text is a trap."""

    def __str__(self) -> str:
        raise RuntimeError("do not print me")


@skill(name="crash")
async def crash(ctx: SkillContext, input: str) -> None:
    """Ends the process."""
    if input == "abort":
        os.abort()
    elif input == "exit":
        os._exit(3)
    elif input == "segfault":
        ctypes.string_at(0)
    elif input == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif input == "close":
        os.closerange(0, 256)
        await asyncio.sleep(3_600)
    elif input == "close and spin":
        os.closerange(0, 256)
        while True:
            pass
    elif input == "exit in task":
        KEPT.append(asyncio.create_task(_exit_soon()))
        await asyncio.sleep(3_600)
    elif input == "babble":
        for fd in range(3, 64):
            with contextlib.suppress(OSError):
                os.write(fd, b"\xff" * 64)
        await asyncio.sleep(3_600)


async def _exit_soon() -> None:
    sys.exit(4)


@skill(name="flood")
async def flood(ctx: SkillContext, input: str) -> str:
    """50 MB of output."""
    if input == "print":
        for _ in range(50):
            print("x" * 1_000_000)
    elif input == "lines":
        for number in range(1_000_000):
            print(number)
    elif input == "log":
        for number in range(10_000):
            ctx.log.info("line %d %s", number, "x" * 5_000)
    else:
        for _ in range(50):
            os.write(1, b"y" * 999_999 + b"\n")
    return "done"


@skill(name="leak")
async def leak(ctx: SkillContext, input: str) -> int:
    """Leaves something behind, and ends well."""
    if input == "task":
        KEPT.append(asyncio.create_task(asyncio.sleep(3_600)))
    elif input == "stubborn task":
        KEPT.append(asyncio.create_task(_never_cancelled()))
        await asyncio.sleep(0)
    elif input == "thread":
        threading.Thread(target=time.sleep, args=(3_600,), daemon=True).start()
    elif input == "step thread":
        KEPT.append(asyncio.ensure_future(ctx.step("nap", time.sleep, 3_600)))
        await asyncio.sleep(0.01)
    elif input == "fds":
        KEPT.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(100))
    elif input == "memory":
        KEPT.append(b"x" * 100_000_000)
    elif input == "process":
        KEPT.append(subprocess.Popen(["sleep", "3600"]))
    return os.getpid()


async def _never_cancelled() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)


@skill(name="allocate")
async def allocate(ctx: SkillContext, input: int) -> int:
    """Wants so many bytes."""
    return len(bytearray(input))


@skill(name="bomb")
async def bomb(ctx: SkillContext, input: int) -> None:
    """Forks so many times, children and grandchildren, until it is killed."""
    for _ in range(input):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(3_600)
            time.sleep(3_600)
    await ctx.progress(1, "forked")
    await asyncio.sleep(3_600)


@skill(name="waits")
async def waits(ctx: SkillContext, input: list[str]) -> list[Any]:
    """Waits for signals, one after another."""
    return [await ctx.wait_signal(name) for name in input]


@skill(name="waits-plainly")
def waits_plainly(ctx: SyncSkillContext, input: list[str]) -> list[Any]:
    """The same in a thread."""
    return [ctx.wait_signal(name) for name in input]


@skill(name="naps")
def naps(ctx: SyncSkillContext, input: list[float]) -> None:
    """Durable sleeps."""
    for seconds in input:
        ctx.sleep(seconds)


@skill(name="asks")
async def asks(ctx: SkillContext, input: dict[str, Any]) -> Any:
    """Waits for an approval."""
    return await ctx.wait_approval(input["name"], input.get("timeout"))


@skill(name="calls")
async def calls(ctx: SkillContext, input: list[Any]) -> Any:
    """Asks the node for something."""
    return await ctx._link.call(*input)


@skill(name="settings")
async def settings(ctx: SkillContext, input: Any) -> dict[str, Any]:
    """What the operator says."""
    return dict(ctx.settings)


@skill(name="plain-settings")
def plain_settings(ctx: SyncSkillContext, input: Any) -> dict[str, Any]:
    """The same for a plain function."""
    return dict(ctx.settings)
