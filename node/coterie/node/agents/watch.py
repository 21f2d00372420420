"""Looks at the agents now and then: for those who scrape this node, and to warn of budgets that burn fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from coterie.core.agent_slo import Standing, quantile_ms
from coterie.core.agentstats import BOUNDS_MS
from coterie.core.state import ClusterState
from coterie.node.agents.report import AgentReport, Figures, reports
from coterie.node.agents.told import ENDS
from coterie.node.clock import Clock, LogTime
from coterie.node.observability import get_logger
from coterie.node.units import format_duration

log = get_logger(__name__)

LOOK_EVERY_S = 15.0
WARN_EVERY_S = 3_600.0  # as long as it goes on
AGENTS_MAX = 100  # that are exported, those with the most runs; each has some dozens of series
REVISIONS_MAX = 3  # of each: the newest
SHORT = 12  # of a revision's hash
QUANTILES = (0.5, 0.95, 0.99)
# Upper bounds in seconds of what is exported: each is one of BOUNDS_MS.
BUCKETS_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_000.0, 3_000.0, 10_000.0)


class AgentWatch:
    """A loop of the node. Every node exports the same; the one that leads warns."""

    def __init__(self, state: Callable[[], ClusterState], leads: Callable[[], bool], clock: Clock) -> None:
        self._state, self._leads, self._clock = state, leads, clock
        self._time = LogTime(clock, lambda: state().meta.clock_ms)
        self._seen: tuple[AgentReport, ...] = ()
        self._warned: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Once, on the event loop."""
        self._seen = tuple(reports(self._state(), self._time.now_ms())) if self._state().agents else ()
        burning = {
            (report.entry.agent_id, one.slo): one
            for report in self._seen
            for one in report.standings
            if one.burning is not None
        }
        for key in self._warned.keys() - burning.keys():
            del self._warned[key]
        if self._leads():
            for key, one in burning.items():
                self._warn(key, one)

    def _warn(self, key: tuple[str, str], one: Standing) -> None:
        now, burn = self._clock.monotonic(), one.burning
        if burn is None or now - self._warned.get(key, -WARN_EVERY_S) < WARN_EVERY_S:
            return
        self._warned[key] = now
        log.warning(
            "the error budget of an agent burns too fast",
            extra={
                "limit_key": f"slo {key}",
                "agent": key[0],
                "slo": one.slo,
                "objective": one.objective,
                "burn_rate": round(burn.rate, 1),
                "within": format_duration(burn.window_ms),
                "allowed": round(burn.limit, 1),
                "budget_left": round(one.budget_left, 3),
                "see": f"coterie agents status {key[0]}",
            },
        )

    # -- at a scrape, in its thread

    def families(self) -> Iterator[Metric]:
        """Everything as Prometheus families, of the last look."""
        shown = [report for report in self._seen if not (report.pledge.unexported or report.pledge.unwatched)]
        shown = sorted(shown, key=lambda one: (-_ended(one), one.entry.agent_id))[:AGENTS_MAX]
        if shown:
            yield from (*_ends(shown), *_use(shown), *_now(shown), *_promises(shown), *_by_revision(shown))


def _ended(report: AgentReport) -> int:
    return sum(getattr(one.tally, end) for one in report.figures for end in ENDS)


def _ends(shown: list[AgentReport]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "agent_requests", "Runs of the agent that ended, in the whole cluster.", labels=["agent_id", "status"]
    )
    errors = CounterMetricFamily("agent_errors", "Runs without an answer.", labels=["agent_id", "code"])
    steps = CounterMetricFamily("agent_steps", "Recorded steps of ended runs.", labels=["agent_id"])
    latency = HistogramMetricFamily(
        "agent_request_latency_seconds",
        "From when a run was wanted to its answer.",
        labels=["agent_id", "skill_id"],
    )
    for report in shown:
        name = report.entry.agent_id
        for end in ENDS:
            requests.add_metric([name, end], sum(getattr(one.tally, end) for one in report.figures))
        codes: dict[str, int] = {}
        for error in (error for one in report.figures for error in one.tally.errors):
            codes[error.code] = codes.get(error.code, 0) + error.count
        for code, count in sorted(codes.items()):
            errors.add_metric([name, code], count)
        steps.add_metric([name], sum(one.tally.steps for one in report.figures))
        buckets, total_s = _buckets(report.figures)
        latency.add_metric([name, "agent"], buckets, total_s)
    yield from (requests, errors, steps, latency)


