"""The loop of coterie.node.worker in virtual time, around the product's `agenda`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coterie.core.agenda import Action, Cancel, Start, Stop, agenda
from coterie.core.commands import ConfirmCancel, Outcome, RegisterNode
from coterie.core.nouns import SkillRef, Step, Task, TaskId
from tests.checker.history import Kind
from tests.sim.cluster.job import SimJob
from tests.sim.cluster.settings import CAPACITY, SKILL

if TYPE_CHECKING:
    from tests.sim.cluster.process import Process

PROPOSE_MS = 1_500
BARRIER_S = 0.5


class SimWorker:
    """One per process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.jobs: dict[TaskId, SimJob] = {}
        self._registering = False
        self._caught_up_in = 0
        self._catching_up = False
        self._confirming: set[ConfirmCancel] = set()

    def look(self) -> None:
        process = self._process
        node = process.state.nodes.get(process.me)
        if node is None or node.incarnation != process.incarnation:
            self._register()
            return
        self._catch_up()
        running = {task_id: job.attempt for task_id, job in self.jobs.items()}
        for action in agenda(process.state, process.me, process.incarnation, running):
            self._act(action)

    def _register(self) -> None:
        if self._registering:
            return
        self._registering = True
        process = self._process
        command = RegisterNode(
            process.me,
            f"{process.me}:1",
            process.incarnation,
            CAPACITY,
            skills=(SkillRef(SKILL, "1"),),
        )

        def done(outcomes: list[Outcome] | None, tries: int) -> None:
            self._registering = False
            process.ring()

        process.proposer.propose([command], PROPOSE_MS, done)

    def _act(self, action: Action) -> None:
        match action:
            case Start(task):
                self._start(task)
            case Stop(task_id, _):
                self.jobs[task_id].stop()
            case Cancel(task_id, attempt):
                self._cancel(task_id, attempt)

    def _start(self, task: Task) -> None:
        if task.task_id in self.jobs or not self.may_start():
            return
        job = SimJob(self._process, task, self.recorded(task), lambda: self._ended(job))
        self.jobs[task.task_id] = job
        job.start()

    def may_start(self) -> bool:
        lease = self._process.lease
        return lease.valid and lease.period == self._caught_up_in

    def _catch_up(self) -> None:
        """See coterie.node.worker."""
        process, period = self._process, self._process.lease.period
        if not process.lease.valid or period == self._caught_up_in or self._catching_up:
            return
        self._catching_up = True

        def done(answer: int | Exception) -> None:
            self._catching_up = False
            if isinstance(answer, int):
                self._caught_up_in = period
            process.ring()

        process.node.member.read(BARRIER_S, lambda answer: process.later(10, lambda: done(answer)))
        process.kick()

    def recorded(self, task: Task) -> Sequence[Step]:
        """The completed steps an attempt begins with."""
        return self._process.state.steps.get(task.task_id, ())

    def _ended(self, job: SimJob) -> None:
        if self.jobs.get(job.task_id) is job:
            del self.jobs[job.task_id]
        self._process.ring()

    def _cancel(self, task_id: TaskId, attempt: int) -> None:
        job = self.jobs.get(task_id)
        if job is not None:
            job.cancel()
            return
        command = ConfirmCancel(task_id, attempt)
        if command in self._confirming:
            return
        self._confirming.add(command)
        call = self._process.world.history.call(Kind.CONFIRM, task_id=task_id, attempt=attempt)

        def done(outcomes: list[Outcome] | None, tries: int) -> None:
            self._confirming.discard(command)
            if outcomes is not None:
                self._process.world.history.answered(call, outcomes[0], tries)
            self._process.ring()

        self._process.proposer.propose([command], PROPOSE_MS, done)
