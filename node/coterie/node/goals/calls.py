"""What the goal skill asks its node: which rule, who can do it, is the plan right; run it, wait, tell how it
ended. Whatever is answered, the skill records it as a step before it goes on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from coterie.core.agentbook import find_agent
from coterie.core.commands import Accepted, Rejected, SuspendTask
from coterie.core.graph.model import SKILL_OF, NodeType, Problem
from coterie.core.graph.reading import graph_bytes
from coterie.core.graph.values import ValueFault
from coterie.core.llm.commands import ForgetLlmAnswers
from coterie.core.nouns import Data, Priority, TaskId, WaitReason
from coterie.core.runs.commands import RunWorkflow
from coterie.core.runs.run import WORKFLOW
from coterie.core.state import ClusterState
from coterie.core.submit_command import SubmitTask
from coterie.node.config import NodeSettings
from coterie.node.config.goal_settings import RoutingRule
from coterie.node.errors import ApiError, from_rejection
from coterie.node.goals.candidates import Definitions
from coterie.node.goals.catalogue import Local, catalogue
from coterie.node.goals.inputs import inputs_json
from coterie.node.goals.outcome import LEDGER_S, check_its_run, ended_run
from coterie.node.goals.plans import GOAL, Draft, by_plan, by_rule, wants_of
from coterie.node.goals.rules import Routed, normalised, revision_of, route
from coterie.node.goals.staff import Staff, staff_of
from coterie.node.reads import Reader
from coterie.node.skill_calls import Handlers, Run, refused
from coterie.node.skillhost.nouns import Suspended
from coterie.node.skillset import known_skills
from coterie.node.workflows import Known, Loaded, load_native
from coterie.node.workflows.aside import NODE_CHARS, aside
from coterie.node.workflows.forms import to_native
from coterie.node.workflows.source import read_source
from coterie.skills import Fenced

RUN_SUFFIX = ".run"
LOOK_S, LOOKS = 0.02, 50  # a goal whose run is short stays: ending and starting it costs more
CODE = SKILL_OF[NodeType.CODE]
KEPT_QUESTIONS = ("intent", "decompose")  # steps of a goal whose answers are kept for equal requests


@dataclass(frozen=True, slots=True)
class GoalCalls:
    """The handlers; see coterie.skills.goal for the other end. `local`: the skills on this node's disk."""

    settings: Callable[[], NodeSettings]
    local: Callable[[], Local]
    reader: Reader
    known: Definitions = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def handlers(self) -> Handlers:
        return {
            "goals.begin": self.begin,
            "goals.draft": self.draft,
            "goals.check": self.check,
            "goals.run": self.run,
            "goals.wait": self.wait,
            "goals.ended": self.ended,
            "goals.forget": self.forget,
        }

    def gauges(self) -> Mapping[str, float]:
        """For the metrics: how requests became plans, and how often a plan was known already."""
        asked, cached = self.counts["model"], self.counts["cache"]
        plans = {f'goal_plans_total{{source="{name}"}}': float(count) for name, count in self.counts.items()}
        known = asked + cached
        return {**plans, "goal_plan_cache_hit_ratio": cached / known if known else 0.0}

    async def begin(self, run: Run, args: Any) -> dict[str, Any]:
        """How the request is dealt with: by which rule, and with what; or what there is to plan with."""
        goals, goal = self.settings().goals, _text(args, "goal")
        inputs_json({"goal": goal, "context": args.get("context")})
        await self._has_begun(run, run_id_of(run.task_id))  # before anything is paid: is the id taken
        mends = args.get("mend") is True
        routed = Routed(None) if mends else _chosen(goals.rules, goal, str(args.get("rule") or ""))
        rule = routed.rule
        told: dict[str, Any] = {
            **routed_to_json(routed),
            "revision": revision_of(goals.rules),
            "goal": normalised(goal),
            "timeout_ms": rule.timeout_ms if rule else 0,
            "aggregate": (rule.aggregate if rule else "") or goals.aggregate,
            "declared": bool(rule and rule.aggregate),
            "approve": goals.approve,
            "model": goals.model,
            "temperature": goals.temperature,
            "answer_temperature": goals.answer_temperature,
            "max_tokens": goals.max_tokens,
            "cache_ttl": goals.cache_ttl_ms / 1_000,
            "tasks_max": goals.tasks_max,
        }
        if rule is not None and _decides(rule):
            self.counts["rule"] += 1
            draft = await self._by_rule(run, rule, goal, args.get("context"))
            return {**told, "draft": await self._drafted(run, draft)}
        return told if mends else {**told, "catalogue": catalogue(run.state, self.local(), goals.skills)}

    async def draft(self, run: Run, args: Any) -> dict[str, Any]:
        """A model's plan as a workflow, with all that is wrong with it, and who was chosen for what."""
        if args.get("counts"):
            self.counts["cache" if args.get("cached") else "model"] += 1
        plan, goal, context = args.get("plan"), _text(args, "goal"), args.get("context")
        staff, tasks_max = await self._staff(run), self.settings().goals.tasks_max
        effort = staff.effort(*wants_of(plan, tasks_max))
        draft = await aside(effort, lambda: by_plan(plan, goal, context, staff, tasks_max))
        return await self._drafted(run, draft)

    async def check(self, run: Run, args: Any) -> dict[str, Any]:
        """A workflow as somebody wrote it, in any form, or as it was changed since."""
        problems: list[Problem] = []
        native = args.get("native")
        if native is None:
            value = read_source(_text(args, "workflow"), WORKFLOW, problems)
            native = to_native(value, problems) if value is not None else {}
        inputs = args.get("inputs")
        inputs_json(inputs)
        native = native if isinstance(native, dict) else {}
        draft = Draft(native, inputs if isinstance(inputs, dict) else {}, problems)
        return await self._drafted(run, draft)

    async def run(self, run: Run, args: Any) -> dict[str, str]:
        """Begin the run of the workflow, as a child of the task; asked again, it is the same."""
        run_id = run_id_of(run.task_id)
        if await self._has_begun(run, run_id):
            return {"run": run_id}
        native, given_ms = args.get("native"), args.get("timeout_ms") or 0
        if not isinstance(native, dict) or not isinstance(given_ms, int) or given_ms < 0:
            raise refused("BAD_ARGUMENTS", "native: an object is expected; timeout_ms: a whole number")
        loaded = await self._loaded(run, Draft(native, {}))
        if loaded.problems:
            raise refused("BAD_PLAN", "; ".join(f"{one.where}: {one.text}" for one in loaded.problems[:20]))
        inputs = inputs_json(args.get("inputs") or {})
        command = _command(run, run_id, _graph(loaded), inputs, given_ms or loaded.graph.timeout_ms)
        outcome = await run.commit(command)
        if not isinstance(outcome, Accepted):
            raise _refusal(outcome)
        if (begun := run.state.task(run_id)) is not None:
            check_its_run(run.task, begun)
        return {"run": run_id}

    async def wait(self, run: Run, args: Any) -> None:
        """Returns when the run has ended; else the attempt ends here, and a later one comes again."""
        run_id = run_id_of(run.task_id)
        for _ in range(LOOKS):
            if run_id not in run.state.tasks:
                return
            await asyncio.sleep(LOOK_S)
        outcome = await run.commit_own(SuspendTask(run.task_id, run.attempt, WaitReason.CHILD))
        if isinstance(outcome, Accepted):
            raise Suspended
        if outcome.code != "WAIT_OVER":
            raise Fenced(outcome.reason)

    async def ended(self, run: Run, args: Any) -> dict[str, Any]:
        """How the run and each of its nodes ended, what they gave, and what becomes of it."""
        return await ended_run(self.reader, run, run_id_of(run.task_id), str(args.get("aggregate") or ""))

    async def forget(self, run: Run, args: Any) -> None:
        """What models answered to the kept questions of this task proved to be bad: it is kept no longer."""
        steps = run.state.steps.get(run.task_id)
        recorded = [steps.find(name) for name in KEPT_QUESTIONS] if steps is not None else []
        records = [json.loads(await run.load(step.result)) for step in recorded if step is not None]
        keys = [one["kept_as"] for one in records if isinstance(one, dict) and one.get("kept_as")]
        if keys:
            await run.commit_own(ForgetLlmAnswers(run.task_id, run.attempt, tuple(map(str, keys))))

    # --- help

    async def _has_begun(self, run: Run, run_id: TaskId) -> bool:
        """By an earlier attempt, which this node's replica shows: the state knows the run, or the history."""
        known = run.state.task(run_id)
        if known is None and await self.reader.in_history(run_id):
            known = (await self.reader.get(run_id, LEDGER_S)).task
        if known is not None:
            check_its_run(run.task, known)
        return known is not None

    async def _by_rule(self, run: Run, rule: RoutingRule, goal: str, context: Any) -> Draft:
        if rule.workflow:
            return self._kept(run, rule.workflow, goal, context)
        staff = await self._staff(run)
        return by_rule(rule, goal, context, staff, lambda name: agent_id(run.state, name))

    def _kept(self, run: Run, name: str, goal: str, context: Any) -> Draft:
        """A workflow that is kept under a name: it is given the request, and the context's values by name."""
        inputs = {**(context if isinstance(context, dict) else {"context": context}), GOAL: goal}
        problems: list[Problem] = []
        text = run.state.workflows.get(f"{run.task.tenant}/{name}")
        if text is None:
            return Draft(
                {}, inputs, [Problem("UNKNOWN_WORKFLOW", name, "no workflow of that name is applied")]
            )
        value = read_source(text.source, name, problems)
        return Draft(to_native(value or {}, problems), inputs, problems)

    async def _staff(self, run: Run) -> Staff:
        return await staff_of(self.settings(), run.state, self.local(), self.known, run.load)

    async def _loaded(self, run: Run, draft: Draft) -> Loaded:
        state = run.state
        skills = known_skills(state) | set(self.local())
        kept = {one.name: one.source for one in state.workflows.values() if one.tenant == run.task.tenant}
        entry = state.skillbook.get(CODE)
        known = Known(skills, kept, entry is not None and bool(entry.live))
        nodes = draft.native.get("nodes")
        about = len(nodes) * NODE_CHARS if isinstance(nodes, list) else 0
        name = str(draft.native.get("name") or GOAL)
        return await aside(
            about, lambda: load_native(draft.native, known, name=name, problems=draft.problems)
        )

    async def _drafted(self, run: Run, draft: Draft) -> dict[str, Any]:
        loaded = await self._loaded(run, draft)
        missing = [
            Problem("MISSING_INPUT", "inputs", f"{name}: the workflow needs it, and the request has none")
            for name in loaded.needs
            if name not in draft.inputs
        ]
        problems = [asdict(one) for one in (*loaded.problems, *missing)]
        tasks = [
            {
                "id": node.node_id,
                "type": node.type.value,
                **({"agents": list(node.agents)} if node.agents else {"skill": node.task_type}),
                "depends_on": [edge.node for edge in node.depends_on],
            }
            for node in loaded.graph.nodes
        ]
        return {
            "native": draft.native,
            "inputs": draft.inputs,
            "problems": problems,
            "selection": draft.selection,
            "tasks": tasks,
        }


