"""`coterie history|story`, against a cluster that answers at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from coterie.client.debugger import History, TaskHistory
from tests.cli.fakes import FakeCluster, FakeJob, document, run, task_info


@dataclass
class FakeDebugger:
    cluster: FakeCluster

    async def history(self, task_id: str, **options: Any) -> History:
        self.cluster.answer("history", task_id, options)
        told = TaskHistory(task_info(task_id), (), (), (), (), ())
        return History((told,), False, 0, 2, 100, 20, 300, f"{options['format']} of [{task_id}]\n")

    async def story(self, task_id: str) -> str:
        return f"{task_id} went well.\n"

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
