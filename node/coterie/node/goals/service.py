"""The part of the Workflows service that takes requests in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from coterie.core.commands import Accepted
from coterie.core.state import ClusterState
from coterie.core.submit_command import SubmitTask
from coterie.node.admission import checked_tenant
from coterie.node.config import NodeSettings
from coterie.node.config.goal_settings import RoutingRule
from coterie.node.control import Control
from coterie.node.errors import Violation, from_rejection, invalid
from coterie.node.goals.calls import RUN_SUFFIX, run_id_of
from coterie.node.goals.inputs import INPUTS_BYTES_MAX, strict_json
from coterie.node.goals.rules import GOAL_CHARS_MAX, revision_of, route
from coterie.node.optimist import Optimist
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.skillset import GOAL_TYPE
from coterie.v1 import tasks_pb2, workflows_pb2, workflows_pb2_grpc

GOAL_ID_MAX = 50  # its run's id is longer, and those of the run's tasks still more
AGGREGATES = ("llm", "answer", "list", "concat", "merge", "vote", "sum", "count", "min", "max")


@dataclass(frozen=True, slots=True)
class GoalParts:
    """What it works on."""

    state: Callable[[], ClusterState]
    settings: Callable[[], NodeSettings]
    control: Control
    optimist: Optimist


class GoalsPart(workflows_pb2_grpc.WorkflowsServicer):
    """SubmitGoal and RouteGoal."""

    def __init__(self, parts: GoalParts, gate: Gate) -> None:
        self._goals, self.gate = parts, gate

    @unary
    async def SubmitGoal(self, request: workflows_pb2.SubmitGoalRequest, context: Context) -> tasks_pb2.Task:
        checked_tenant(request.parent)
        wrong = _faults(request, self._goals.settings().goals.rules)
        payload = _payload(request, wrong)
        if wrong:
            raise invalid(wrong)
        control = self._goals.control
        command = await control.reader.confirmed(
            lambda: self._command(request, payload), seconds_left(context)
        )
        if request.validate_only:
            return request.task
        await control.reader.connected()
        if request.task.task_id:
            await control.reader.refuse_known_id(command)
            await control.reader.refuse_known_id(command, run_id_of(command.task_id))
        with self._goals.optimist.with_assignments([command]) as (commands, places):
            outcome = (await control.proposer.propose(commands, propose_seconds(context)))[places[0]]
        if not isinstance(outcome, Accepted):
            raise from_rejection(outcome)
        return control.reader.to_pb(await control.reader.get(outcome.task_id, seconds_left(context)))

    @unary
    async def RouteGoal(
        self, request: workflows_pb2.RouteGoalRequest, context: Context
    ) -> workflows_pb2.GoalRoute:
        checked_tenant(request.parent)
        if wrong := _goal_faults(request.goal):
            raise invalid(wrong)
        await self._goals.control.reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        rules = self._goals.settings().goals.rules
        routed = route(rules, request.goal)
        target, names = _target(routed.rule)
        return workflows_pb2.GoalRoute(
            rule=routed.rule.name if routed.rule else "",
            target=target,
            names=names,
            matched=[workflows_pb2.GoalMatch(rule=name, priority=number) for name, number in routed.matched],
            ambiguous=routed.ambiguous,
            revision=revision_of(rules),
        )

    def _command(self, request: workflows_pb2.SubmitGoalRequest, payload: dict[str, Any]) -> SubmitTask:
        """Checked like any other task. Raises ApiError with all that is wrong."""
        parts = self._goals
        asked = tasks_pb2.Task()
        asked.CopyFrom(request.task)
        asked.type = GOAL_TYPE
        asked.payload.inline = json.dumps(payload, ensure_ascii=False).encode()
        submit = tasks_pb2.SubmitTaskRequest(parent=request.parent, task=asked, request_id=request.request_id)
        nodes = parts.state().nodes.keys()
        control = parts.control
        command = control.admission.command(submit, control.clock.new_id(), {GOAL_TYPE}, nodes)
        digest = hashlib.sha256(command.digest + command.payload.inline).digest()[:16]
        return replace(command, digest=digest)


def _target(rule: RoutingRule | None) -> tuple[str, tuple[str, ...]]:
    if rule is None:
        return "plan", ()
    if rule.skill:
        return "skill", (rule.skill,)
    if rule.agents:
        return "agents", rule.agents
    if rule.workflow or rule.steps:
        return "workflow", (rule.workflow,) if rule.workflow else ()
    return "plan", ()


def _goal_faults(goal: str) -> list[Violation]:
    if not goal.strip():
        return [Violation("goal", "is empty; say what is wanted")]
    if len(goal) > GOAL_CHARS_MAX:
        text = f"{len(goal)} characters, the limit is {GOAL_CHARS_MAX}; put what belongs to it into context"
        return [Violation("goal", text)]
    return []


def _faults(request: workflows_pb2.SubmitGoalRequest, rules: tuple[RoutingRule, ...]) -> list[Violation]:
    wrong = [] if request.workflow else _goal_faults(request.goal)
    if request.workflow and request.goal:
        wrong.append(Violation("workflow", "and goal are given; give one of them"))
    if request.inputs and not request.workflow:
        wrong.append(Violation("inputs", "are of a workflow, and none is given; a goal has a context"))
    if request.aggregate and request.aggregate not in AGGREGATES:
        text = f"{request.aggregate[:40]!r} is none of {', '.join(AGGREGATES)}"
        wrong.append(Violation("aggregate", text))
    known = [rule.name for rule in rules]
    if request.rule and request.rule not in known:
        said = ", ".join(known[:20]) or "none"
        wrong.append(Violation("rule", f"there is no routing rule {request.rule[:80]!r}; there are: {said}"))
    if request.task.HasField("payload"):
        wrong.append(Violation("task.payload", "is made of the request; leave it out"))
    task_id = request.task.task_id
    if len(task_id) > GOAL_ID_MAX or "~" in task_id or task_id.endswith(RUN_SUFFIX):
        text = f"{task_id[:80]!r}: a goal's id has at most {GOAL_ID_MAX} characters, no ~ and no {RUN_SUFFIX}"
        wrong.append(Violation("task.task_id", text))
    return wrong


def _payload(request: workflows_pb2.SubmitGoalRequest, wrong: list[Violation]) -> dict[str, Any]:
    names = ("goal", "workflow", "rule", "aggregate", "plan_only")
    payload = {name: getattr(request, name) for name in names if getattr(request, name)}
    if request.HasField("approve"):
        payload["approve"] = request.approve
    for name in ("context", "inputs"):
        if text := getattr(request, name):
            payload[name] = _json(name, text, wrong)
    if not isinstance(payload.get("inputs", {}), dict):
        wrong.append(Violation("inputs", "is not a JSON object"))
    return payload


def _json(name: str, text: str, wrong: list[Violation]) -> Any:
    try:
        value = json.loads(text)
        size = len(strict_json(value))
    except (ValueError, RecursionError) as error:
        wrong.append(Violation(name, f"is not JSON: {error}"))
        return None
    if size > INPUTS_BYTES_MAX:
        wrong.append(Violation(name, f"takes {size} bytes, the limit is {INPUTS_BYTES_MAX}; pass blobs"))
    return value
