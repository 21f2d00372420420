"""Carries out a fork: reads what there is, checks all of it, proposes the new task or run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import grpc

from coterie.core.commands import Command, SubmitTask
from coterie.core.graph.model import Graph
from coterie.core.graph.reading import graph_bytes
from coterie.core.graph.values import ValueFault, write_json
from coterie.core.nouns import NO_PARENT, Data, Task, TaskId
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.outline import whole_graph
from coterie.core.runs.run import WORKFLOW, Run
from coterie.node.admission import request_id_faults, task_id_of
from coterie.node.control import CATCH_UP_RETRY_MS, Again, Control, new_run
from coterie.node.debugger.fork import Changes, Fork, fork_run, fork_task, read_changes
from coterie.node.errors import ApiError, Violation, invalid
from coterie.node.reads import Found
from coterie.node.skillhost.nouns import SkillInfo
from coterie.node.skillset import with_defaults
from coterie.node.workflows.runs import graph_left_by
from coterie.v1 import debugger_pb2, tasks_pb2

CHANGES_MAX = 100


@dataclass(frozen=True, slots=True)
class Forks:
    """What it works on."""

    control: Control
    local_skills: Callable[[], Mapping[str, SkillInfo]]

    async def fork(self, request: debugger_pb2.ForkRequest, timeout_s: float) -> tasks_pb2.Task:
        """The new task. Raises ApiError with everything that is wrong."""
        task_id, control = task_id_of(request.name), self.control
        await control.reader.barrier(tasks_pb2.LINEARIZABLE, timeout_s)
        found = await control.reader.get(task_id, timeout_s)
        wrong = request_id_faults(request.request_id)
        if len(request.set) > CHANGES_MAX:
            wrong.append(Violation("set", f"{len(request.set)} changes, the limit is {CHANGES_MAX}"))
        if len(found.steps) < found.task.step_count:
            message = f"the steps of {task_id} are not in this node's history yet; try again"
            raise ApiError(
                grpc.StatusCode.UNAVAILABLE, "CATCHING_UP", message, retry_after_ms=CATCH_UP_RETRY_MS
            )
        command, made = self._command(found, request, wrong)
        if request.validate_only:
            return control.reader.to_pb(found)
        control.refuse_without_room()
        await control.secure_all(made.payload, made.steps)
        return await control.answer(await control.proposer.one(command, timeout_s), timeout_s)

    def _command(
        self, found: Found, request: debugger_pb2.ForkRequest, wrong: list[Violation]
    ) -> tuple[Command, Fork]:
        """What is proposed. Raises ApiError with everything that is wrong."""
        task, changes = found.task, read_changes(request.set)
        graph = self._graph(task) if task.type == WORKFLOW else None
        try:
            if graph is not None:
                made = fork_run(graph, task.payload, found.steps, request.at, changes, self._run(task))
            else:
                made = fork_task(task, found.steps, request.at, changes)
        except ValueFault as fault:
            raise invalid([*wrong, Violation("set", fault.text)]) from fault
        large = self._too_large(changes)
        wrong += large
        if isinstance(made, Fork) and not large:
            wrong += self.control.admission.data_faults("set", made.payload)
        if wrong or not isinstance(made, Fork):
            raise invalid([*wrong, *(made if not isinstance(made, Fork) else [])])
        submit = self._submit(task, made, request)
        if graph is not None:
            return RunWorkflow(submit, graph_bytes(graph)), made
        asked = tasks_pb2.Task(attempt_timeout_ms=1, max_attempts=1)  # nothing of these is to be filled in
        return with_defaults(submit, asked, self.control.state(), self.local_skills()), made

    def _too_large(self, changes: Changes) -> list[Violation]:
        """A value is kept inline, as an input or as the result of a step."""
        return [
            fault
            for name, value in changes.values.items()
            for fault in self.control.admission.data_faults(f"set.{name}", Data(write_json(value)))
        ]

    def _graph(self, task: Task) -> Graph:
        """As it stands, or as the run left it."""
        run = self._run(task)
        return whole_graph(run) if run is not None else graph_left_by(task)[0]

    def _run(self, task: Task) -> Run | None:
        return self.control.state().runs.get(task.task_id)

    def _submit(self, task: Task, made: Fork, request: debugger_pb2.ForkRequest) -> SubmitTask:
        new_id = self.control.clock.new_id()
        changed = "\0".join(f"{name}={request.set[name]}" for name in sorted(request.set))
        said = f"fork\0{task.task_id}\0{request.at}\0{changed}"
        digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[:16]
        again = Again(task.task_id, TaskId(new_id), request.request_id or new_id, digest, True)
        submit = new_run(task, made.steps, again)
        point = f"{task.task_id}@{request.at}"
        return replace(submit, payload=made.payload, retry_of=NO_PARENT, forked_from=point)