def routed_to_json(routed: Routed) -> dict[str, Any]:
    """As results tell it."""
    return {
        "rule": routed.rule.name if routed.rule else "",
        "matched": [{"rule": name, "priority": priority} for name, priority in routed.matched],
        "ambiguous": list(routed.ambiguous),
    }


def run_id_of(task_id: TaskId) -> TaskId:
    """The id of the run that carries a goal out."""
    return TaskId(f"{task_id}{RUN_SUFFIX}")


def agent_id(state: ClusterState, name: str) -> str:
    """By any of its names; empty: there is no such agent."""
    entry = find_agent(state.agents, name)
    return entry.agent_id if entry is not None else ""


def _decides(rule: RoutingRule) -> bool:
    return bool(rule.agents or rule.skill or rule.workflow or rule.steps)


def _chosen(rules: tuple[RoutingRule, ...], goal: str, wanted: str) -> Routed:
    """By the patterns, or the rule that was asked for by its name."""
    if not wanted:
        return route(rules, goal)
    found = next((rule for rule in rules if rule.name == wanted), None)
    if found is None:
        known = ", ".join(rule.name for rule in rules[:20]) or "none"
        raise refused("UNKNOWN_RULE", f"rule: there is no {wanted[:80]!r}; there are: {known}")
    return Routed(found, ((found.name, found.priority),))


