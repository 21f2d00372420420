"""Runs of workflows, and workflows that are kept under a name."""

from __future__ import annotations

from typing import Any

from coterie.core.commands import FailAttempt, FinishTask, SignalTask
from coterie.core.nouns import Data, RetryPolicy, TaskError, TaskId
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.core.runs.texts import ApplyWorkflow, DeleteWorkflow
from tests.core.builders import submit_command
from tests.core.runs.world import echo, raw
from tests.core.story.stage import Stage


def flow(stage: Stage) -> None:
    """A run that goes on, and grows; one that failed and undoes what it did."""
    text = "nodes: [{id: a, skill: echo}]"
    for source in (text, text + "  # changed"):
        stage.do(ApplyWorkflow("acme", "letters", source, revision=int(source != text)))
    _run(
        stage,
        "going",
        echo("a"),
        {"id": "c", "type": "condition", "expr": "a.score > 5", "depends_on": ["a"]},
        {"id": "w", "type": "wait", "signal": "answer", "timeout_ms": 7_000_000},
        {"id": "w2", "type": "wait", "signal": "never", "timeout_ms": 7_000_000},
        {"id": "m", "type": "map", "over": [1, 2, 3], "window": 2, "body": {"nodes": [echo("one")]}},
        echo("broken"),
        on_failure="continue",
    )
    _give(stage, "going~a~0", b'{"score": 9}')
    stage.do(SignalTask(TaskId("going"), "answer", Data(b'"yes"')))
    _fail(stage, "going~broken~0")
    _give(stage, "going~m~0~one~0", b"11")
    stage.do(AddNodes(TaskId("going"), raw({"nodes": [echo("more")]})))
    _grow_from_within(stage)
    undo = [{"id": f"undo-{n}", "type": "compensate", "compensates": n, "skill": "echo"} for n in "abc"]
    _run(stage, "undoing", echo("a"), echo("b", "a"), echo("c", "b"), *undo, on_failure="compensate")
    _give(stage, "undoing~a~0", b"1")
    _give(stage, "undoing~b~0", b"2")
    _fail(stage, "undoing~c~0")


def _grow_from_within(stage: Stage) -> None:
    """A node of the run adds nodes to it."""
    planner, attempt = stage.start("going~more~0")
    stage.do(AddNodes(TaskId("going"), raw({"nodes": [echo("most")]}), planner, attempt))


def _run(stage: Stage, name: str, *nodes: dict[str, Any], **graph: Any) -> None:
    submit = submit_command(name, type=WORKFLOW, tenant="acme", retry=RetryPolicy(1))
    stage.do(RunWorkflow(submit, raw({"nodes": [*nodes], **graph})))


def _give(stage: Stage, name: str, result: bytes) -> None:
    task_id, attempt = stage.start(name)
    stage.do(FinishTask(task_id, attempt, Data(result)))


def _fail(stage: Stage, name: str) -> None:
    task_id, attempt = stage.start(name)
    stage.do(FailAttempt(task_id, attempt, TaskError("NO", "it broke", retryable=False)))


def stop(stage: Stage) -> None:
    _give(stage, "undoing~undo-b~0", b"3")
    stage.do(DeleteWorkflow("acme", "letters"))
