"""What a node says of the agents: to Prometheus, in its log, and to callers, all from its replica."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coterie.core.agentbook import AgentRevision, ApplyAgent, Pledge
from coterie.core.agentstats import BOUNDS_MS, HOUR_MS
from coterie.core.canonical import state_hash
from coterie.core.llm.nouns import LlmUsage
from coterie.core.nouns import Data
from coterie.node.agents import watch
from coterie.node.agents.report import reports
from coterie.node.agents.told import report_to_pb
from coterie.node.agents.watch import BUCKETS_S, AgentWatch
from coterie.node.clock import Clock
from coterie.node.metrics import NodeMetrics
from coterie.raft.codec import decode_state, encode_state
from tests.core.builders import CoreCluster, submit_command
from tests.core.test_agent_counts import A, begin, core_with, end, spend

PLEDGE = Pledge(
    availability_ppm=990_000, response_ms=5_000, replicas=4, scaling=True, replicas_min=1, replicas_max=8
)


class Stopped(Clock):
    """Time stands still."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return 5.0


@pytest.fixture
def core() -> CoreCluster:
    """Three runs answered, one slowly; four failed, one runs, one waits."""
    core = core_with(PLEDGE)
    core.now_ms += HOUR_MS
    for number, after_ms in enumerate((800, 1_200, 9_000)):
        end(core, begin(core, f"good{number}"), after_ms=after_ms)
    for number in range(4):
        end(core, begin(core, f"bad{number}"), "BOOM")
    spend(core, begin(core, "live"))
    core.do(submit_command("next", type="agent", agent="al"))
    return core


def looked(core: CoreCluster, leads: bool = True) -> AgentWatch:
    seen = AgentWatch(lambda: core.state, lambda: leads, Stopped(core.now_ms))
    seen.look()
    return seen


def exported(core: CoreCluster) -> dict[tuple[str, ...], float]:
    """Values by name and labels, read back as Prometheus does."""
    metrics = NodeMetrics()
    metrics.bind_families(looked(core).families)
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("agent_")
    }


def test_what_is_exported_is_what_was_counted(core: CoreCluster) -> None:
    found = exported(core)
    assert found["agent_requests_total", "a", "succeeded"] == 3
    assert found["agent_requests_total", "a", "failed"] == 4
    assert found["agent_errors_total", "a", "BOOM"] == 4
    assert found["agent_request_latency_seconds_count", "a", "agent"] == 3
    assert found["agent_request_latency_seconds_bucket", "a", "1.0", "agent"] == 1
    assert found["agent_request_latency_seconds_bucket", "a", "10.0", "agent"] == 3
    assert found["agent_tokens_consumed_total", "a", "in", "m"] == 7
    assert (found["agent_active_sessions", "a"], found["agent_waiting_runs", "a"]) == (1, 1)
    assert found["agent_utilization", "a"] == 0.25
    assert found["agent_slo_attained_ratio", "a", "availability"] == pytest.approx(3 / 7)
    assert found["agent_slo_attained_ratio", "a", "response_time"] == pytest.approx(2 / 3)
    assert found["agent_slo_budget_left_ratio", "a", "availability"] < 0
    assert found["agent_slo_burn_rate", "a", "availability", "1h"] == pytest.approx(400 / 7)
    assert found["agent_slo_burning", "a", "availability"] == 1
    assert found["agent_revision_success_ratio", "a", A[:12]] == pytest.approx(3 / 7)
    assert found["agent_replicas_advised", "a"] >= 1


def test_every_bucket_that_is_exported_is_one_that_is_counted() -> None:
    assert {bound * 1_000 for bound in BUCKETS_S} <= set(BOUNDS_MS)


def test_what_its_files_do_not_want_shown_is_not(core: CoreCluster) -> None:
    core.do(
        ApplyAgent("a", AgentRevision(A[:-1] + "9", "", Data(b"{}"), pledge=replace(PLEDGE, unexported=True)))
    )
    assert exported(core) == {}
    [report] = reports(core.state, core.now_ms)
    assert sum(one.tally.succeeded for one in report.figures) == 3, "counted all the same"


def test_series_are_bounded(core: CoreCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "AGENTS_MAX", 2)
    for name in "bcd":
        core.do(ApplyAgent(name, AgentRevision(A[:-1] + name, "", Data(b"{}"))))
    for number in range(9):
        core.do(ApplyAgent("a", AgentRevision(f"{number:012x}{0:052x}", "", Data(b"{}"), pledge=PLEDGE)))
        end(core, begin(core, f"more{number}", revision=f"{number:012x}{0:052x}"))
    found = exported(core)
    assert {key[1] for key in found} == {"a", "b"}
    assert len([key for key in found if key[0] == "agent_revision_success_ratio"]) == watch.REVISIONS_MAX


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(one) for one in caplog.records if "burns too fast" in one.getMessage()]


def test_the_leader_warns_once_of_a_budget_that_burns(
    core: CoreCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "coterie"):
        looked(core, leads=False)
        assert warnings_of(caplog) == []
        seen = looked(core)
        seen.look()
    [line] = warnings_of(caplog)
    assert (line["agent"], line["slo"], line["within"]) == ("a", "availability", "1h")
    assert line["burn_rate"] == 57.1 and line["see"] == "coterie agents status a"


def test_a_replica_made_from_a_snapshot_says_the_same(core: CoreCluster) -> None:
    again = decode_state(encode_state(core.state))
    assert state_hash(again) == state_hash(core.state)
    told = [report_to_pb(one) for one in reports(core.state, core.now_ms)]
    assert told == [report_to_pb(one) for one in reports(again, core.now_ms)]
    [status] = told
    assert (status.running, status.waiting, status.replicas) == (1, 1, 4)
    [figures] = status.revisions
    assert (figures.llm_calls, figures.tokens_in, figures.tokens_out) == (1, 7, 3), "of the run that lives"
    assert 800 <= figures.p50_ms <= 1_500 and dict(figures.errors) == {"BOOM": 4}
    assert [one.slo for one in status.objectives] == ["availability", "response_time"]


def test_an_agent_of_many_names_and_tenants_is_one(core: CoreCluster) -> None:
    for tenant, agent in (("x", "a"), ("y", "al"), ("y", "stranger")):
        usage = LlmUsage(tenant, agent, "big", tokens_in=5, tokens_out=1, micro_usd=2)
        core.state.llm.usage[usage.name] = usage
    [report] = reports(core.state, core.now_ms, "al")
    assert [(row.model, row.tokens_in, row.micro_usd) for row in report.usage] == [
        ("big", 10, 4),
        ("m", 7, 20),
    ]
