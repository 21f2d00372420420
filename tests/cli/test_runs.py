"""`coterie workflow run|show|list|retry|approve|apply|kept|rm`, against a cluster that answers at once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from coterie.client.workflows import KeptWorkflow, RunInfo, RunNode
from coterie.node.cli.run_view import SHOWN_MAX, RunScreen, counts, tree_of
from tests.cli.fakes import FakeCluster, FakeJob, document, run, task_info

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FLOW = "nodes: {a: {skill: echo}, ok: {type: approval, depends_on: a}, b: {skill: echo, depends_on: ok}}"


def info(*states: str, task: str = "RUNNING") -> RunInfo:
    names = ("a", "ok", "b")
    nodes = tuple(
        RunNode(name, "approval" if name == "ok" else "task", state, (before,) if before else (), tasks=1)
        for name, state, before in zip(names, states, ("", "a", "ok"), strict=True)
    )
    return RunInfo(task_info("r1", task, type="workflow"), "flow", nodes)


@dataclass
class FakeWorkflows:
    """`stages` are what a run looks like, one look after the other."""

    cluster: FakeCluster
    stages: list[RunInfo] = field(default_factory=list)

    async def run(self, workflow: Any, inputs: Any, **options: Any) -> FakeJob:
        text = workflow if isinstance(workflow, str) else workflow.text()
        self.cluster.answer("run", text, inputs, options)
        return FakeJob(self.cluster, "r1", self.cluster.tasks["r1"])

    async def retry(self, run_id: str, **options: Any) -> FakeJob:
        self.cluster.answer("retry", run_id, options)
        return FakeJob(self.cluster, "r1", self.cluster.tasks["r1"])

    async def get(self, run_id: str, *, graph: bool = False) -> RunInfo:
        self.cluster.answer("look", run_id, graph)
        return self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]

    async def apply(self, name: str, text: str, *, revision: int = 0) -> KeptWorkflow:
        self.cluster.answer("apply", name, text, revision)
        return KeptWorkflow(name, 3, NOW)

    async def list(self) -> list[KeptWorkflow]:
        return [KeptWorkflow("one", 1, NOW)]

    async def show(self, name: str) -> KeptWorkflow:
        return KeptWorkflow(name, 1, NOW, FLOW)

    async def remove(self, name: str) -> None:
        self.cluster.answer("remove_workflow", name)


class Fake(FakeCluster):
    """A cluster with workflows."""

    def __init__(self, *stages: RunInfo, result: Any = None) -> None:
        super().__init__(tasks={"r1": task_info("r1", type="workflow")}, result=result)
        self.workflows = FakeWorkflows(self, list(stages))


def flow_file(directory: Path) -> Path:
    path = directory / "flow.yaml"
    path.write_text(FLOW, encoding="utf-8")
    return path


def test_a_run_is_shown_node_by_node_and_ends_with_its_outputs(tmp_path: Path) -> None:
    stages = (
        info("RUNNING", "PENDING", "PENDING"),
        info("SUCCEEDED", "WAITING", "PENDING"),
        info("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", task="SUCCEEDED"),
    )
    cluster = Fake(*stages, result={"b": 1})
    shown = run(
        cluster,
        *("workflow", "run", str(flow_file(tmp_path)), "--inputs", '{"n": 1}', "--input", "text=plain"),
        *("--input", "list=[1, 2]", "--label", "team=x"),
    )
    assert shown.exit_code == 0, shown.stderr
    method, text, inputs, options = cluster.calls[0]
    assert method == "run" and text == FLOW and inputs == {"n": 1, "text": "plain", "list": [1, 2]}
    assert options == {"kept": "", "labels": {"team": "x"}}
    assert json.loads(shown.stdout) == {"b": 1}
    said = [line for line in shown.stderr.splitlines() if " ok " in line]
    assert ["WAITING" in line for line in said] == [True, False] and "SUCCEEDED" in said[1]


def test_with_json_a_run_is_one_document_and_without_waiting_its_id(tmp_path: Path) -> None:
    end = info("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", task="SUCCEEDED")
    found = document(run(Fake(end, result=7), "workflow", "run", str(flow_file(tmp_path)), "--json"))
    assert found["result"] == 7 and [node["id"] for node in found["run"]["nodes"]] == ["a", "ok", "b"]
    left = run(Fake(end), "workflow", "run", "--kept", "report", "--no-wait")
    assert left.stdout == "r1\n"
    assert run(Fake(end), "workflow", "run").exit_code == 2
    again = run(Fake(end), "workflow", "run", "--kept", "x", "--input", "n=1", "--inputs", '{"n": 2}')
    assert again.exit_code == 2 and "n is given twice" in again.stderr


def test_runs_are_listed_shown_and_repeated() -> None:
    cluster = Fake(info("SUCCEEDED", "FAILED", "SKIPPED", task="FAILED"))
    assert "r1" in run(cluster, "workflow", "list", "--state", "failed").stdout
    assert cluster.calls[0] == ("list", 'type="workflow" AND state=FAILED', None, 50)
    cluster.tasks["r1~each~0"] = task_info("r1~each~0", type="workflow", parent_task="r1")
    assert "r1~each~0" not in run(cluster, "workflow", "list").stdout, "what is inside of another is its part"
    assert "r1~each~0" in run(cluster, "workflow", "list", "--all").stdout
    shown = run(cluster, "workflow", "show", "r1").stdout
    assert "✓ a" in shown and "✗ ok" in shown and "- b" in shown and "3 of 3 nodes done" in shown
    assert document(run(cluster, "workflow", "show", "r1", "--json"))["run"]["nodes"][1]["state"] == "FAILED"
    assert run(cluster, "workflow", "retry", "r1", "--from-node", "a", "--no-wait").stdout == "r1\n"
    assert ("retry", "r1", {"from_node": "a", "request_id": ""}) in cluster.calls


def test_only_an_approval_can_be_approved() -> None:
    cluster = Fake(info("SUCCEEDED", "WAITING", "PENDING"))
    wrong = run(cluster, "workflow", "approve", "r1", "a")
    assert wrong.exit_code == 2 and "it has ok" in wrong.stderr


def test_workflows_are_kept_shown_and_removed(tmp_path: Path) -> None:
    cluster = Fake()
    assert "flow: revision 3" in run(cluster, "workflow", "apply", str(flow_file(tmp_path))).stdout
    assert cluster.calls[0] == ("apply", "flow", FLOW, 0)
    assert "one" in run(cluster, "workflow", "kept").stdout
    assert run(cluster, "workflow", "kept", "one").stdout == FLOW + "\n"
    assert run(cluster, "workflow", "rm", "one").exit_code == 0
    assert ("remove_workflow", "one") in cluster.calls


def test_a_large_run_is_drawn_with_what_happens_now() -> None:
    nodes = [RunNode(f"n{at}", "task", "PENDING", (f"n{at - 1}",) if at else ()) for at in range(300)]
    nodes[200] = replace(
        nodes[200], state="RUNNING", since=NOW - timedelta(seconds=65), total=4, tasks=2, live=1
    )
    whole = RunInfo(task_info("r1", "RUNNING", type="workflow"), "big", tuple(nodes))
    console = Console(width=200, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    console.print(tree_of(whole, NOW))
    text = console.export_text()
    assert "▶ n200  task  1m 5s  2 of 4 begun, 1 live" in text
    assert f"… {300 - SHOWN_MAX} more nodes" in text
    assert counts(whole) == "0 of 300 nodes done: 1 RUNNING, 299 PENDING"
    console.file.close()


def test_where_nobody_looks_each_change_is_said_once() -> None:
    said: list[str] = []
    screen = RunScreen(Console(force_terminal=False), said.append)
    first = info("RUNNING", "PENDING", "PENDING")
    for stage in (first, first, info("SUCCEEDED", "PENDING", "PENDING")):
        screen.draw(stage)
    assert len(said) == 2 and said[0].startswith("RUNNING ▶ a") and said[1].startswith("SUCCEEDED ✓ a")
