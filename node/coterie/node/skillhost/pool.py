"""A zygote's children: which of them runs what, and what becomes of a run whose process ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from coterie.node.skillhost import verdicts
from coterie.node.skillhost.cell import Cell
from coterie.node.skillhost.child import LEVELS, Child, Run
from coterie.node.skillhost.keeper import ZygoteKeeper
from coterie.node.skillhost.nouns import (
    JobPort,
    OnSkillLog,
    SkillHostOptions,
    SkillHostStats,
    SkillInfo,
    SkillJob,
    SkillOutcome,
    SkillProblem,
)
from coterie.node.skillhost.ramp import Ramp
from coterie.node.skillhost.zygote import Zygote, kill_group
from coterie.skills.runframe import RUN_BODY_BYTES_MAX
from coterie.skills.status import describe_status

CLOSED_GRACE_S = 0.25
"""A child that closed its socket is dying by itself, or else is killed after this."""
KILL_CONFIRM_S = 5.0
"""A process in an uninterruptible system call dies late; its run is reported dead after this all the same."""

log = logging.getLogger(__name__)
skill_log = logging.getLogger("coterie.skill")


class ChildPool:
    """Owns a zygote, its children and the runs in flight. All methods belong to one loop."""

    def __init__(
        self, options: SkillHostOptions, zygote: Zygote, stats: SkillHostStats, confining: bool = False
    ) -> None:
        self.on_skill_log: OnSkillLog = _log_line
        self.stats = stats
        self._options = options
        self._keeper = ZygoteKeeper(
            options,
            zygote,
            self.stats,
            self._on_spawned,
            self._on_exited,
            self._on_loss,
            self._dispatch,
            confining,
        )
        self._children: dict[int, Child] = {}
        self._idle: list[Child] = []
        self._waiting: deque[Run] = deque()
        self._runs: dict[tuple[str, int], Run] = {}
        self._next_number = 1
        self._stopping = False
        self._ramp = Ramp()
        self._again: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Attach to the running loop and wait until the skills are loaded. Raises SkillHostError."""
        await self._keeper.start()
        for problem in self.problems:
            kind = "skipped" if problem.skipped else "note"
            log.warning("skill %s: %s: %s", kind, problem.path, problem.message)
        self._idle = [self._new_child() for _ in range(self._options.warm_children)]

    @property
    def skills(self) -> Mapping[str, SkillInfo]:
        """The skills this node can run, by name."""
        return self._keeper.skills

    @property
    def problems(self) -> tuple[SkillProblem, ...]:
        """What is wrong with skills on disk, as of the last loading."""
        return self._keeper.zygote.problems

    @property
    def running(self) -> int:
        """Runs in flight, waiting ones included."""
        return len(self._runs)

    @property
    def zygote_pid(self) -> int:
        """The process that holds the skills."""
        return self._keeper.zygote.pid

    @property
    def child_pids(self) -> list[int]:
        """The living children, idle or busy, as far as the zygote has reported them."""
        return [child.pid for child in self._children.values() if child.pid]

    async def run(self, job: SkillJob, port: JobPort) -> SkillOutcome:
        """Run one attempt; always returns an outcome. Cancelling this kills the child.

        When it returns, the skill is no longer running. Raises ValueError when this very attempt is running
        already, which is a bug of the caller.
        """
        key = (job.task_id, job.attempt)
        if key in self._runs:
            raise ValueError(f"task {job.task_id} attempt {job.attempt} is running already")
        refusal = self._refusal(job)
        if refusal is not None:
            return refusal
        run = self._runs[key] = Run(job, port, asyncio.get_running_loop())
        try:
            self._set_timeout(run)
            self._waiting.append(run)
            self._dispatch()
            return await run.done
        except asyncio.CancelledError:
            await self._abandon(run)
            raise
        finally:
            del self._runs[key]
            await run.close()

    def cancel(self, task_id: str, attempt: int, grace_ms: int) -> None:
        """Ask the run to stop; kill it when it has not after `grace_ms`. Unknown runs are ignored."""
        run = self._runs.get((task_id, attempt))
        if run is None:
            return
        if run.child is None:
            run.finish(verdicts.CANCELLED)
            return
        run.child.ask_to_cancel()
        loop = asyncio.get_running_loop()
        run.timers.append(loop.call_later(max(0, grace_ms) / 1_000, self.kill_run, run, verdicts.CANCELLED))

    def is_waiting(self, task_id: str, attempt: int) -> bool:
        """Whether the run has no process yet. Unknown runs wait for nothing."""
        run = self._runs.get((task_id, attempt))
        return run is not None and run.child is None

    def ask_to_save(self, task_id: str, attempt: int, leaving: bool) -> None:
        """Ask the run where it is; `leaving`: because it is about to go. Unknown runs are ignored."""
        run = self._runs.get((task_id, attempt))
        if run is not None and run.child is not None and not run.done.done():
            run.child.ask_to_save(leaving)

    def extend_lease(self, valid_for_ms: int) -> None:
        """Skills may run for so long from now; then the zygote kills the running ones, come what may.

        Until the first call no lease is watched. 0 stops all running skills at once.
        """
        self._keeper.set_lease(time.monotonic() + max(0, valid_for_ms) / 1_000)

    async def stop(self) -> None:
        """Kill all skills, end all processes. Runs in flight end as crashed. May be called twice."""
        self._stopping = True
        await self._keeper.stop()
        for child in list(self._children.values()):
            self._bury(child, verdicts.HOST_STOPPED)
        while self._waiting:
            self._waiting.popleft().finish(verdicts.HOST_STOPPED)

    # --- what differs between pools

    def _unfit(self, job: SkillJob) -> SkillOutcome | None:
        """Why the job cannot run here, if it cannot."""
        if job.confined is not None or job.skill in self.skills:
            return None
        return verdicts.unknown_skill(job.skill)

    def _default_timeout_ms(self, job: SkillJob) -> int:
        """For a job that names no timeout; 0 is none."""
        if job.confined is not None:
            return job.confined.timeout_ms or job.default_timeout_ms
        own_ms = self.skills[job.skill].timeout_ms
        return job.default_timeout_ms if own_ms is None else own_ms

    def _settings_of(self, job: SkillJob) -> Mapping[str, Any]:
        """What the operator says to the skill, secrets included."""
        return self._options.settings.get(job.skill, {})

    def _may_run_again(self, child: Child) -> bool:
        """Whether a child that says it is clean gets another run."""
        return child.runs < self._options.limits.runs_max

    def _child_for(self, run: Run) -> Child | None:
        """An idle child, or a new one while there may be more; None also when many have begun just before.
        Raises OSError."""
        if not self._may_begin():
            return None
        if self._idle:
            return self._idle.pop()
        return self._new_child() if len(self._children) < self._options.max_children else None

    def _let_go(self, child: Child) -> None:
        """The child is dead: what was its own can go."""

    # --- runs

    def _refusal(self, job: SkillJob) -> SkillOutcome | None:
        if self._stopping:
            return verdicts.HOST_STOPPED
        if time.monotonic() >= self._keeper.lease_until:
            return verdicts.LEASE_LOST
        if (refusal := self._unfit(job)) is not None:
            return refusal
        size = len(job.payload) + len(job.checkpoint or b"") + sum(map(len, job.steps.values()))
        if size > RUN_BODY_BYTES_MAX:
            return verdicts.too_large(size, RUN_BODY_BYTES_MAX)
        return None

    def _set_timeout(self, run: Run) -> None:
        timeout_ms = run.job.timeout_ms or self._default_timeout_ms(run.job)
        if timeout_ms > 0:
            loop = asyncio.get_running_loop()
            verdict = verdicts.timed_out(timeout_ms)
            run.timers.append(loop.call_later(timeout_ms / 1_000, self.kill_run, run, verdict))

    def _dispatch(self) -> None:
        """Give waiting runs to idle children, or to new ones while there may be more."""
        while self._waiting and self._keeper.zygote.is_ready:
            if self._waiting[0].done.done():
                self._waiting.popleft()
                continue
            try:
                child = self._child_for(self._waiting[0])
            except OSError as error:
                self._waiting.popleft().finish(verdicts.start_failed(str(error)))
                continue
            if child is None:
                return
            self.stats.runs += 1
            run = self._waiting.popleft()
            self._ramp.begun(child.number, asyncio.get_running_loop().time())
            child.start(run, self._options.node_id, self._settings_of(run.job))

    def _may_begin(self) -> bool:
        """Whether one more run may; if not now, a moment later."""
        loop = asyncio.get_running_loop()
        may = self._ramp.may_begin(loop.time())
        if not may and self._again is None:
            self._again = loop.call_later(self._ramp.pause_s(loop.time()), self._dispatch_again)
        return may

    def _dispatch_again(self) -> None:
        self._again = None
        self._dispatch()

    def kill_run(self, run: Run, verdict: SkillOutcome) -> None:
        """See Owner. The run ends once its process is dead."""
        if run.done.done():
            return
        if run.child is None:
            run.finish(verdict)
        elif run.verdict is None:
            run.verdict = verdict
            self._kill(run.child)

    async def _abandon(self, run: Run) -> None:
        child = run.child
        if child is not None and child.run is run:
            self._kill(child)
            await asyncio.wait([child.exited], timeout=KILL_CONFIRM_S)

    # --- children

    def _new_child(self, cell: Cell | None = None) -> Child:
        """In `cell`, if it is to be confined. Raises OSError."""
        number = self._next_number
        self._next_number += 1
        limits, on_log = self._options.limits, lambda: self.on_skill_log
        child = Child(number, self._keeper.zygote, self, limits, on_log, cell)
        self._children[number] = child
        return child

    def _kill(self, child: Child) -> None:
        """Have the child killed; it is buried when the zygote says that it is dead."""
        if not child.dying:
            child.dying = True
            self._kill_now(child)

    def _kill_now(self, child: Child) -> None:
        child.zygote.kill_child(child.number)
        self._set_deathbed(child, verdicts.crashed("does not die"))

    def _set_deathbed(self, child: Child, outcome: SkillOutcome) -> None:
        if child.deathbed is not None:
            child.deathbed.cancel()
        loop = asyncio.get_running_loop()
        child.deathbed = loop.call_later(KILL_CONFIRM_S, self._bury, child, outcome)

    def on_child_done(self, child: Child, outcome: SkillOutcome, reuse: bool) -> None:
        """See Owner."""
        run, child.run = child.run, None
        self._ramp.ended(child.number)
        if run is not None:
            run.finish(run.verdict or outcome)
        if child.dying:
            return
        if reuse and self._may_run_again(child):
            self._idle.append(child)
        else:
            self._kill(child)
        self._dispatch()

    def on_child_closed(self, child: Child, error: Exception | None) -> None:
        """See Owner. Its exit status comes from the zygote, unless that is dead."""
        if child in self._idle:
            self._idle.remove(child)
        if error is not None and child.run is not None and child.run.verdict is None:
            child.run.verdict = verdicts.protocol_error(error)
        if child.zygote.lost.is_set():
            self._bury(child, verdicts.HOST_LOST)
        elif error is None and not child.dying:
            # Its descriptors close before the process is dead; only its own death tells the true cause.
            child.dying = True
            loop = asyncio.get_running_loop()
            child.deathbed = loop.call_later(CLOSED_GRACE_S, self._kill_now, child)
        else:
            self._kill(child)

    def _on_spawned(self, number: int, pid: int, fork_us: int) -> None:
        self.stats.forks += 1
        self.stats.fork_us_total += fork_us
        if number in self._children:
            self._children[number].pid = pid

    def _on_exited(self, number: int, status: int, reason: str) -> None:
        child = self._children.get(number)
        if child is None:
            return
        if status == -1:
            outcome = verdicts.start_failed(reason)
        elif reason == "lease":
            outcome = verdicts.LEASE_LOST
        elif reason == "kill" and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            # Nobody but `on_child_closed` kills without a verdict of its own.
            outcome = verdicts.crashed("closed its connection to the node")
        else:
            outcome = verdicts.crashed(describe_status(status))
        self._bury(child, outcome)
        self._dispatch()

    def _bury(self, child: Child, outcome: SkillOutcome) -> None:
        """The process is dead: hear its last words, end its run. May be called twice."""
        if self._children.pop(child.number, None) is None:
            return
        child.dying = True
        self._ramp.ended(child.number)
        if child in self._idle:
            self._idle.remove(child)
        tail = ""
        try:
            tail = child.last_words()
        except Exception:
            log.exception("the last words of a skill process were not understood")
        run, child.run = child.run, None
        try:
            if run is not None:
                run.finish(run.verdict or verdicts.with_traceback(outcome, tail))
                self.stats.crashes += run.verdict is None and outcome.kind == "crashed"
            child.close()
        finally:
            self._let_go(child)

    # --- the zygote

    def _on_loss(self) -> None:
        """Its children die with it (the kernel sees to that); their runs end when their sockets close."""
        self._idle.clear()
        for child in list(self._children.values()):
            if child.pid:
                kill_group(child.pid)
            if child.is_closed:
                self._bury(child, verdicts.HOST_LOST)
                continue
            child.dying = True
            self._set_deathbed(child, verdicts.HOST_LOST)


def _log_line(task_id: str, attempt: int, level: str, text: str) -> None:
    skill_log.log(LEVELS[level], "%s", text, extra={"task_id": task_id, "attempt": attempt})
