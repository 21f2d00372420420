"""A request in words: route it or plan it, run the plan as a workflow, make one answer of the results.

Every question to a model and every answer of the node is a recorded step, so that a goal that loses its node
goes on from there and pays for no answer twice."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from coterie.skills import NonRetryable, SkillContext
from coterie.skills.goal import prompts
from coterie.skills.goal.approval import to_be_approved
from coterie.skills.goal.planning import BadPlan, Planned, Planner, check, forget
from coterie.skills.goal.request import Ask

FAILURES_SHOWN_MAX = 10
SHOWN = ("task", "state", "result")
Call = Callable[[str, Any], Awaitable[Any]]
RESULTS_CHARS_MAX = 60_000  # of all results together, as a model is shown them


class GoalFailed(NonRetryable):
    """The run gave nothing that could be an answer."""

    code = "GOAL_FAILED"


async def run(ctx: SkillContext, input: Ask) -> dict[str, Any]:
    """See SKILL.md. Raises BadInput, BadPlan, GoalFailed, and what ctx.llm raises."""
    try:
        result = await _carried_out(ctx, input)
    except NonRetryable:
        await forget(ctx)
        raise
    if result.get("failures"):
        await forget(ctx)
    return result


async def _carried_out(ctx: SkillContext, input: Ask) -> dict[str, Any]:
    ask, call = input, ctx._link.call
    wanted = {
        "goal": ask.goal or "mend",
        "context": ask.context,
        "rule": ask.rule,
        "mend": bool(ask.workflow),
    }
    begun = await ctx.step("route", call, "goals.begin", wanted)
    planner = Planner(ctx, begun)
    planned = await _planned(planner, begun, ask)
    route = {key: begun[key] for key in ("rule", "matched", "ambiguous", "revision")}
    told: dict[str, Any] = {**planned.told, "selection": planned.draft["selection"]}
    if not ask.workflow:
        told["route"] = route
    if ask.plan_only:
        return {**told, "native": planned.draft["native"], "usage": planner.usage}
    await _approve(ctx, begun, planned, ask)
    await ctx.progress(20, f"{len(planned.draft['tasks'])} tasks")
    order = {
        "native": planned.draft["native"],
        "inputs": planned.draft["inputs"],
        "timeout_ms": begun["timeout_ms"],
    }
    await call("goals.run", order)  # no step: whoever takes over the steps of this goal needs its own run
    await call("goals.wait", {})
    kind = _aggregate(ask, begun, planned)
    ended = await ctx.step("ended", _ended, call, kind)
    answer = await _answer(planner, ask, kind, ended)
    return {**answer, **told, "run": ended["run"], "usage": planner.usage}


async def _planned(planner: Planner, begun: Mapping[str, Any], ask: Ask) -> Planned:
    if ask.workflow:
        return await planner.mend(ask)
    if "draft" not in begun:
        return await planner.plan(ask)
    draft = begun["draft"]
    try:
        check(draft)
    except BadPlan as error:
        raise BadPlan(f"routing rule {begun['rule']}: {error}") from error
    return Planned(draft, told={"plan": {"tasks": draft["tasks"]}})


async def _approve(ctx: SkillContext, begun: Mapping[str, Any], planned: Planned, ask: Ask) -> None:
    if not (begun["approve"] or ask.approve):
        return
    decision = await ctx.approve("run this plan?", to_be_approved(ask.goal, planned.draft))
    if not decision:
        raise BadPlan(f"a person said no to the plan: {'; '.join(decision.comments) or 'without a word'}")


def _aggregate(ask: Ask, begun: Mapping[str, Any], planned: Planned) -> str:
    """What the request says, else the rule, else the plan, else the settings. One task needs nothing."""
    if ask.workflow and ask.aggregate is None:
        return "list"
    chosen = ask.aggregate or (begun["aggregate"] if begun["declared"] else "") or planned.aggregate
    kind: str = chosen or begun["aggregate"]
    return "answer" if kind == "llm" and len(planned.draft["tasks"]) == 1 else kind


async def _ended(call: Call, kind: str) -> Any:
    """Recorded where it is good: a goal that is tried again has a new run, and not the end of the old one."""
    ended = await call("goals.ended", {"aggregate": kind})
    _check_ended(ended)
    return ended


def _check_ended(ended: Mapping[str, Any]) -> None:
    good = ended["state"] == "SUCCEEDED" or (ended["on_parts"] and ended["counts"].get("succeeded"))
    if not good or not ended["counts"].get("succeeded"):
        why = f": {ended['error']['message']}" if ended["error"] else ""
        raise GoalFailed(f"run {ended['run']} is {ended['state']}{why}. {summary(ended)}")


def failures(ended: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every task that gave nothing, and why."""
    keys = ("task", "by", "state", "code", "message")
    bad = (row for row in ended["results"] if row["state"] != "SUCCEEDED")
    return [{key: row[key] for key in keys if key in row} for row in bad]


def summary(ended: Mapping[str, Any]) -> str:
    """Counted by code, in words."""
    counts, bad = ended["counts"], failures(ended)
    text = f"{counts.get('succeeded', 0)} of {counts['total']} tasks succeeded"
    if not bad:
        return text
    said = [f"{one['task']} {one['state']} ({one.get('code', '')}: {one.get('message', '')})" for one in bad]
    more = f" and {len(said) - FAILURES_SHOWN_MAX} more" if len(said) > FAILURES_SHOWN_MAX else ""
    return f"{text}; without a result: {', '.join(said[:FAILURES_SHOWN_MAX])}{more}"


async def _answer(planner: Planner, ask: Ask, kind: str, ended: Mapping[str, Any]) -> dict[str, Any]:
    bad = failures(ended)
    told: dict[str, Any] = {
        "answer": ended.get("answer"),
        "complete": not bad,
        "summary": summary(ended),
        "counts": ended["counts"],
        "failures": bad,
        "results": ended["results"],
        "aggregate": kind,
    }
    if ended.get("note"):
        told["note"] = ended["note"]
    if kind == "llm":
        talk = prompts.answer(ask.goal, _shown(ended["results"]), ended["counts"])
        text = (await planner.ask("answer", talk)).text
        told["answer"] = f"{text}\n\n({told['summary']})" if bad else text
    elif "answer" not in ended:
        told["answer"] = [row["result"] for row in ended["results"] if row["last"] and "result" in row]
    return told


def _shown(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each gets the same share of the room."""
    share = RESULTS_CHARS_MAX // max(1, len(results))
    shown = []
    for row in results:
        kept: dict[str, Any] = {key: row[key] for key in SHOWN if key in row}
        said = json.dumps(kept.get("result"), ensure_ascii=False)
        if len(said) > share:
            kept["result"] = f"{said[:share]} [… cut]"
        shown.append(kept)
    return shown
