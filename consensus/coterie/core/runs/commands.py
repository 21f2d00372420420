"""Commands about runs of workflows."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.nouns import NO_PARENT, TaskId
from coterie.core.submit_command import SubmitTask


@dataclass(frozen=True, slots=True)
class RunWorkflow:
    """Begin a run. `submit` is its task: what it is given, its deadline, its steps when it repeats a run."""

    submit: SubmitTask
    graph: bytes  # JSON, checked: see coterie.core.graph

    @property
    def tenant(self) -> str:
        return self.submit.tenant


@dataclass(frozen=True, slots=True)
class AddNodes:
    """More nodes for a run that has not ended, which may stand on those it has."""

    task_id: TaskId
    nodes: bytes  # JSON of a graph that has nothing but nodes
    by: TaskId = NO_PARENT  # the node of the run that adds them, while its `attempt` holds it
    attempt: int = 0
