"""A parent's handler over the real calls and the real state machine, without processes or sockets: it runs
until it would be suspended, its children end, it is assigned again and runs anew."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from coterie.core.commands import (
    Accepted,
    Command,
    ConfigureCluster,
    FailAttempt,
    FinishTask,
    Outcome,
    RecordStep,
    Rejected,
    SuspendTask,
)
from coterie.core.nouns import Data, Policy, Signal, SkillRef, Task, TaskError, TaskId, TaskState, WaitReason
from coterie.core.state import ClusterState
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.child_calls import ChildCalls
from coterie.node.decision_calls import HANDLERS
from coterie.node.skill_calls import Handlers, answer
from coterie.node.skillhost.nouns import SkillWait, Suspended
from coterie.skills import Fenced, SkillContext
from coterie.skills.link import RunFacts
from tests.core.builders import CoreCluster, register_command

PARENT = TaskId("p")
Program = Callable[[SkillContext], Awaitable[Any]]
ChildProgram = Callable[[str, Any], Any]


class FamilyBench:
    """`child(type, payload)` is what a child does: its result, or an exception that is its failure."""

    def __init__(self, child: ChildProgram, handlers: Handlers | None = None, **policy: int) -> None:
        self.core = CoreCluster()
        kept = Policy(**{"pending_tasks_max": 100_000, **policy})
        self.core.do(ConfigureCluster("c", "c", kept, seal=b"seal"))
        skills = tuple(SkillRef(name, "1") for name in ("echo", "map", "reduce"))
        self.core.do(register_command("n1", capacity=100_000, skills=skills))
        self.core.running("p", labels=())
        self.child, self.blobs = child, dict[str, bytes]()
        self.handlers = handlers or {
            **ChildCalls(Admission(AdmissionLimits()), linger_s=0).handlers(),
            **HANDLERS,
        }
        self.runs = self.open_max = 0
        self.began: list[str] = []
        self.progress: list[tuple[float, str]] = []

    async def run(self, program: Program, attempts_max: int = 2_000) -> Any:
        """The result of the parent, over as many attempts as it takes."""
        for _ in range(attempts_max):
            try:
                return await self.attempt(program)
            except Suspended:
                self.end_children()
                if self.core.task("p").state is TaskState.WAITING:
                    raise AssertionError("nobody wakes the parent") from None
                self.core.assign("p")
        raise AssertionError(f"not done after {attempts_max} attempts")

    async def attempt(self, program: Program) -> Any:
        self.runs += 1
        parent = self.core.task("p")
        journal = self.core.state.steps.get(PARENT, ())
        facts = RunFacts("p", parent.attempt, "n1", steps={step.key: step.result.inline for step in journal})
        return await program(SkillContext(facts, _Link(self, parent), logging.getLogger("test")))

    def lose(self) -> None:
        """The parent's node is lost; it is assigned again."""
        from coterie.core.commands import ReleaseTask

        self.core.do(ReleaseTask(PARENT, self.core.task("p").attempt, "lost", lost=True))
        self.core.assign("p")

    def end_children(self) -> None:
        """Every queued child runs to its end, in an order that is not theirs."""
        open_now = [task for task in self.core.state.tasks.values() if task.parent_id == PARENT]
        self.open_max = max(self.open_max, len(open_now))
        for task in reversed(open_now):
            if task.task_id in self.core.state.tasks:
                self.end(task)

    def end(self, task: Task) -> None:
        self.core.assign(task.task_id)
        attempt = self.core.task(task.task_id).attempt
        self.began.append(task.task_id)
        content = self.blobs[task.payload.sha256] if task.payload.sha256 else task.payload.inline
        command: Command
        try:
            result = self.child(task.type, json.loads(content))
            command = FinishTask(task.task_id, attempt, Data(json.dumps(result).encode()))
        except Exception as error:
            command = FailAttempt(task.task_id, attempt, TaskError("BROKEN", str(error), retryable=False))
        assert isinstance(self.core.do(command), Accepted)


class _Link:
    """A run that asks and the way to its node in one."""

    def __init__(self, bench: FamilyBench, task: Task) -> None:
        self._bench, self.task = bench, task
        self.task_id, self.attempt = task.task_id, task.attempt

    @property
    def state(self) -> ClusterState:
        return self._bench.core.state

    async def commit(self, command: Command) -> Outcome:
        return self._bench.core.do(command)

    async def commit_all(self, commands: Sequence[Command]) -> list[Outcome]:
        return [self._bench.core.do(command) for command in commands]

    async def commit_own(self, command: Command) -> Outcome:
        outcome = await self.commit(command)
        if isinstance(outcome, Rejected) and outcome.code == "FENCED":
            raise Fenced(outcome.reason)
        return outcome

    async def await_signal(self, wait: SkillWait) -> Signal:
        command = SuspendTask(
            self.task_id, self.attempt, WaitReason[wait.reason], wait.name, 0, wait.timeout_ms
        )
        assert isinstance(await self.commit(command), Accepted)
        raise Suspended

    async def keep(self, content: bytes) -> Data:
        if len(content) < 10_000:
            return Data(content)
        name = f"{len(self._bench.blobs):064d}"
        self._bench.blobs[name] = content
        return Data(sha256=name, size_bytes=len(content))

    def step_recorded(self) -> None:
        """Nobody empties this node."""

    async def load(self, data: Data) -> bytes:
        return self._bench.blobs[data.sha256] if data.sha256 else data.inline

    async def call(self, name: str, args: Any) -> Any:
        return json.loads(await answer(self._bench.handlers, self, name, json.dumps(args).encode()))

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        await self.commit_own(RecordStep(self.task_id, self.attempt, key, Data(result)))

    async def save_checkpoint(self, state: bytes) -> None:
        raise NotImplementedError

    async def wait(self, reason: str, name: str, seen: int, timeout_ms: int) -> bytes | None:
        raise NotImplementedError

    def report_progress(self, percent: float, message: str) -> None:
        self._bench.progress.append((percent, message))

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        return function()