def _buckets(figures: tuple[Figures, ...]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative, with the sum in seconds."""
    found = []
    for bound in (*BUCKETS_S, float("inf")):
        upto = sum(edge <= bound * 1_000 for edge in BOUNDS_MS) + (bound == float("inf"))
        count = sum(sum(one.tally.latencies[:upto]) for one in figures)
        found.append(("+Inf" if bound == float("inf") else str(bound), float(count)))
    return found, sum(one.tally.latency_ms for one in figures) / 1_000


def _use(shown: list[AgentReport]) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        "agent_tokens_consumed", "Of its models, by what they counted.", labels=["agent_id", "kind", "model"]
    )
    cost = CounterMetricFamily("agent_cost_usd", "What its models cost, in USD.", labels=["agent_id"])
    for report in shown:
        name = report.entry.agent_id
        for row in report.usage:
            tokens.add_metric([name, "in", row.model], row.tokens_in)
            tokens.add_metric([name, "out", row.model], row.tokens_out)
        cost.add_metric([name], sum(row.micro_usd for row in report.usage) / 1_000_000)
    yield from (tokens, cost)


def _now(shown: list[AgentReport]) -> Iterator[Metric]:
    active = _gauge("agent_active_sessions", "Runs that have begun and not ended.")
    waiting = _gauge("agent_waiting_runs", "Runs that wait for a slot.")
    used = _gauge("agent_utilization", "Running runs, as a share of those that may run at the same time.")
    wanted = _gauge("agent_replicas_advised", "Runs at the same time that the agent would need.")
    nodes = _gauge("agent_nodes_more_advised", "Nodes for which there is no free slot on those that are up.")
    queue = _gauge("agent_queue_seconds", "Wait of a run for its first slot, lately and on average.")
    for report in shown:
        labels, live = [report.entry.agent_id], report.live
        active.add_metric(labels, live.running + live.sleeping)
        waiting.add_metric(labels, live.waiting)
        if report.pledge.replicas:
            used.add_metric(labels, live.running / report.pledge.replicas)
        if report.advice is not None:
            wanted.add_metric(labels, report.advice.replicas)
            nodes.add_metric(labels, report.advice.nodes_more)
            queue.add_metric(labels, report.advice.queue_ms / 1_000)
    yield from (active, waiting, used, wanted, nodes, queue)


def _promises(shown: list[AgentReport]) -> Iterator[Metric]:
    objective = _gauge("agent_slo_objective_ratio", "Share of the runs that must be good.", "slo")
    attained = _gauge("agent_slo_attained_ratio", "Share of the runs of the window that were.", "slo")
    left = _gauge("agent_slo_budget_left_ratio", "Of the allowed bad runs; below 0: missed.", "slo")
    rate = _gauge("agent_slo_burn_rate", "1: the budget lasts as long as its window.", "slo", "window")
    burning = _gauge("agent_slo_burning", "1: the error budget burns too fast.", "slo")
    for report in shown:
        for one in report.standings:
            labels = [report.entry.agent_id, one.slo]
            objective.add_metric(labels, one.objective)
            attained.add_metric(labels, one.attained)
            left.add_metric(labels, one.budget_left)
            burning.add_metric(labels, float(one.burning is not None))
            for burn in one.burns:
                rate.add_metric([*labels, format_duration(burn.window_ms)], burn.rate)
    yield from (objective, attained, left, rate, burning)


def _by_revision(shown: list[AgentReport]) -> Iterator[Metric]:
    good = _gauge("agent_revision_success_ratio", "Of its runs that an answer was owed.", "revision")
    took = _gauge("agent_revision_latency_seconds", "Quantiles of its answers.", "revision", "quantile")
    for report in shown:
        for one in [one for one in report.figures if one.revision][:REVISIONS_MAX]:
            labels, tally = [report.entry.agent_id, one.revision[:SHORT]], one.tally
            if tally.succeeded + tally.bad:
                good.add_metric(labels, tally.succeeded / (tally.succeeded + tally.bad))
            for share in QUANTILES if tally.succeeded else ():
                took.add_metric([*labels, str(share)], quantile_ms(tally.latencies, share) / 1_000)
    yield from (good, took)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["agent_id", *labels])
