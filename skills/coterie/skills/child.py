"""The child process: takes one run at a time from the node, runs the skill, sends the outcome.

Frames from the node: `run` (see runframe), `cancel`, `save`, `reply` (to a step, checkpoint, wait or call);
to a confined child `grant`, which comes before its one run and closes its walls.
Frames to the node: `step`, `checkpoint`, `wait`, `call`, `progress`, `log`, and `done` (body: the result).
End of stream means that the node is gone, or done with this child: exit.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import inspect
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor
from typing import Any

from coterie.skills import confine, jsonio
from coterie.skills.context import SkillContext
from coterie.skills.errors import CallFailed, CallRefused, Fenced, NotRecorded, SkillError
from coterie.skills.frames import Frame, FrameDecoder, FrameSocket, Header
from coterie.skills.lease import Place
from coterie.skills.limits import REQUESTS_MAX, Limits
from coterie.skills.output import Budget, capture
from coterie.skills.registry import LoadError, Skill, load_one
from coterie.skills.runframe import RUN_BODY_BYTES_MAX, RUN_HEADER_BYTES_MAX, unpack_run
from coterie.skills.runner import CANCELLED, Outcome, failure, run_skill
from coterie.skills.sandbox import Walls, grant_from

PROGRESS_INTERVAL_S = 0.1
LEFTOVER_TASKS_WAIT_S = 0.1
THREADS_MAX = 8
# Skills open a few descriptors for good (random sources, resolvers); a leak goes beyond.
FD_CREEP_MAX = 32

FindSkill = Callable[[str], Skill | None]


class Child:
    """The loop-side state of one child process. It is the Link of each run's context."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        limits: Limits,
        find_skill: FindSkill,
        place: Place,
        walls: Walls | None = None,
    ) -> None:
        self._loop = loop
        self._open_walls = walls
        self._limits = limits
        self._find_skill = find_skill
        self._place = place
        self._budget = Budget(limits.log_bytes_max)
        self._log = capture(self._send_log, self._budget)
        self._threads = ThreadPoolExecutor(THREADS_MAX, confine.THREAD_NAME)
        self._calls: set[Future[Any]] = set()
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._room = asyncio.Semaphore(REQUESTS_MAX)
        self._requests = 0
        self._run_task: asyncio.Task[None] | None = None
        self._context: SkillContext | None = None
        self._saving: asyncio.Task[None] | None = None  # held, so that it is not collected
        self._in_async_handler = False
        self._cancelled_early = False
        self._progress: tuple[float, str] | None = None
        self._progress_timer: asyncio.TimerHandle | None = None
        decoder = FrameDecoder(RUN_BODY_BYTES_MAX, RUN_HEADER_BYTES_MAX)
        self._node = FrameSocket(loop, sock, decoder, self._on_frame, _leave)
        self._usual_fds = confine.lowest_free_fd()

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        """See Link."""
        told = {"beside": list(beside)} if beside else {}
        await self._request({"op": "step", "key": key, **told}, result)

    async def save_checkpoint(self, state: bytes) -> None:
        """See Link."""
        await self._request({"op": "checkpoint"}, state)

    async def wait(self, reason: str, name: str, seen: int, timeout_ms: int) -> bytes | None:
        """See Link. Where nothing has come, no answer comes either: the node ends this process."""
        header = {"op": "wait", "reason": reason, "name": name, "seen": seen, "timeout_ms": timeout_ms}
        reply = await self._request(header, b"")
        return None if reply.header.get("timed_out") else reply.body

    async def call(self, name: str, args: Any) -> Any:
        """See Link."""
        body = jsonio.encode(args, f"the arguments of {name}", self._limits.step_bytes_max)
        reply = await self._request({"op": "call", "name": name}, body)
        return jsonio.decode(reply.body)

    def report_progress(self, percent: float, message: str) -> None:
        """See Link. The first report goes out at once, later ones at most every PROGRESS_INTERVAL_S."""
        self._progress = (percent, message)
        if self._progress_timer is None:
            self._flush_progress()
            self._progress_timer = self._loop.call_later(PROGRESS_INTERVAL_S, self._progress_due)

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        """See Link."""
        call = self._threads.submit(contextvars.copy_context().run, _no_stop_iteration, function)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await asyncio.wrap_future(call)

    def _on_frame(self, frame: Frame) -> None:
        op = frame.header["op"]
        if self._open_walls is not None:
            self._close_walls(self._open_walls, frame)
        elif op == "run":
            self._cancelled_early = False
            self._run_task = self._loop.create_task(self._run(frame))
        elif op == "reply":
            self._on_reply(frame)
        elif op == "save" and self._context is not None:
            self._saving = self._loop.create_task(self._context.save_now(bool(frame.header["leaving"])))
        elif op == "cancel" and self._context is None:
            self._cancelled_early = True  # it came with the run, or late for one that is over
        elif op == "cancel" and self._context is not None:
            self._context.request_cancel()
            if self._in_async_handler and self._run_task is not None:
                self._run_task.cancel()

    def _close_walls(self, walls: Walls, frame: Frame) -> None:
        """Nothing is done before that, and nothing after it has failed."""
        try:
            walls.close(grant_from(frame.header["grant"]))
        except BaseException:
            traceback.print_exc()
            os._exit(70)
        self._open_walls = None

    def _on_reply(self, frame: Frame) -> None:
        waiting = self._waiting.pop(frame.header["id"], None)
        if waiting is None:
            return
        self._room.release()  # only now: the node serves a request also when nobody waits for its answer
        if waiting.done():
            return
        if frame.header.get("error") is None:
            waiting.set_result(frame)
        else:
            waiting.set_exception(_error_of(frame.header))

    async def _request(self, header: Header, body: bytes) -> Frame:
        await self._room.acquire()
        self._requests += 1
        waiting: asyncio.Future[Frame] = self._loop.create_future()
        self._waiting[self._requests] = waiting
        self._node.send({**header, "id": self._requests}, body)
        return await waiting

    async def _run(self, frame: Frame) -> None:
        try:
            await self._run_and_report(frame)
        except BaseException:
            # Only a broken loop or a bug leads here; a dead child is a clear outcome, a silent one is not.
            traceback.print_exc()
            os._exit(70)

    async def _run_and_report(self, frame: Frame) -> None:
        # Marked before the lease is read: see LeaseBoard.
        self._place.mark(True)
        self._budget.reset()
        if self._place.expired:
            outcome = Outcome("lease_lost", code="LEASE_LOST", message="the node's lease had run out")
        elif self._cancelled_early:
            outcome = CANCELLED
        else:
            outcome = await self._run_in_context(frame)
        reuse = outcome.reuse and await self._is_clean()
        self._finish_progress()
        if self._budget.exceeded:
            limit = self._limits.log_bytes_max
            self._send_log("warning", f"output beyond {limit} bytes of this run was dropped")
        if reuse:
            self._place.mark(False)
        self._waiting.clear()
        self._room = asyncio.Semaphore(REQUESTS_MAX)
        self._context = None
        done = {
            "op": "done",
            "kind": outcome.kind,
            "code": outcome.code,
            "message": outcome.message,
            "retryable": outcome.retryable,
            "traceback": outcome.traceback,
            "reuse": reuse,
        }
        self._node.send(done, outcome.result)

    async def _run_in_context(self, frame: Frame) -> Outcome:
        try:
            source = frame.header.get("source")
            skill = self._find_skill(frame.header["skill"]) if source is None else load_one(source)
        except LoadError as error:
            return Outcome("failed", code="SKILL_LOAD_FAILED", message=str(error), reuse=False)
        if skill is None:
            return Outcome("failed", code="UNKNOWN_SKILL", message=f"no skill {frame.header['skill']!r} here")
        payload, facts = unpack_run(frame, self._limits)
        try:
            self._context = SkillContext(facts, self, self._log)
        except ValueError as error:
            return failure(error, self._limits)
        self._context.effects = skill.effects  # type: ignore[assignment]
        self._in_async_handler = inspect.iscoroutinefunction(skill.handler)
        try:
            return await run_skill(skill, self._context, payload, self._limits)
        finally:
            self._in_async_handler = False

    async def _is_clean(self) -> bool:
        """Nothing of the run is left: no asyncio task, thread, process, descriptors or memory."""
        leftover = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        if leftover:
            for task in leftover:
                task.cancel()
            _, alive = await asyncio.wait(leftover, timeout=LEFTOVER_TASKS_WAIT_S)
            if alive:
                return False
        return (
            not self._calls
            and not confine.has_foreign_threads()
            and not confine.has_children()
            and confine.lowest_free_fd() <= self._usual_fds + FD_CREEP_MAX
            and confine.peak_rss_bytes() <= self._limits.rss_bytes_max
        )

    def _progress_due(self) -> None:
        self._progress_timer = None
        if self._progress is not None:
            self._flush_progress()
            self._progress_timer = self._loop.call_later(PROGRESS_INTERVAL_S, self._progress_due)

    def _flush_progress(self) -> None:
        if self._progress is not None:
            percent, message = self._progress
            self._progress = None
            self._node.send({"op": "progress", "percent": percent, "message": message})

    def _finish_progress(self) -> None:
        self._flush_progress()
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    def _send_log(self, level: str, text: str) -> None:
        header = {"op": "log", "level": level, "text": text}
        if threading.current_thread() is threading.main_thread():
            self._node.send(header)
        else:
            self._loop.call_soon_threadsafe(self._node.send, header)


def child_main(
    sock: socket.socket,
    limits: Limits,
    find_skill: FindSkill,
    place: Place,
    walls: Walls | None = None,
) -> None:
    """Serve runs until the stream ends; the process then exits. Called in a freshly forked process; `walls`
    are those of one that is confined, and not closed yet."""
    # A segmentation fault leaves a traceback in the output, which the node keeps.
    faulthandler.enable(file=2)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    Child(loop, sock, limits, find_skill, place, walls)
    try:
        loop.run_forever()
    except BaseException:
        # A skill's own task raised SystemExit, or broke the loop by closing its descriptors.
        logging.getLogger("skill").exception("the child's event loop ended")
        os._exit(70)


def _no_stop_iteration(function: Callable[[], Any]) -> Any:
    """A future cannot carry StopIteration: awaiting it would hang."""
    try:
        return function()
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def _error_of(header: Header) -> SkillError:
    """What the node's refusal of a request raises in the skill."""
    message = header["message"]
    match header["error"]:
        case "FENCED":
            return Fenced(message)
        case "FAILED":
            return CallFailed(message, code=header["code"])
        case "REFUSED":
            return CallRefused(message, code=header["code"])
    return NotRecorded(message)


def _leave(error: Exception | None) -> None:
    os._exit(0)
