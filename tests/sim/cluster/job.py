"""One attempt of one task in virtual time: steps with effects, reports with the attempt number, one end.

The payload is the program: number of steps, time of each (ms), and the step at which attempt 1 fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from coterie.core.commands import (
    Accepted,
    Command,
    ConfirmCancel,
    FailAttempt,
    FinishTask,
    Outcome,
    RecordStep,
    ReleaseTask,
    SaveCheckpoint,
    StartTask,
)
from coterie.core.nouns import Data, Step, Task, TaskError
from tests.checker.history import Effect, Kind
from tests.sim.cluster.settings import CANCEL_GRACE_MS, MILLISECOND, START_DELAY_MS

if TYPE_CHECKING:
    from tests.sim.cluster.process import Process

REPORT_MS = 3_000  # one try; an end is reported until the log says yes or no


class Program(NamedTuple):
    """What a simulated skill does."""

    steps: int
    step_ms: int
    fails_at: int  # 0: never

    @property
    def payload(self) -> bytes:
        return b"%d:%d:%d" % self

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"s{number}" for number in range(1, self.steps + 1))

    @classmethod
    def of(cls, payload: bytes) -> Program:
        steps, step_ms, fails_at = payload.split(b":")
        return cls(int(steps), int(step_ms), int(fails_at))


class SimJob:
    """See coterie.node.job: told to stop it reports nothing; any other end it reports until answered."""

    def __init__(
        self, process: Process, task: Task, recorded: Sequence[Step], ended: Callable[[], None]
    ) -> None:
        self._process, self._task = process, task
        self.task_id, self.attempt = task.task_id, task.attempt
        self._program = Program.of(task.payload.inline)
        self._done = {step.key for step in recorded}
        self._checkpoint = task.checkpoint_number
        self._ended = ended
        self._over = False  # the skill runs no more
        self._cancelling = False

    # --- the skill ---

    def start(self) -> None:
        self._process.later(START_DELAY_MS * MILLISECOND, self._report_start)
        self._next()

    def _next(self) -> None:
        if self._over:
            return
        key = next((key for key in self._program.keys if key not in self._done), "")
        if not key:
            result = f"{self.task_id} by {self.attempt}".encode()
            command = FinishTask(self.task_id, self.attempt, Data(result))
            self._end(Kind.FINISH, command, value=result)
            return
        rng, step_ms = self._process.world.rng, self._program.step_ms
        self._process.in_skill(rng.randint(step_ms // 2, step_ms) * MILLISECOND, lambda: self._run_step(key))

    def _run_step(self, key: str) -> None:
        """In the child process: between the look at the lease and the effect nothing can happen."""
        if self._over:
            return
        world = self._process.world
        if not self.may_run():
            release = ReleaseTask(self.task_id, self.attempt, "its node lost its lease", lost=True)
            self._end(Kind.RELEASE, release)
            return
        if self.attempt == 1 and key == f"s{self._program.fails_at}":
            error = TaskError("SKILL_FAILED", "as told")
            self._end(Kind.FAIL, FailAttempt(self.task_id, self.attempt, error, self._process.clock.dice()))
            return
        world.history.effects.append(Effect(world.now_us, self.task_id, key, self.attempt))
        self._process.run(lambda: self._record(key))

    def may_run(self) -> bool:
        return self._process.lease.valid

    def _record(self, key: str) -> None:
        if self._over:
            return
        value = f"{key} by {self.attempt}".encode()
        command = RecordStep(self.task_id, self.attempt, key, Data(value))
        self._report(Kind.STEP, command, lambda outcome: self._recorded(key, outcome), key=key, value=value)

    def _recorded(self, key: str, outcome: Outcome) -> None:
        if not isinstance(outcome, Accepted):
            self.stop()  # fenced: somebody else has the task, or nobody
            return
        self._done.add(key)
        if len(self._done) % 2:
            self._next()
        else:
            self._save()

    def _save(self) -> None:
        self._checkpoint += 1
        data = Data(f"checkpoint {self._checkpoint}".encode())
        command = SaveCheckpoint(self.task_id, self.attempt, data, self._checkpoint)
        self._report(Kind.CHECKPOINT, command, self._saved, number=self._checkpoint, value=data.inline)

    def _saved(self, outcome: Outcome) -> None:
        if isinstance(outcome, Accepted):
            self._next()
        else:
            self.stop()

    # --- what the worker says ---

    def stop(self) -> None:
        """The attempt is not ours any more."""
        if not self._over:
            self._over = True
            self._process.later(self._process.world.rng.randint(1, 5) * MILLISECOND, self._ended)

    def cancel(self) -> None:
        if not self._cancelling and not self._over:
            self._cancelling = True
            grace = self._process.world.rng.randint(1, CANCEL_GRACE_MS) * MILLISECOND
            self._process.later(grace, self._cancelled)

    def _cancelled(self) -> None:
        if not self._over:
            self._end(Kind.CONFIRM, ConfirmCancel(self.task_id, self.attempt))

    # --- reports ---

    def _report_start(self) -> None:
        if not self._over:
            self._report(Kind.START, StartTask(self.task_id, self.attempt), lambda outcome: None)

    def _end(self, kind: Kind, command: Command, *, value: bytes = b"") -> None:
        self._over = True
        self._process.run(lambda: self._report(kind, command, lambda outcome: self._ended(), value=value))

    def _report(
        self,
        kind: Kind,
        command: Command,
        then: Callable[[Outcome], None],
        *,
        key: str = "",
        number: int = 0,
        value: bytes = b"",
    ) -> None:
        """Propose until the cluster has answered. One call, however often it is proposed."""
        history, proposer = self._process.world.history, self._process.proposer
        call = history.call(
            kind, task_id=self.task_id, attempt=self.attempt, key=key, number=number, value=value
        )
        tries_before = 0

        def done(outcomes: list[Outcome] | None, tries: int) -> None:
            nonlocal tries_before
            tries_before += tries
            if outcomes is None:
                proposer.propose([command], REPORT_MS, done)
                return
            history.answered(call, outcomes[0], tries_before)
            then(outcomes[0])

        proposer.propose([command], REPORT_MS, done)