def _command(run: Run, run_id: TaskId, graph: bytes, inputs: bytes, timeout_ms: int) -> RunWorkflow:
    task = run.task
    submit = SubmitTask(
        task_id=run_id,
        tenant=task.tenant,
        type=WORKFLOW,
        payload=Data(inputs),
        priority=Priority(task.priority),
        retry=task.retry,
        attempt_timeout_ms=task.attempt_timeout_ms,
        deadline_after_ms=timeout_ms,
        labels=task.labels,
        constraints=replace(task.constraints, skill_version=""),  # the revision is one of this skill
        key=task.key,
        agent=task.agent,
        request_id=str(run_id),
        digest=hashlib.sha256(graph + inputs).digest()[:16],
        parent_id=task.task_id,
    )
    return RunWorkflow(submit, graph)


def _graph(loaded: Loaded) -> bytes:
    try:
        return graph_bytes(loaded.graph)
    except ValueFault as fault:
        raise refused("TOO_LARGE", fault.text) from fault


def _refusal(outcome: Rejected) -> Exception:
    known: ApiError = from_rejection(outcome)
    return refused(known.reason, known.message)


def _text(args: Any, name: str) -> str:
    value = args.get(name) if isinstance(args, dict) else None
    if not isinstance(value, str) or not value:
        raise refused("BAD_ARGUMENTS", f"{name}: a text is expected")
    return value
