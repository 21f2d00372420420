"""Ids of goals and of their runs that somebody else had before: nobody is given what is not theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coterie.core.nouns import Task, TaskId, TaskState, evolve
from coterie.core.runs.run import WORKFLOW
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.clock import Clock
from coterie.node.config.goal_settings import GoalSettings
from coterie.node.goals.service import GoalParts
from coterie.node.reads import Found
from coterie.node.rpc import Gate
from coterie.node.workflows.service import WorkflowParts, WorkflowsService
from coterie.skills import CallRefused
from coterie.v1 import tasks_pb2, workflows_pb2
from tests.core.builders import submit_command
from tests.node.fakes import QuietNode
from tests.node.goal_bench import GoalBench
from tests.node.test_goal_flow import model, task, worker

RUN = TaskId("p.run")
WORKFLOW_TEXT = "nodes: [{id: a, skill: echo, input: 1}]"


class Refused(Exception):
    """Stands for grpc's own AbortError."""


class Context:
    """A call without a deadline; remembers its refusal."""

    code: grpc.StatusCode | None = None

    def time_remaining(self) -> float | None:
        return None

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.code = code
        raise Refused(details)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[QuietNode]:
    made = await QuietNode.open(tmp_path)
    yield made
    await made.ledger.close()


@pytest.fixture
def service(node: QuietNode) -> Any:
    async def propose(commands: list[Any], timeout_s: float) -> list[Any]:
        return [node.do(command) for command in commands]

    @contextmanager
    def alone(command: Any) -> Any:
        yield (command, [0]) if isinstance(command, list) else [command]

    control: Any = SimpleNamespace(
        reader=node.reader,
        admission=Admission(AdmissionLimits()),
        clock=Clock(),
        proposer=SimpleNamespace(propose=propose),
    )
    optimist: Any = SimpleNamespace(with_assignments=alone, with_next=alone)
    settings: Any = SimpleNamespace(goals=GoalSettings())
    goals = GoalParts(node.state, lambda: settings, control, optimist)
    parts = WorkflowParts(node.state, control, optimist, lambda: frozenset({"echo"}), goals)
    return WorkflowsService(parts, Gate(9))


async def refusal(call: Any, request: Any) -> grpc.StatusCode | None:
    context = Context()
    try:
        await call(request, context)
    except Refused:
        return context.code
    return None


def ended(node: QuietNode, task_id: str) -> None:
    node.do(submit_command(task_id, request_id="of-another"))
    node.core.assign(task_id)
    node.core.state.outbox.clear()
    node.finish(task_id)
    node.forget_finished()


async def test_the_id_of_a_goal_or_a_run_is_good_once_also_when_the_state_has_forgotten_it(
    node: QuietNode, service: Any
) -> None:
    ended(node, "report")
    for task_id, code in (("report", grpc.StatusCode.ALREADY_EXISTS), ("other", None)):
        asked = tasks_pb2.Task(task_id=task_id)
        goal = workflows_pb2.SubmitGoalRequest(parent="tenants/t", goal="Report", task=asked)
        assert await refusal(service.SubmitGoal, goal) is code
        asked = tasks_pb2.Task(task_id=f"{task_id}" if code else "third")
        source = workflows_pb2.WorkflowSource(text=WORKFLOW_TEXT)
        run = workflows_pb2.RunWorkflowRequest(parent="tenants/t", source=source, task=asked)
        assert await refusal(service.RunWorkflow, run) is code


async def test_a_goal_whose_run_would_have_the_id_of_another_task_is_refused_at_the_door(
    node: QuietNode, service: Any
) -> None:
    """Not after it was accepted and its plan was paid for. Asked again, a goal that has its run is known."""

    def goal(task_id: str) -> Any:
        asked = tasks_pb2.Task(task_id=task_id)
        return workflows_pb2.SubmitGoalRequest(
            parent="tenants/t", goal="Report", task=asked, request_id=f"r-{task_id}"
        )

    ended(node, "done.run")
    node.do(submit_command("live.run"))
    for task_id in ("done", "live"):
        assert await refusal(service.SubmitGoal, goal(task_id)) is grpc.StatusCode.ALREADY_EXISTS
        assert node.state().task(TaskId(task_id)) is None
    assert await refusal(service.SubmitGoal, goal("mine")) is None
    node.do(submit_command("mine.run"))
    assert await refusal(service.SubmitGoal, goal("mine")) is None


@pytest.mark.parametrize("changes", [{"tenant": "b"}, {"parent_id": TaskId("q")}, {"type": "echo"}])
async def test_a_goal_takes_no_run_that_is_not_its_own(changes: dict[str, Any]) -> None:
    bench = GoalBench(model({"tasks": [task("a")]}), worker)
    goal = bench.core.task("p")
    mine: dict[str, Any] = {"task_id": RUN, "type": WORKFLOW, "parent_id": goal.task_id}
    theirs: Task = evolve(goal, state=TaskState.SUCCEEDED, **{**mine, **changes})
    bench.history.before[RUN] = Found(theirs)
    with pytest.raises(CallRefused, match=r"task p\.run is not of this goal"):
        await bench.goal(goal="Report")
    assert not bench.model.asked and len(bench.core.state.tasks) == 1, "nothing was paid, nothing ran"


async def test_the_results_of_a_run_that_is_not_its_own_are_not_told() -> None:
    bench = GoalBench(model({"tasks": [task("a")]}), worker)
    other = GoalBench(model({"tasks": [task("a")]}), worker)
    await other.goal(goal="Report")
    found = await other.history.get(RUN, 1)
    ended_call = bench.handlers["goals.ended"]

    async def late(run: Any, args: Any) -> Any:
        bench.history.before[RUN] = Found(evolve(found.task, tenant="b"), found.steps)
        return await ended_call(run, args)

    bench.handlers = {**bench.handlers, "goals.ended": late}
    with pytest.raises(CallRefused, match="is not of this goal"):
        await bench.goal(goal="Report")
