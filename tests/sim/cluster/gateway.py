"""What a client may ask of a node: the calls of coterie.node.gateway that matter for the life of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coterie.core.commands import Accepted, CancelTask, Outcome, SubmitTask
from coterie.core.nouns import Task, TaskId
from tests.checker.history import Told, View

if TYPE_CHECKING:
    from tests.sim.cluster.process import Process

READ_S = 0.5
PROPOSE_MS = 550

Reply = Callable[[Told | View | None, str], None]
"""Gets the answer, None for "not now, ask again", and the id of the task."""


def view_of(task: Task) -> View:
    return View(
        state=task.state,
        attempt=task.attempt,
        cancel_requested=task.cancel_requested,
        step_count=task.step_count,
        checkpoint=task.checkpoint_number,
        result=task.result.inline,
        request_id=task.request_id,
    )


class SimGateway:
    """One per process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def submit(self, command: SubmitTask, reply: Reply) -> None:
        promises = self._process.optimist.with_assignments([command])
        commands, [place] = promises.__enter__()

        def done(outcomes: list[Outcome] | None, tries: int) -> None:
            promises.__exit__(None, None, None)
            outcome = outcomes[place] if outcomes is not None else None
            if isinstance(outcome, Accepted):
                reply(Told.OK, outcome.task_id)
            else:
                assert outcome is None, f"a good submission was refused: {outcome}"
                reply(None, "")

        self._process.proposer.propose(commands, PROPOSE_MS, done)

    def cancel(self, task_id: str, reply: Reply) -> None:
        def done(outcomes: list[Outcome] | None, tries: int) -> None:
            if outcomes is None:
                reply(None, task_id)
                return
            task = self._process.state.task(TaskId(task_id))
            if task is None:
                reply(Told.MISSING, task_id)
            elif isinstance(outcomes[0], Accepted) or task.cancel_requested:
                reply(Told.OK, task_id)
            else:
                reply(Told.TERMINAL, task_id)

        self._process.proposer.propose([CancelTask(TaskId(task_id), "unwanted")], PROPOSE_MS, done)

    def read(self, task_id: str, reply: Reply) -> None:
        """After a barrier, so that the answer includes whatever was acknowledged before the call."""

        def done(answer: int | Exception) -> None:
            if isinstance(answer, int):
                self._process.later(10, lambda: reply(self.look(task_id), task_id))
            else:
                self._process.later(10, lambda: reply(None, task_id))

        self._process.node.member.read(READ_S, done)
        self._process.kick()

    def look(self, task_id: str) -> View | Told:
        """The task as this node's replica has it."""
        task = self._process.state.task(TaskId(task_id))
        return view_of(task) if task is not None else Told.MISSING
