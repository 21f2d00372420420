"""One child process as the node sees it, and the run it is busy with."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from coterie.node.skillhost.cell import Cell
from coterie.node.skillhost.nouns import (
    OUTCOME_KINDS_OF_CHILD,
    JobPort,
    OnSkillLog,
    SkillJob,
    SkillOutcome,
    SkillWait,
    Suspended,
)
from coterie.node.skillhost.output import OutputPipe
from coterie.node.skillhost.records import RecordQueue
from coterie.node.skillhost.verdicts import SUSPENDED
from coterie.node.skillhost.zygote import Zygote
from coterie.skills import CallFailed, CallRefused, Fenced
from coterie.skills.context import (
    PROGRESS_MESSAGE_CHARS_MAX,
    STEP_NAME_CHARS_MAX,
    STEPS_MAX,
    WAIT_S_MAX,
)
from coterie.skills.frames import Frame, FrameDecoder, FrameError, FrameSocket, Header
from coterie.skills.jsonio import clip
from coterie.skills.limits import REQUESTS_MAX, Limits
from coterie.skills.output import RECORD_CHARS_MAX
from coterie.skills.replay import STEP_KEY_CHARS_MAX, step_names
from coterie.skills.runframe import pack_run

CODE_CHARS_MAX = 64
IN_FLIGHT_BYTES_MAX = 32 * 1024 * 1024
"""Of requests that are being served: beyond it the process is not listened to until some are done."""
UNSENT_BYTES_MAX = 64 * 1024 * 1024
"""Of answers that the process has not read: beyond it the next one ends it."""
LOG_FRAMES_MAX = 10_000
"""Besides one for each byte of the budget: threads of a skill may race for the last of it."""
WAIT_REASONS = frozenset({"SIGNAL", "APPROVAL", "TIMER"})
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

log = logging.getLogger(__name__)


class Run:
    """A job on its way through the host. `verdict` is why we had it killed, once we did."""

    def __init__(self, job: SkillJob, port: JobPort, loop: asyncio.AbstractEventLoop) -> None:
        self.job = job
        self.port = port
        self.done: asyncio.Future[SkillOutcome] = loop.create_future()
        self.child: Child | None = None
        self.verdict: SkillOutcome | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self.requests: set[asyncio.Task[None]] = set()
        self.bytes_in_flight = 0
        self.steps_taken = 0
        self.log_frames = 0
        self.records: RecordQueue | None = None
        """Of what it logs and prints; there is one once it has a process."""

    def finish(self, outcome: SkillOutcome) -> None:
        """The first outcome counts."""
        if not self.done.done():
            self.done.set_result(outcome)

    async def close(self) -> None:
        """End what belongs to the run."""
        for timer in self.timers:
            timer.cancel()
        if self.requests:
            for request in self.requests:
                request.cancel()
            await asyncio.wait(self.requests)
        if self.records is not None:
            await self.records.empty()


class Owner(Protocol):
    """What a child tells the host that owns it."""

    def on_child_done(self, child: Child, outcome: SkillOutcome, reuse: bool) -> None:
        """The run of `child` ended by itself."""

    def on_child_closed(self, child: Child, error: Exception | None) -> None:
        """The child closed its socket (it died, most likely) or broke the protocol."""

    def kill_run(self, run: Run, verdict: SkillOutcome) -> None:
        """End the run by killing its child; `verdict` is the outcome."""


class Child:
    """The node's ends of one child. Written to before the fork is even done: the kernel keeps it."""

    def __init__(
        self,
        number: int,
        zygote: Zygote,
        owner: Owner,
        limits: Limits,
        on_log: Callable[[], OnSkillLog],
        cell: Cell | None = None,
    ) -> None:
        self.cell = cell
        self.number = number
        self.zygote = zygote
        self.pid = 0
        self.runs = 0
        self.run: Run | None = None
        self.dying = False
        self.deathbed: asyncio.TimerHandle | None = None
        """Runs out when a killed process is not reported dead in time."""
        self._owner = owner
        self._limits = limits
        self._on_log = on_log
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = loop.create_future()
        ours, theirs, output_out, output_in = _open_ends()
        body_bytes_max = max(limits.result_bytes_max, limits.step_bytes_max, limits.checkpoint_bytes_max)
        self._output = OutputPipe(loop, output_out, limits.log_bytes_max, self._on_output)
        self._frames = FrameSocket(loop, ours, FrameDecoder(body_bytes_max), self._on_frame, self._on_closed)
        gate, box = (cell.take_gate(), cell.box) if cell is not None else ((), None)
        zygote.spawn_child(number, (theirs.detach(), output_in, *gate), box)

    @property
    def is_closed(self) -> bool:
        """Its socket has ended: it is dead or as good as dead."""
        return self._frames.closed

    def start(self, run: Run, node_id: str, settings: Mapping[str, Any]) -> None:
        """Send the job."""
        self.run, run.child = run, self
        self._output.reset()
        self._frames.pause(False)
        job = run.job
        loop, chars_max = asyncio.get_running_loop(), self._limits.log_bytes_max
        run.records = RecordQueue(loop, chars_max, partial(self._emit, job.task_id, job.attempt))
        if self.cell is not None and job.confined is not None:
            grant = self.cell.give_to(job.confined, job.task_id)
            self._frames.send({"op": "grant", "grant": asdict(grant)})
        facts = {"skill": job.skill, "task_id": job.task_id, "attempt": job.attempt, "node_id": node_id}
        facts["revision"] = job.revision
        if job.confined is not None:
            facts["source"] = job.confined.as_source()
        if job.beside:
            facts["beside"] = job.beside
        if job.checkpointed:
            facts["checkpointed"] = job.checkpointed
        packed = pack_run({**facts, "settings": settings}, job.payload, job.checkpoint, job.steps)
        self._frames.send_parts(*packed)

    def ask_to_cancel(self) -> None:
        """Tell the skill to stop; it may ignore it."""
        self._frames.send({"op": "cancel"})

    def ask_to_save(self, leaving: bool) -> None:
        """Ask the skill for a checkpoint; it may have none to give."""
        self._frames.send({"op": "save", "leaving": leaving})

    def last_words(self) -> str:
        """Handle all that it still said before it died; the tail of what it printed."""
        self._frames.drain()
        self._output.drain()
        return self._output.tail.strip()

    def close(self) -> None:
        """Let go of the descriptors. May be called twice."""
        self._frames.close()
        self._output.close()
        if self.deathbed is not None:
            self.deathbed.cancel()
        if not self.exited.done():
            self.exited.set_result(None)

    def _on_frame(self, frame: Frame) -> None:
        if self.run is None:
            # Late words of a run that is over, such as a log record of one of its threads.
            return
        try:
            self._handle(self.run, frame)
        except Exception as error:  # whatever a header can be made to raise
            self._break(f"a malformed {frame.header['op']!r} frame: {error!r}")

    def _break(self, why: str) -> None:
        self._frames.close()
        self._on_closed(FrameError(why))

    def _handle(self, run: Run, frame: Frame) -> None:
        header, body = frame
        match header["op"]:
            case "done":
                self._finish(header, body)
            case "step" | "checkpoint" | "wait" | "call":
                self._accept_request(run, header, body)
            case "progress":
                percent = float(header["percent"])
                if not (math.isfinite(percent) and 0 <= percent <= 100):
                    raise ValueError(f"percent {percent}")
                message = clip(str(header["message"]), PROGRESS_MESSAGE_CHARS_MAX)
                _shielded(run.port.report_progress, percent, message)
            case "log":
                run.log_frames += 1
                if run.log_frames > LOG_FRAMES_MAX + self._limits.log_bytes_max:
                    raise ValueError("more records than the budget of its process allows")
                level = header["level"] if header["level"] in LEVELS else "info"
                self._report(level, clip(str(header["text"]), RECORD_CHARS_MAX))
            case unknown:
                raise ValueError(f"op {unknown!r}")

    def _finish(self, header: Header, body: bytes) -> None:
        if header["kind"] not in OUTCOME_KINDS_OF_CHILD:
            raise ValueError(f"kind {header['kind']!r}")
        if len(body) > self._limits.result_bytes_max:
            raise ValueError(f"a result of {len(body)} bytes")
        outcome = SkillOutcome(
            kind=header["kind"],
            result=body,
            code=clip(str(header["code"]), CODE_CHARS_MAX),
            message=clip(str(header["message"]), self._limits.message_chars_max * 2),
            retryable=bool(header["retryable"]),
            traceback=clip(str(header["traceback"]), self._limits.traceback_chars_max * 2),
        )
        self._output.drain()
        self.runs += 1
        self._owner.on_child_done(self, outcome, bool(header["reuse"]))

    def _accept_request(self, run: Run, header: Header, body: bytes) -> None:
        request_id = int(header["id"])
        if len(run.requests) >= REQUESTS_MAX:
            raise ValueError(f"more than {REQUESTS_MAX} requests at once")
        work = self._carry(run, header, body)
        serve = self._serve(run, request_id, work)
        task = asyncio.get_running_loop().create_task(serve, name=f"skill request {run.job.task_id}")
        run.requests.add(task)
        run.bytes_in_flight += len(body)
        self._frames.pause(run.bytes_in_flight > IN_FLIGHT_BYTES_MAX)
        task.add_done_callback(partial(self._on_served, run, len(body)))

    def _on_served(self, run: Run, size: int, task: asyncio.Task[None]) -> None:
        run.requests.discard(task)
        run.bytes_in_flight -= size
        if self.run is run:
            self._frames.pause(run.bytes_in_flight > IN_FLIGHT_BYTES_MAX)

    def _carry(self, run: Run, header: Header, body: bytes) -> Coroutine[Any, Any, bytes | None]:
        """The request as a call of the port. Raises ValueError for what no child sends."""
        if header["op"] == "wait":
            return run.port.wait(_wait_of(header))
        self._check_size(header["op"], len(body))
        if header["op"] == "call":
            return run.port.call(str(header["name"])[:STEP_NAME_CHARS_MAX], body)
        if header["op"] == "checkpoint":
            return _answered(run.port.save_checkpoint(body))
        run.steps_taken += 1
        if run.steps_taken > STEPS_MAX:
            raise ValueError("too many steps")
        beside = step_names(header.get("beside", ()))
        return _answered(run.port.record_step(_key_of(header), body, beside))

    def _check_size(self, op: str, size: int) -> None:
        """What the process itself refuses to send. Raises ValueError."""
        limits = self._limits
        if size > (limits.checkpoint_bytes_max if op == "checkpoint" else limits.step_bytes_max):
            raise ValueError(f"{size} bytes")

    async def _serve(self, run: Run, request_id: int, work: Coroutine[Any, Any, bytes | None]) -> None:
        """Let the port do it, and answer; not to a run that is suspended."""
        reply: Header = {"op": "reply", "id": request_id}
        payload: bytes | None = b""
        try:
            payload = await work
        except Suspended:
            self._owner.kill_run(run, SUSPENDED)
            return
        except Fenced as error:
            # The attempt is deposed: whatever the skill would do next, it must not.
            self._owner.kill_run(run, SkillOutcome("fenced", code="FENCED", message=str(error)))
            return
        except Exception as error:
            reply |= _refusal(error, run.job.task_id, self._limits.message_chars_max)
        if self.run is not run:
            return
        if self._frames.unsent_bytes > UNSENT_BYTES_MAX:
            self._break(f"it does not read its answers, {self._frames.unsent_bytes} bytes by now")
        else:
            # The answer lets the next request come, and the loop of a node reads it before it calls back.
            run.requests.discard(asyncio.current_task())
            self._frames.send({**reply, "timed_out": payload is None}, payload or b"")

    def _on_output(self, line: str) -> None:
        self._report("info", clip(line, RECORD_CHARS_MAX))

    def _report(self, level: str, text: str) -> None:
        if self.run is None or self.run.records is None:
            log.debug("output of an idle skill process: %s", text)
            return
        self.run.records.put(level, text)

    def _emit(self, task_id: str, attempt: int, level: str, text: str) -> None:
        _shielded(self._on_log(), task_id, attempt, level, text)

    def _on_closed(self, error: Exception | None) -> None:
        self._owner.on_child_closed(self, error)


