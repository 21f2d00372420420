"""How long an attempt may take of which the request says nothing: what its skill says, else the cluster, for
tasks, for children, for the tasks of runs and of schedules."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coterie.core.nouns import SkillRef
from coterie.core.runs.run import WORKFLOW
from coterie.core.skillbook import RevisionState, SkillEntry, SkillPolicy, SkillRevision, pin_of
from coterie.core.state import ClusterState
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.child_calls import ChildCalls
from coterie.node.coordination.schedules import SchedulesService
from coterie.node.decision_calls import HANDLERS
from coterie.node.goals.service import GoalParts
from coterie.node.inputs import bounded
from coterie.node.rpc import Gate
from coterie.node.skillhost import SkillJob
from coterie.node.skillhost.nouns import SkillInfo, Suspended
from coterie.node.skillset import with_defaults
from coterie.node.workflows.service import WorkflowParts, WorkflowsService
from coterie.skills import SkillContext
from coterie.v1 import tasks_pb2, workflows_pb2
from tests.core.builders import register_command
from tests.node.family_bench import FamilyBench

DEFAULT_MS = 600_000
ADMISSION = Admission(AdmissionLimits(attempt_timeout_ms=DEFAULT_MS))
LOCAL = {
    name: SkillInfo(name, "1", "", timeout_ms, "none")
    for name, timeout_ms in {"brief": 1_000, "endless": 0, "silent": None, "goal": 3_600_000}.items()
}
INPUT = '{"type": "object", "required": ["rows"]}'


def entry(manifest: str, timeout_ms: int = 0) -> SkillEntry:
    revision = SkillRevision("a" * 64, manifest=manifest, state=RevisionState.APPROVED)
    return SkillEntry("known", (revision,), live="a" * 64, policy=SkillPolicy(timeout_ms=timeout_ms))


def submitted(kind: str, said_ms: int = 0, skillbook: dict[str, SkillEntry] | None = None) -> int:
    request = tasks_pb2.SubmitTaskRequest(request_id="r")
    request.task.type, request.task.attempt_timeout_ms = kind, said_ms
    request.task.payload.inline = b"{}"
    state = ClusterState()
    state.skillbook.update(skillbook or {})
    command = ADMISSION.command(request, "t", {kind}, ())
    return with_defaults(command, request.task, state, LOCAL, DEFAULT_MS).attempt_timeout_ms


@pytest.mark.parametrize(
    ("kind", "timeout_ms"),
    [("brief", 1_000), ("endless", 0), ("silent", DEFAULT_MS), ("elsewhere", 0), ("goal", 0)],
)
def test_a_skill_on_disk_says_how_long_its_attempts_may_take(kind: str, timeout_ms: int) -> None:
    """0: the node where the task runs knows, or there is no end."""
    assert submitted(kind) == timeout_ms
    assert submitted(kind, said_ms=7) == 7


@pytest.mark.parametrize(
    ("known", "timeout_ms"),
    [
        (entry('{"timeout_ms": 90}'), 90),
        (entry("{}"), DEFAULT_MS),
        (entry('{"timeout_ms": 90}', timeout_ms=50), 50),
        (SkillEntry("brief", policy=SkillPolicy(timeout_ms=50)), 50),
        (SkillEntry("brief", policy=SkillPolicy(cpus=2)), 1_000),
    ],
)
def test_what_is_published_or_said_by_the_operator_comes_first(known: SkillEntry, timeout_ms: int) -> None:
    assert submitted("brief", skillbook={"brief": known}) == timeout_ms


@pytest.mark.parametrize(
    "known", [SkillEntry("goal", policy=SkillPolicy(timeout_ms=50)), entry('{"timeout_ms": 90}'), entry("{}")]
)
def test_what_is_said_of_goals_is_not_said_of_the_tasks_of_their_runs(known: SkillEntry) -> None:
    """A run takes over the time of its goal's task."""
    assert submitted("goal", skillbook={"goal": known}) == 0
    assert submitted("goal", said_ms=7, skillbook={"goal": known}) == 7


