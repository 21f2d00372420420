"""Reports of agents as messages."""

from __future__ import annotations

from coterie.core.agent_slo import Standing, quantile_ms
from coterie.core.llm.nouns import LlmUsage
from coterie.node.agents.report import AgentReport, Figures
from coterie.v1 import agents_pb2 as pb

ENDS = ("succeeded", "failed", "timed_out", "dead_lettered", "cancelled", "refused")


def report_to_pb(report: AgentReport) -> pb.AgentStatus:
    live, found = report.live, report.advice
    message = pb.AgentStatus(
        agent_id=report.entry.agent_id,
        waiting=live.waiting,
        running=live.running,
        sleeping=live.sleeping,
        replicas=report.pledge.replicas,
        revisions=map(_figures, report.figures),
        objectives=(_objective(one, report.pledge.response_ms) for one in report.standings),
        models=map(_use, report.usage),
        unwatched=report.pledge.unwatched,
    )
    if found is not None:
        message.advice.CopyFrom(
            pb.AgentAdvice(
                replicas=found.replicas,
                nodes_more=found.nodes_more,
                arrivals_per_hour=found.arrivals_per_hour,
                run_ms=found.run_ms,
                queue_ms=found.queue_ms,
                reason=found.reason,
            )
        )
    return message


def _figures(figures: Figures) -> pb.AgentFigures:
    tally = figures.tally
    return pb.AgentFigures(
        revision=figures.revision,
        version=figures.version,
        **{name: getattr(tally, name) for name in ENDS},
        p50_ms=quantile_ms(tally.latencies, 0.5),
        p95_ms=quantile_ms(tally.latencies, 0.95),
        p99_ms=quantile_ms(tally.latencies, 0.99),
        steps=tally.steps,
        **figures.spent,
        errors={one.code: one.count for one in tally.errors},
        last_at_ms=tally.last_at_ms,
    )


def _objective(one: Standing, response_ms: int) -> pb.AgentObjective:
    return pb.AgentObjective(
        slo=one.slo,
        objective=one.objective,
        window_ms=one.window_ms,
        runs=one.runs,
        bad=one.bad,
        attained=one.attained,
        budget_left=one.budget_left,
        burns=[
            pb.AgentBurn(window_ms=burn.window_ms, rate=burn.rate, limit=burn.limit, burning=burn.burning)
            for burn in one.burns
        ],
        response_ms=response_ms if one.slo == "response_time" else 0,
    )


def _use(row: LlmUsage) -> pb.AgentModelUse:
    return pb.AgentModelUse(
        model=row.model, tokens_in=row.tokens_in, tokens_out=row.tokens_out, micro_usd=row.micro_usd
    )
