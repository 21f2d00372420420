"""`coterie agents`: what is printed of figures that a real state has counted, and of applied files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.client.agents import Agent, AgentStatus
from coterie.core.agentbook import Pledge
from coterie.core.agentstats import HOUR_MS
from coterie.node.agents.report import reports
from coterie.node.agents.service import agent_to_pb
from coterie.node.agents.told import report_to_pb
from tests.cli.fakes import FakeCluster, document, run
from tests.core.test_agent_counts import begin, core_with, end, spend

PLEDGE = Pledge(
    availability_ppm=990_000, response_ms=5_000, replicas=4, scaling=True, replicas_min=1, replicas_max=8
)


@pytest.fixture
def cluster() -> FakeCluster:
    """With one agent: three runs answered, four failed, one at work."""
    core = core_with(PLEDGE)
    core.now_ms += HOUR_MS
    for number in range(3):
        end(core, begin(core, f"good{number}"), after_ms=9_000)
    for number in range(4):
        end(core, begin(core, f"bad{number}"), "BOOM")
    spend(core, begin(core, "live"))
    statuses = [AgentStatus.of(report_to_pb(one)) for one in reports(core.state, core.now_ms)]
    agent = Agent.of(agent_to_pb(core.state.agents["a"]))

    async def status(agent_id: str = "") -> list[AgentStatus]:
        return statuses

    async def get(agent_id: str, revision: str = "") -> Agent:
        return agent

    async def apply(files: dict[str, str], **options: Any) -> Agent:
        return agent

    found = FakeCluster()
    found.agents = SimpleNamespace(status=status, get=get, apply=apply)  # type: ignore[attr-defined]
    return found


def test_status_tells_figures_objectives_and_advice(cluster: FakeCluster) -> None:
    result = run(cluster, "agents", "status", "a")
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    for words in (
        "a 000000000000 7 42.86% ",
        "BOOM 4",
        "a: 1 of 4 running, 0 waiting for a slot, 0 sleeping",
        "a: slo: availability: 42.857% of 7 runs in 28d (objective 0.99), MISSED; burn rate 57.1 in 1h",
        "a: WARNING: the error budget of availability burns too fast: 57.1 within 1h, at most 13.4 are well",
        "a: slo: response_time within 5s: 0.000% of 3 runs",
        "a: advice: replicas 1 (now 4): ",
    ):
        assert words in said, words


def test_show_tells_them_too_and_json_is_one_document(cluster: FakeCluster) -> None:
    assert "advice: replicas 1" in run(cluster, "agents", "show", "a").stdout
    found = document(run(cluster, "agents", "show", "a", "--json"))
    assert found["agent"]["id"] == "a" and found["status"]["revisions"][0]["succeeded"] == 3
    [status] = document(run(cluster, "agents", "status", "--json"))["agents"]
    assert status["advice"]["replicas"] == 1 and status["objectives"][0]["burns"][0]["burning"] is True


def test_a_directory_without_its_entry_in_the_registry_is_named(cluster: FakeCluster, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("agent: {id: a}")
    registry = tmp_path / "agent-registry.yaml"
    for entry, said in (("a", False), ("b", True)):
        registry.write_text(f"agents: [{{id: {entry}}}]")
        result = run(cluster, "agents", "apply", str(tmp_path), "--registry", str(registry))
        assert result.exit_code == 0 and ("is its own, by id or alias" in result.stderr) is said


def test_an_objective_without_a_run_is_said_to_have_none(cluster: FakeCluster) -> None:
    core = core_with(PLEDGE)
    idle = [AgentStatus.of(report_to_pb(one)) for one in reports(core.state, core.now_ms)]

    async def status(agent_id: str = "") -> list[AgentStatus]:
        return idle

    cluster.agents.status = status  # type: ignore[attr-defined]
    said = run(cluster, "agents", "status").stdout
    assert "no run has begun yet" in said and "100.000%" not in said
    assert "a: slo: availability: no run in 28d (objective 0.99)" in said