def _open_ends() -> tuple[socket.socket, socket.socket, int, int]:
    """A socket pair and a pipe, or an OSError and nothing left open."""
    ours, theirs = socket.socketpair()
    try:
        output_out, output_in = os.pipe()
    except OSError:
        ours.close()
        theirs.close()
        raise
    return ours, theirs, output_out, output_in


def _refusal(error: Exception, task_id: str, chars_max: int) -> Header:
    """The header that tells the skill of `error`."""
    message = clip(str(error), chars_max)
    if isinstance(error, CallFailed | CallRefused):
        kind = "FAILED" if isinstance(error, CallFailed) else "REFUSED"
        return {"error": kind, "code": error.code, "message": message}
    log.warning("a request of a skill failed: task_id=%s %r", task_id, error)
    return {"error": "NOT_RECORDED", "message": message}


async def _answered(work: Coroutine[Any, Any, None]) -> bytes:
    """An answer without content."""
    await work
    return b""


def _key_of(header: Header) -> str:
    key = header["key"]
    if not isinstance(key, str) or not 1 <= len(key) <= STEP_KEY_CHARS_MAX:
        raise ValueError(f"a key that is not a text of 1 to {STEP_KEY_CHARS_MAX} characters")
    return key


def _wait_of(header: Header) -> SkillWait:
    reason, name = header["reason"], str(header["name"])
    seen, timeout_ms = int(header["seen"]), int(header["timeout_ms"])
    known = reason in WAIT_REASONS and 0 < len(name) <= STEP_NAME_CHARS_MAX
    if not known or seen < 0 or not 0 <= timeout_ms <= WAIT_S_MAX * 1_000:
        raise ValueError(f"wait for {reason!r} {name!r}")
    return SkillWait(reason, name, seen, timeout_ms)


def _shielded(hook: Callable[..., None], *args: object) -> None:
    """Call a hook of the node; its errors are not the child's fault."""
    try:
        hook(*args)
    except Exception:
        log.exception("a hook of the skill host failed")
