"""`coterie history|story`, against a cluster that answers at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from coterie.client.debugger import History, NodeAt, StateAt, TaskHistory
from tests.cli.fakes import FakeCluster, FakeJob, document, run, task_info

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass
class FakeDebugger:
    cluster: FakeCluster

    async def history(self, task_id: str, **options: Any) -> History:
        self.cluster.answer("history", task_id, options)
        told = TaskHistory(task_info(task_id), (), (), (), (), ())
        until = f" until {until}" if (until := options.get("until")) else ""
        drawing = f"{options['format']} of [{task_id}]{until}\n"
        return History((told,), False, 0, 2, 100, 20, 300, drawing)

    async def story(self, task_id: str) -> str:
        return f"{task_id} went well.\n"

    async def state(self, index: int, task_id: str) -> StateAt:
        self.cluster.answer("state", index, task_id)
        task = task_info(task_id, "RUNNING") if task_id else None
        nodes = (NodeAt("node-1", "UP", False, "", 2), NodeAt("node-2", "DOWN", False, "killed", 0))
        live = (task_info("t7", "PENDING"),)
        return StateAt(1200, NOW, 1000, 1300, task, (), {"PENDING": 1, "RUNNING": 2}, live, 3, nodes)

    async def fork(self, task_id: str, at: str, values: Any, **options: Any) -> FakeJob:
        self.cluster.answer("fork", task_id, at, values, options)
        return FakeJob(self.cluster, "t1", self.cluster.tasks["t1"])


class Fake(FakeCluster):
    """A cluster with a debugger."""

    def __init__(self) -> None:
        super().__init__()
        self.debugger = FakeDebugger(self)


@pytest.mark.parametrize("form", ["text", "mermaid", "gantt"])
def test_a_history_is_printed_as_it_is_drawn(form: str) -> None:
    cluster = Fake()
    result = run(cluster, "history", "t1", "--format", form, "--tasks", "9")
    assert result.exit_code == 0 and result.stdout == f"{form} of [t1]\n"
    assert ("history", "t1", {"format": form, "tasks_max": 9}) in cluster.calls


def test_json_is_the_whole_history() -> None:
    for arguments in (("--format", "json"), ("--json",)):
        words = [*arguments, "history", "t1"] if arguments == ("--json",) else ["history", "t1", *arguments]
        found = json.loads(run(Fake(), *words).stdout)["history"]
        assert found["tasks"][0]["task"]["id"] == "t1" and found["micro_usd"] == 300


def test_a_story_is_sentences() -> None:
    assert run(Fake(), "story", "t1").stdout == "t1 went well.\n"
    assert document(run(Fake(), "--json", "story", "t1"))["story"] == "t1 went well.\n"


def test_a_fork_names_a_run_and_a_point_and_reads_values_as_json_or_text() -> None:
    cluster = Fake()
    cluster.result = {"x": 1}
    result = run(cluster, "fork", "j1@llm#3", "--set", "n=5", "--set", "who=Ann B", "--wait")
    assert result.exit_code == 0 and result.stdout.startswith("t1\n") and '"x": 1' in result.stdout
    assert ("fork", "j1", "llm#3", {"n": 5, "who": "Ann B"}, {"request_id": ""}) in cluster.calls
    for wrong in (["j1"], ["@x"], ["j1@"], ["j1@x", "--set", "n=1", "--set", "n=2"]):
        refused = run(Fake(), "fork", *wrong)
        assert refused.exit_code == 2 and ("RUN@POINT" in refused.stderr or "twice" in refused.stderr)


def test_a_replay_steps_through_events() -> None:
    assert run(Fake(), "replay", "t1").stdout == "replay of [t1]\n"
    assert run(Fake(), "replay", "t1", "--until", "3").stdout == "replay of [t1] until 3\n"
    assert document(run(Fake(), "--json", "replay", "t1"))["replay"] == ["replay of [t1]"]


def test_a_state_of_the_cluster_or_of_a_task_names_its_index() -> None:
    cluster = Fake()
    said = run(cluster, "state", "--at", "1200").stdout
    assert "index 1200, 2026-01-02 00:00:00.000000Z (from 1000 to 1300 can be shown)" in said
    assert "tasks: 1 PENDING, 2 RUNNING" in said and "killed" in said and "2 more live tasks" in said
    assert ("state", 1200, "") in cluster.calls
    told = run(cluster, "state", "j1", "--at", "1200").stdout
    assert "RUNNING" in told and "t7" not in told and ("state", 1200, "j1") in cluster.calls
    assert document(run(Fake(), "--json", "state"))["state"]["oldest_index"] == 1000