async def children(kind: str, *payloads: Any, skillbook: dict[str, SkillEntry] | None = None) -> FamilyBench:
    calls = ChildCalls(ADMISSION, linger_s=0, local=lambda: LOCAL)
    bench = FamilyBench(lambda kind, payload: payload, handlers={**calls.handlers(), **HANDLERS})
    bench.core.do(register_command("n2", capacity=9, skills=(SkillRef(kind, "1"),)))
    bench.core.state.skillbook.update(skillbook or {})

    async def program(ctx: SkillContext) -> Any:
        return await ctx.gather(*(ctx.task(kind, payload) for payload in payloads))

    with pytest.raises(Suspended):
        await bench.attempt(program)
    return bench


async def test_it_does_so_of_children_too() -> None:
    bench = await children("brief", 1)
    assert bench.core.task("p~1").attempt_timeout_ms == 1_000
    bench = await children("silent", 1)
    assert bench.core.task("p~1").attempt_timeout_ms == DEFAULT_MS


async def test_a_child_of_a_published_skill_with_a_schema_begins_with_its_own_payload() -> None:
    known = entry(f'{{"input": {INPUT}, "timeout_ms": 90}}')
    bench = await children("known", {"rows": []}, skillbook={"known": known})
    assert bench.core.task("p~1").attempt_timeout_ms == 90


async def test_a_child_has_the_time_of_the_revision_that_it_runs() -> None:
    both = {"a" * 64: 90, "b" * 64: 70}
    revisions = tuple(
        SkillRevision(sha, manifest=f'{{"timeout_ms": {ms}}}', state=RevisionState.APPROVED)
        for sha, ms in both.items()
    )
    known = SkillEntry("known", revisions, live="a" * 64, canary="b" * 64, canary_percent=50)
    bench = await children("known", *range(20), skillbook={"known": known})
    born = [task for task in bench.core.state.tasks.values() if task.parent_id]
    assert {pin_of(child.constraints) for child in born} == set(both), "some run the canary"
    assert all(child.attempt_timeout_ms == both[pin_of(child.constraints)] for child in born)


def control() -> Any:
    return SimpleNamespace(admission=ADMISSION, clock=SimpleNamespace(new_id=lambda: "new"))


@pytest.mark.parametrize("said_ms", [0, 5_000])
def test_a_run_passes_on_what_was_said_and_nothing_else(said_ms: int) -> None:
    state, task = ClusterState(), tasks_pb2.Task(attempt_timeout_ms=said_ms)
    goals = GoalParts(lambda: state, cast(Any, None), control(), cast(Any, None))
    parts = WorkflowParts(lambda: state, control(), cast(Any, None), frozenset, goals)
    service = cast(Any, WorkflowsService(parts, Gate(9)))
    run = service._submit(workflows_pb2.RunWorkflowRequest(task=task), b"{}", 9_000)
    assert (run.type, run.attempt_timeout_ms, run.deadline_after_ms) == (WORKFLOW, said_ms, 9_000)


@pytest.mark.parametrize("said_ms", [0, 5_000])
def test_a_schedule_leaves_it_to_the_node_where_its_task_runs(said_ms: int) -> None:
    desk: Any = SimpleNamespace(state=ClusterState)
    service = cast(Any, SchedulesService(desk, Gate(9), ADMISSION, lambda: frozenset(LOCAL)))
    template = service._template("", tasks_pb2.Task(type="brief", attempt_timeout_ms=said_ms))
    assert template.attempt_timeout_ms == said_ms


def test_a_node_knows_what_its_tasks_do_not_say() -> None:
    job = SkillJob("t", 1, "brief", b"{}", {}, None, 0)
    assert bounded(job, {}, DEFAULT_MS) == replace(job, default_timeout_ms=DEFAULT_MS)
    operator = {"brief": SkillEntry("brief", policy=SkillPolicy(timeout_ms=50))}
    assert bounded(job, operator, DEFAULT_MS).timeout_ms == 50
    said = replace(job, timeout_ms=7)
    assert bounded(said, operator, DEFAULT_MS).timeout_ms == 7
