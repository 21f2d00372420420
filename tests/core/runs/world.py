"""A cluster of the core with one run of a workflow, for tests."""

from __future__ import annotations

import json
from typing import Any

from coterie.core.commands import (
    Accepted,
    ExpireTask,
    FailAttempt,
    FinishTask,
)
from coterie.core.graph.check import problems_of
from coterie.core.graph.reading import graph_bytes, read_graph
from coterie.core.nouns import Data, RetryPolicy, Task, TaskError, TaskId, TaskState
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.core.scheduler import plan
from coterie.core.view import PlanPolicy, View
from tests.core.builders import CoreCluster, submit_command

RUN = TaskId("r")


def raw(graph: dict[str, Any]) -> bytes:
    found, problems = read_graph(graph)
    assert problems == [] and problems_of(found) == []
    return graph_bytes(found)


class World(CoreCluster):
    """A cluster with one node and one run."""

    def run(self, *nodes: dict[str, Any], given: Any = None, more: Any = (), **graph: Any) -> Any:
        self.with_node("n1", capacity=1_000)
        submit = submit_command(
            RUN,
            type=WORKFLOW,
            payload=Data(json.dumps(given or {}).encode()),
            retry=RetryPolicy(attempts_max=1),
            **dict(more),
        )
        return self.do(RunWorkflow(submit, raw({"nodes": [*nodes], **graph})))

    def open(self) -> list[str]:
        return sorted(task.task_id for task in self.state.tasks.values() if task.type != WORKFLOW)

    def hold(self, name: str) -> Task:
        task = self.task(name if name.startswith(f"{RUN}~") else f"{RUN}~{name}~0")
        if task.state is TaskState.PENDING:
            self.assign(task.task_id)
        return self.task(task.task_id)

    def give(self, name: str, result: Any = None) -> None:
        task = self.hold(name)
        data = result if isinstance(result, Data) else Data(json.dumps(result).encode())
        assert self.do(FinishTask(task.task_id, task.attempt, data)) == Accepted(task.task_id)

    def fail(self, name: str, code: str = "NO") -> None:
        task = self.hold(name)
        self.do(FailAttempt(task.task_id, task.attempt, TaskError(code, "it broke", retryable=False)))

    def payload(self, name: str) -> Any:
        return json.loads(self.task(name if name.startswith(f"{RUN}~") else f"{RUN}~{name}~0").payload.inline)

    def ended(self) -> Task:
        task = self.task(RUN)
        assert task.finished_at_ms, f"{task.state.name}: {self.state.runs[RUN].nodes}"
        assert not self.state.runs
        return task

    def result(self) -> Any:
        task = self.ended()
        assert task.state is TaskState.SUCCEEDED, task.error
        return json.loads(task.result.inline)

    def table(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in json.loads(self.ended().checkpoint.inline)["nodes"]}

    def states(self) -> dict[str, str]:
        return {name: row["state"] for name, row in self.table().items()}

    def pass_time(self, ms: int) -> None:
        """What the leader proposes when so much time has passed, until nothing is due."""
        self.now_ms += ms
        while self.pass_time_once():
            pass

    def pass_time_once(self) -> bool:
        """What is due now, each in an entry; whether there was anything."""
        found = plan(self.state, View(self.now_ms), PlanPolicy())
        due = [one for one in found if isinstance(one, ExpireTask)]
        for command in due:
            self.do(command)
        return bool(due)


def echo(name: str, *depends_on: Any, **more: Any) -> dict[str, Any]:
    return {"id": name, "skill": "echo", "depends_on": list(depends_on), **more}
