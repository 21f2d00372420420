"""`coterie workflow`: plans of files, problems of files."""

from __future__ import annotations

import json
from pathlib import Path

from coterie.client.workflows import Plan, Problem
from tests.cli.fakes import FakeCluster, document, run
from tests.cli.services import call

STEPS = Path(__file__).parents[1] / "node" / "fixtures" / "workflows" / "steps.yaml"


def test_a_plan_is_shown_without_a_cluster() -> None:
    shown = run(FakeCluster(), "workflow", "plan", str(STEPS))
    assert shown.exit_code == 0, shown.stderr
    assert "critical path: step-1 -> step-2 -> step-3 -> step-4 (8700 s by its timeouts)" in shown.stdout
    assert "needs inputs: market_research, training_data, user_feedback" in shown.stdout
    found = document(run(FakeCluster(), "workflow", "plan", str(STEPS), "--json"))
    assert found["stages"] == [["step-1"], ["step-2"], ["step-3"], ["step-4"]]
    drawn = run(FakeCluster(), "workflow", "plan", str(STEPS), "--format", "mermaid").stdout
    assert drawn.startswith("flowchart TD") and "n0 --> n1" in drawn


def test_all_problems_of_a_file_are_said_and_cycles_with_their_path(tmp_path: Path) -> None:
    tasks = [
        {"id": "task_1", "skill": "a", "dependencies": ["task_3"]},
        {"id": "task_2", "skill": "a", "dependencies": ["task_1"]},
        {"id": "task_3", "skill": "", "dependencies": ["task_2"]},
    ]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"tasks": tasks}), encoding="utf-8")
    shown = run(FakeCluster(), "workflow", "plan", str(file))
    assert shown.exit_code == 2
    assert "task_1 <- task_3 <- task_2 <- task_1" in shown.stderr and "needs a skill" in shown.stderr
    error = document(run(FakeCluster(), "workflow", "plan", str(file), "--json"))["error"]
    assert error["cycles"] == [["task_1", "task_3", "task_2", "task_1"]]
    assert len(error["violations"]) == 2


def test_the_cluster_is_asked_where_it_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("nodes: {sub: {workflow: report}}", encoding="utf-8")
    alone = run(FakeCluster(), "workflow", "plan", str(file))
    assert alone.exit_code == 2 and "1 problem" in alone.stderr
    assert "the workflow 'report' is looked up in a cluster, and none was asked: --check" in alone.stderr
    sound = Plan((), (("sub",),), ("sub",), 0, ("topic",), "one stage", "flowchart TD", {"name": "plan"})
    done, asked = call("workflows", {"plan": sound}, "workflow", "plan", str(file), "--check")
    assert done.exit_code == 0 and done.stdout == "one stage\nneeds inputs: topic\n"
    assert "report" in asked.calls[0][1].text()
    done, _ = call("workflows", {"plan": sound}, "workflow", "plan", str(file), "--check", "--json")
    assert document(done)["stages"] == [["sub"]] and document(done)["workflow"] == {"name": "plan"}
    wrong = Plan((Problem("UNKNOWN_SKILL", "a", "no node has a skill 'x'"),), (), (), 0, (), "", "")
    done, _ = call("workflows", {"plan": wrong}, "workflow", "plan", str(file), "--check")
    assert done.exit_code == 2 and "a: no node has a skill 'x'" in done.stderr
