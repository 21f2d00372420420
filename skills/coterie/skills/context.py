"""What a running skill holds in its hands: recorded steps, checkpoints, progress, cancellation, a log."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from coterie.skills import jsonio
from coterie.skills.checkpoints import Checkpoints
from coterie.skills.children import WINDOW, Child, Children, OnError
from coterie.skills.coordination import Coordination, SyncCoordination
from coterie.skills.decisions import Decision, Decisions
from coterie.skills.errors import Cancelled, NonRetryable, WaitTimedOut
from coterie.skills.growing import Growing, Nodes
from coterie.skills.link import Link, RunFacts
from coterie.skills.mcp import McpAnswer, McpTool, McpTools
from coterie.skills.metered import WAIT_S, Metered
from coterie.skills.models import LlmAnswer, Models
from coterie.skills.replay import Replay
from coterie.skills.tools import Tools

STEP_NAME_CHARS_MAX = 128
STEPS_MAX = 10_000
PROGRESS_MESSAGE_CHARS_MAX = 1_024
WAIT_S_MAX = 366 * 24 * 3_600
_SIGNAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class SkillContext(Children, Checkpoints, Coordination, Decisions, Growing, McpTools, Models, Metered, Tools):
    """One run of one task, as its skill sees it. Made by the child process, valid until the run ends."""

    def __init__(self, facts: RunFacts, link: Link, log: logging.Logger) -> None:
        self.task_id = facts.task_id
        self.attempt = facts.attempt
        self.node_id = facts.node_id
        self.revision = facts.revision
        """Hash of the published bundle that runs; empty: the skill is on the node's disk."""
        self.log = log
        self.restored: Any = None if facts.checkpoint is None else jsonio.decode(facts.checkpoint)
        """The last checkpoint of an earlier attempt, or None."""
        self.settings: Mapping[str, Any] = facts.settings
        """What the operator says to this skill (skills.settings of the node); may hold secrets."""
        self._facts = facts
        self._link = link
        self._cancelled = False
        self._on_cancel: list[Callable[[], None]] = []
        self._uses: dict[str, int] = {}
        self._waits: dict[str, int] = {}
        self._steps_used = 0
        self._asked = 0  # approvals
        self._replay = Replay(facts)
        self._begin_children()
        self._begin_checkpoints()

    @property
    def cancelled(self) -> bool:
        """True once the task was asked to stop; the run coroutine is cancelled too."""
        return self._cancelled

    def request_cancel(self) -> None:
        """Called by the child process when the node asks for a stop."""
        self._cancelled = True
        for tell in self._on_cancel:
            tell()

    def handler_returned(self) -> None:
        """Called by the child process. Raises DeterminismError where recorded steps were never asked for."""
        self._replay.end()

    def call_on_cancel(self, tell: Callable[[], None]) -> None:
        """Have `tell` called, on the loop, when the task is asked to stop."""
        self._on_cancel.append(tell)

    def step(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Await this: run `fn(*args, **kwargs)` once per task, whatever happens to nodes meanwhile.

        The result is committed by the cluster before this returns; a later attempt gets it back without
        calling `fn`. `fn` may be async, or plain (then it runs in a thread). The result is what JSON makes
        of it, on the first run too, so both runs see the same. A name used again is `name#2`, `name#3` …,
        in the order of the calls, so call steps in the same order in every attempt; one that asks for others
        than an earlier one recorded fails with DeterminismError. Steps may run side by side (asyncio.gather).
        Raises NotJson, TooLarge, Fenced, NotRecorded, and whatever `fn` raises (then nothing is recorded).
        """
        return self._run_step(self._claim_key(name), lambda: fn(*args, **kwargs), _is_async(fn))

    async def progress(self, percent: float, message: str = "") -> None:
        """Tell watchers how far the task is, 0..100. Cheap: the last of a burst counts."""
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not math.isfinite(percent):
            raise ValueError(f"percent: {percent!r} is not a number; give 0 to 100")
        if not 0 <= percent <= 100:
            raise ValueError(f"percent: {percent} is not in 0..100")
        self._link.report_progress(float(percent), jsonio.clip(str(message), PROGRESS_MESSAGE_CHARS_MAX))

    async def wait_signal(self, name: str, timeout: float | None = None) -> Any:
        """The payload of the next signal of that name (JSON; None when it had none).

        The n-th wait for a name gets the n-th signal sent to the task under it, also one that came before.
        Until it comes the task holds neither process nor slot: this run ends here, and a later attempt runs
        the handler again, which finds its steps and earlier signals recorded. So do everything before a wait
        in steps, and wait for one thing at a time. `timeout` is in seconds; then WaitTimedOut is raised, in
        every later attempt too. Raises Fenced, NotRecorded.
        """
        return await self._wait("SIGNAL", _checked_signal(name), timeout)

    async def wait_approval(self, name: str, timeout: float | None = None) -> Any:
        """The same for a signal that is a person's decision: the task says that it waits for an approval."""
        return await self._wait("APPROVAL", _checked_signal(name), timeout)

    async def sleep(self, seconds: float) -> None:
        """Sleep without process or slot, and across failures: the time counts from the first attempt that
        comes here. It is for long times; a short pause within an attempt is `asyncio.sleep`."""
        timeout_ms = _timeout_ms(seconds)
        number = self._waits["timer:"] = self._waits.get("timer:", 0) + 1
        await self._link.wait("TIMER", f"timer:{number}", 0, timeout_ms)

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        """Run a blocking function in a thread of the child process, not recorded."""
        return await self._link.call_in_thread(function)

    async def _wait(self, reason: str, name: str, timeout: float | None) -> Any:
        timeout_ms = 0 if timeout is None else _timeout_ms(timeout)
        seen = self._waits.get(name, 0)
        self._waits[name] = seen + 1
        payload = await self._link.wait(reason, name, seen, timeout_ms)
        if payload is None:
            raise WaitTimedOut(f"no signal {name!r} came in time")
        return jsonio.decode(payload)

    def _claim_key(self, name: str) -> str:
        if not isinstance(name, str) or not name or len(name) > STEP_NAME_CHARS_MAX:
            raise ValueError(f"step name: {name!r} is not a str of 1 to {STEP_NAME_CHARS_MAX} characters")
        if "#" in name or not name.isprintable():
            raise ValueError(f"step name: {name!r} has '#' or unprintable characters; leave them out")
        self._steps_used += 1
        if self._steps_used > STEPS_MAX:
            raise NonRetryable(f"more than {STEPS_MAX} steps in one task; put several in one step")
        use = self._uses.get(name, 0) + 1
        self._uses[name] = use
        key = name if use == 1 else f"{name}#{use}"
        self._replay.claim(key)
        return key

    async def _run_step(self, key: str, call: Callable[[], Any], is_async: bool) -> Any:
        recorded = self._replay.result(key)
        if recorded is not None:
            return jsonio.decode(recorded)
        result = call() if is_async else await self._link.call_in_thread(call)
        if isinstance(result, Awaitable):
            result = await result
        data = jsonio.encode(result, f"the result of step {key!r}", self._facts.step_bytes_max)
        await self._record(key, data)
        return jsonio.decode(data)

    async def _record(self, key: str, data: bytes) -> None:
        beside = self._replay.beside(key)
        await self._link.record_step(key, data, beside)
        self._replay.recorded(key, beside)


class SyncSkillContext(SyncCoordination):
    """The same for a skill that is a plain function: it runs in a thread, and these calls block it.

    Once the task is cancelled each call raises Cancelled.
    """

    _context: SkillContext

    def __init__(self, context: SkillContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop
        self.task_id = context.task_id
        self.attempt = context.attempt
        self.node_id = context.node_id
        self.revision = context.revision
        self.log = context.log
        self.restored = context.restored
        self.settings = context.settings
        self._calls: set[Future[Any]] = set()
        context._replay.in_thread = True
        context.call_on_cancel(self._cancel_calls)

    @property
    def cancelled(self) -> bool:
        """True once the task was asked to stop: return or raise Cancelled soon."""
        return self._context.cancelled

    def step(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As SkillContext.step; a plain `fn` runs in another thread."""
        return self._wait(self._context.step(name, fn, *args, **kwargs))

    def effect(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As SkillContext.effect; a plain `fn` runs in another thread."""
        return self._wait(self._context.effect(name, fn, *args, **kwargs))

    def approve(
        self, question: str, call: Any = None, approvers: int = 1, timeout: float | None = None
    ) -> Decision:
        """As SkillContext.approve."""
        decision: Decision = self._wait(self._context.approve(question, call, approvers, timeout))
        return decision

    def emit(self, event: str, data: Any = None) -> None:
        """As SkillContext.emit."""
        self._wait(self._context.emit(event, data))

    def checkpoint(self, state: Any) -> None:
        """As SkillContext.checkpoint."""
        self._wait(self._context.checkpoint(state))

    def on_checkpoint(self, state: Callable[[], Any] | None) -> None:
        """As SkillContext.on_checkpoint."""
        self._context.on_checkpoint(state)

    def progress(self, percent: float, message: str = "") -> None:
        """As SkillContext.progress."""
        self._wait(self._context.progress(percent, message))

    def wait_signal(self, name: str, timeout: float | None = None) -> Any:
        """As SkillContext.wait_signal."""
        return self._wait(self._context.wait_signal(name, timeout))

    def wait_approval(self, name: str, timeout: float | None = None) -> Any:
        """As SkillContext.wait_approval."""
        return self._wait(self._context.wait_approval(name, timeout))

    def sleep(self, seconds: float) -> None:
        """As SkillContext.sleep."""
        self._wait(self._context.sleep(seconds))

    def task(self, type: str, payload: Any = None, *, name: str = "", **options: Any) -> Child:
        """As SkillContext.task; gather it, also alone."""
        return self._context.task(type, payload, name=name, **options)

    def gather(self, *children: Child, on_error: OnError = "fail", window: int = WINDOW) -> list[Any]:
        """As SkillContext.gather."""
        results: list[Any] = self._wait(self._context.gather(*children, on_error=on_error, window=window))
        return results

    def llm(self, messages: str | Sequence[Mapping[str, Any]], **options: Any) -> LlmAnswer:
        """As SkillContext.llm."""
        answer: LlmAnswer = self._wait(self._context.llm(messages, **options))
        return answer

    def mcp(
        self, server: str, tool: str, arguments: Mapping[str, Any] | None = None, **options: Any
    ) -> McpAnswer:
        """As SkillContext.mcp."""
        answer: McpAnswer = self._wait(self._context.mcp(server, tool, arguments, **options))
        return answer

    def mcp_tools(self, server: str) -> list[McpTool]:
        """As SkillContext.mcp_tools."""
        tools: list[McpTool] = self._wait(self._context.mcp_tools(server))
        return tools

    def tool(self, tool: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """As SkillContext.tool."""
        return self._wait(self._context.tool(tool, arguments, **options))

    def add_nodes(self, nodes: Nodes, *, name: str = "add_nodes") -> list[str]:
        """As SkillContext.add_nodes."""
        added: list[str] = self._wait(self._context.add_nodes(nodes, name=name))
        return added

    def limit(self, name: str, cost: int = 1, *, timeout: float = WAIT_S) -> None:
        """As SkillContext.limit."""
        self._wait(self._context.limit(name, cost, timeout=timeout))

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._context.cancelled:
            work.close()
            raise Cancelled("the task was cancelled")
        call = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._calls.add(call)
        if self._context.cancelled:
            # The request came between the check above and now.
            call.cancel()
        try:
            return call.result()
        except CancelledError:
            raise Cancelled("the task was cancelled") from None
        finally:
            self._calls.discard(call)

    def _cancel_calls(self) -> None:
        for call in tuple(self._calls):
            call.cancel()


def _checked_signal(name: str) -> str:
    if not isinstance(name, str) or not _SIGNAL.fullmatch(name):
        raise ValueError(f"signal: {name!r} is not 1 to 128 letters, digits and . _ / -")
    return name


def _timeout_ms(seconds: float) -> int:
    """At least 1 ms: nothing is no wait."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= WAIT_S_MAX:
        raise ValueError(f"timeout: {seconds!r} is not in 0..{WAIT_S_MAX} seconds")
    return max(1, math.ceil(seconds * 1_000))


def _is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004
