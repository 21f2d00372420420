"""Where the story is told: a cluster of the core that keeps what it was told, one command an entry."""

from __future__ import annotations

from dataclasses import dataclass, field

from coterie.core.commands import (
    Accepted,
    AdvanceClock,
    Command,
    Outcome,
    Rejected,
    StartTask,
)
from coterie.core.nouns import NodeId, TaskId
from tests.core.builders import CoreCluster

N1, N2, N3, N4 = (NodeId(f"n{number}") for number in range(1, 5))


@dataclass
class Stage(CoreCluster):
    """Every command is accepted, unless the story says that it is not."""

    commands: list[Command] = field(default_factory=list)

    def do(self, command: Command) -> Outcome:
        outcome = self._tell(command)
        assert isinstance(outcome, Accepted), f"entry {self.index}, {command}: {outcome}"
        return outcome

    def refused(self, command: Command, code: str) -> None:
        outcome = self._tell(command)
        assert isinstance(outcome, Rejected) and outcome.code == code, f"entry {self.index}: {outcome}"

    def _tell(self, command: Command) -> Outcome:
        self.commands.append(command)
        return super().do(command)

    def number(self, command: Command) -> int:
        """What the command gives out."""
        outcome = self.do(command)
        assert isinstance(outcome, Accepted)
        return outcome.number

    def pass_ms(self, ms: int) -> None:
        """The clock goes on by that; entries after it have this time at least."""
        self.do(AdvanceClock(self.state.meta.clock_ms + ms))

    def start(self, task_id: str, node_id: NodeId = N1) -> tuple[TaskId, int]:
        """Its next attempt begins; the task, and the attempt's number."""
        self.pass_ms(3)
        self.assign(task_id, node_id)
        task = self.task(task_id)
        self.do(StartTask(task.task_id, task.attempt))
        return task.task_id, task.attempt
