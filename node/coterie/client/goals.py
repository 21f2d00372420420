"""Requests in words: `cluster.goals`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from coterie.client.connection import Connection
from coterie.client.job import Job
from coterie.client.spec import TaskOptions, TaskSpec, prepare
from coterie.client.workflow import Workflow
from coterie.v1 import workflows_pb2


@dataclass(frozen=True, slots=True)
class GoalRoute:
    """The routing rule of a request; an empty `rule`: none matches, and a language model plans it. `target`:
    agents, skill, workflow or plan. `ambiguous`: rules with the same right to be chosen as the first."""

    rule: str
    target: str
    names: tuple[str, ...]
    matched: tuple[tuple[str, int], ...]  # with their priorities
    ambiguous: tuple[str, ...]
    revision: str


class Goals:
    """See the methods."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def submit(
        self,
        goal: str = "",
        *,
        context: Any = None,
        rule: str = "",
        aggregate: str = "",
        approve: bool | None = None,
        plan_only: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Job:
        """Has a request in words carried out; `job.wait()` gives `{"answer", "complete", "summary", …}`.

        `context`: any JSON value that belongs to it. `rule`: that routing rule, whatever its pattern.
        `aggregate`: how the results become one: llm, answer, list, concat, merge, vote, sum, count, min, max.
        `approve`: a person looks at the plan first. `plan_only`: the plan is made, and nothing is run.
        `options` are those of `submit_task`. Raises InvalidRequest with all that is wrong."""
        request = workflows_pb2.SubmitGoalRequest(
            goal=goal, rule=rule, aggregate=aggregate, plan_only=plan_only, approve=approve
        )
        if context is not None:
            request.context = json.dumps(context, ensure_ascii=False)
        return await self._send(request, options)

    async def mend(
        self,
        workflow: Workflow | str,
        inputs: Mapping[str, Any] | None = None,
        *,
        aggregate: str = "",
        approve: bool | None = None,
        plan_only: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Job:
        """Runs a workflow, of which a language model may correct the dependencies when it cannot be run as it
        is; what it changed stands in the result under `repair`. Raises InvalidRequest."""
        text = workflow.text() if isinstance(workflow, Workflow) else workflow
        request = workflows_pb2.SubmitGoalRequest(
            workflow=text, aggregate=aggregate, plan_only=plan_only, approve=approve
        )
        if inputs:
            request.inputs = json.dumps(dict(inputs), ensure_ascii=False)
        return await self._send(request, options)

    async def route(self, goal: str) -> GoalRoute:
        """Which routing rule the request falls under. Nothing is changed."""
        connection = self._opened()
        request = workflows_pb2.RouteGoalRequest(parent=f"tenants/{connection.tenant}", goal=goal)
        raw = await connection.caller.unary(lambda e: e.workflows.RouteGoal, request)
        return GoalRoute(
            raw.rule,
            raw.target,
            tuple(raw.names),
            tuple((one.rule, one.priority) for one in raw.matched),
            tuple(raw.ambiguous),
            raw.revision,
        )

    async def _send(self, request: workflows_pb2.SubmitGoalRequest, options: TaskOptions) -> Job:
        connection = self._opened()
        asked = prepare(TaskSpec.of({"type": "goal", **options}), connection.tenant).request
        asked.task.ClearField("payload")
        request.parent, request.request_id = asked.parent, asked.request_id
        request.task.CopyFrom(asked.task)
        raw = await connection.caller.unary(
            lambda e: e.workflows.SubmitGoal, request, request_id=asked.request_id
        )
        return Job(connection, raw.name, raw)
