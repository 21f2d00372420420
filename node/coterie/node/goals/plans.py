"""From what a rule says, or a language model has planned, to a workflow in the native form.

What people and models wrote is data. Nothing of it becomes a reference, a template or an expression: texts of
a request travel as inputs of the run, and so does every text of a plan that looks like a reference. The
references in a workflow are written here, from ids and paths of which every character is checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.core.bidding import winner
from coterie.core.graph.model import Problem
from coterie.core.graph.near import near
from coterie.core.graph.refs import OPEN
from coterie.node.config.goal_settings import RoutingRule
from coterie.node.goals.candidates import bid_to_json
from coterie.node.goals.staff import Staff

TEXT_CHARS_MAX = 20_000
DEPTH_MAX = 20
CAPABILITIES_MAX, CAPABILITY_CHARS_MAX = 64, 1_000  # of a task; of one
GOAL, CONTEXT, GIVEN = "goal", "context", "given"  # inputs of the run
LLM = "llm"
KEYS = ("id", "name", "description", "dependencies", "capabilities", "skill", "agent", "input", "critical")
HINTS = frozenset({"parallel", "estimated_time"})  # the dependencies say it, and nothing asks for it
ALSO_CALLED = {"depends_on": "dependencies", "prompt": "description", "task": "description"}
_PATH = re.compile(
    r"(?:[A-Za-z_][A-Za-z0-9_]{0,63}|[0-9]{1,6})(?:\.(?:[A-Za-z_][A-Za-z0-9_]{0,63}|[0-9]{1,6})){0,9}"
)

Raw = dict[str, Any]


@dataclass(slots=True)
class Draft:
    """A workflow in the native form with the inputs of its run, and how its agents were chosen."""

    native: Raw
    inputs: Raw
    problems: list[Problem] = field(default_factory=list)
    selection: list[Raw] = field(default_factory=list)


# --- by a rule


def by_rule(rule: RoutingRule, goal: str, context: Any, staff: Staff, aliases: Callable[[str], str]) -> Draft:
    """The rule names agents, a skill or steps. `aliases`: the id of an agent by any of its names."""
    inputs: Raw = {GOAL: goal, CONTEXT: context}
    if rule.steps:
        return Draft(_stepwise(rule, json.loads(rule.steps)), inputs)
    if rule.skill:
        given = json.loads(rule.input) if rule.input else _ref(GOAL)
        return Draft(_alone({"id": "task", "skill": rule.skill, "input": given}), inputs)
    draft = Draft({}, inputs)
    names = [aliases(name) or name for name in rule.agents]
    agent = names[0] if len(names) == 1 else _awarded(draft, staff, "task", [goal], names)
    node = {"id": "task", "agent": agent, "input": {"prompt": _ref(GOAL), "context": _ref(CONTEXT)}}
    draft.native = _alone(node)
    return draft


def _alone(node: Raw) -> Raw:
    return {"name": GOAL, "inputs": [GOAL, {"name": CONTEXT, "required": False}], "nodes": [node]}


def _stepwise(rule: RoutingRule, steps: list[Raw]) -> Raw:
    """`{agent | skill, step, task, depends_on, timeout}`: each step sees the request and what came before."""
    nodes = []
    ids = [_step_id(step.get("step", place)) for place, step in enumerate(steps, 1)]
    for step_id, step in zip(ids, steps, strict=True):
        found = {name: value for name, value in step.items() if name not in ("step", "task", "input")}
        if "depends_on" in step:
            found["depends_on"] = _steps_behind(step["depends_on"])
        behind = [one for one in found.get("depends_on", []) if isinstance(one, str)]
        results = {one: _ref(f"r{ids.index(one)}", "null") for one in behind if one in ids}
        task = step.get("task", rule.name)
        given = step.get(
            "input", {"task": task, GOAL: _ref(GOAL), CONTEXT: _ref(CONTEXT), "results": results}
        )
        nodes.append({"id": step_id, "output_var": f"r{ids.index(step_id)}", "input": given, **found})
    workflow: Raw = {"name": rule.name[:64], "nodes": nodes}
    workflow["inputs"] = [GOAL, {"name": CONTEXT, "required": False}]
    if rule.on_failure:
        workflow["on_failure"] = rule.on_failure
    return workflow


def _steps_behind(given: Any) -> list[Any]:
    """By their ids or numbers, one or several; what is neither is left for the check of the workflow."""
    listed = given if isinstance(given, list) else [] if given is None else [given]
    return [_step_id(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in listed]


def _step_id(given: Any) -> str:
    return f"step-{given}" if isinstance(given, int) else str(given)


# --- by a model


def by_plan(plan: Any, goal: str, context: Any, staff: Staff, tasks_max: int) -> Draft:
    """`plan` is what the model wrote, as JSON; everything wrong with it is said."""
    draft = Draft({}, {GOAL: goal, CONTEXT: context, GIVEN: []})
    tasks = plan.get("tasks") if isinstance(plan, dict) else None
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        draft.problems.append(Problem("BAD_FIELD", "tasks", "is a list of objects"))
        return draft
    if len(tasks) > tasks_max:
        draft.problems.append(Problem("TOO_LARGE", "tasks", f"{len(tasks)} tasks, at most {tasks_max}"))
        return draft
    writer = _Writer(draft, staff, tasks)
    names = [GOAL, {"name": CONTEXT, "required": False}, GIVEN]
    nodes = [writer.node(place, task) for place, task in enumerate(tasks)]
    draft.native = {"name": GOAL, "inputs": names, "nodes": nodes, "on_failure": "skip-dependents"}
    return draft


def wants_of(plan: Any, tasks_max: int) -> tuple[int, int]:
    """How many tasks want an agent by what it can do, and how much they want in all."""
    tasks = plan.get("tasks") if isinstance(plan, dict) else None
    given = (
        [one.get("capabilities") for one in tasks if isinstance(one, dict)] if isinstance(tasks, list) else []
    )
    wants = [len(one) for one in given[:tasks_max] if one and _are_wants(one)]
    return len(wants), sum(wants)


def _are_wants(given: Any) -> bool:
    listed = isinstance(given, list) and len(given) <= CAPABILITIES_MAX
    return listed and all(isinstance(one, str) and len(one) <= CAPABILITY_CHARS_MAX for one in given)


class _Writer:
    def __init__(self, draft: Draft, staff: Staff, tasks: Sequence[Mapping[str, Any]]) -> None:
        self._draft, self._staff = draft, staff
        self._places = {str(task.get("id", "")): place for place, task in reversed(list(enumerate(tasks)))}

    def node(self, place: int, task: Mapping[str, Any]) -> Raw:
        where = str(task.get("id", "")) or f"tasks[{place}]"
        self._keys(task, where)
        behind = self._behind(task, where)
        node: Raw = {"id": str(task.get("id", "")), "output_var": f"r{place}", "depends_on": behind}
        if task.get("critical") is True:
            node["critical"] = True
        about = self._about(task, where)
        node |= self._worker(task, where, about)
        results = {
            f"{name}": _ref(f"r{self._places[name]}", "null") for name in behind if name in self._places
        }
        node["input"] = self._input(node, task, where, behind, about, results)
        return node

    def _wrong(self, where: str, text: str, code: str = "BAD_FIELD") -> None:
        self._draft.problems.append(Problem(code, where, text))

    def _keys(self, task: Mapping[str, Any], where: str) -> None:
        """What is not understood may be what makes it wrong: the model writes it as it was told."""
        for key in task:
            if key not in KEYS and key not in HINTS:
                meant = ALSO_CALLED.get(str(key)) or near(str(key), KEYS)
                hint = f"did you mean {meant!r}?" if meant else f"known: {', '.join(KEYS)}"
                self._wrong(where, f"unknown key {str(key)[:80]!r}; {hint}")

    def _behind(self, task: Mapping[str, Any], where: str) -> list[str]:
        given = task.get("dependencies", [])
        given = [given] if isinstance(given, str) else given
        if isinstance(given, list) and all(isinstance(one, str) and "[" not in one for one in given):
            return list(dict.fromkeys(given))
        self._wrong(where, f"dependencies: {given!r} is not a list of ids of tasks")
        return []

    def _about(self, task: Mapping[str, Any], where: str) -> str:
        text = task.get("description") or task.get("name") or ""
        if not isinstance(text, str) or not text.strip() or len(text) > TEXT_CHARS_MAX:
            self._wrong(where, f"description: a text of 1 to {TEXT_CHARS_MAX} characters is expected")
            return where
        return text

    # --- who does it

    def _worker(self, task: Mapping[str, Any], where: str, about: str) -> Raw:
        agent, skill = task.get("agent") or "", task.get("skill") or ""
        wanted = task.get("capabilities") or []
        if agent:
            known = [one.agent_id for one in self._staff.candidates]
            if agent not in known:
                said = ", ".join(known[:50]) or "none"
                self._wrong(
                    where, f"agent: there is no {str(agent)[:80]!r}; there are: {said}", "UNKNOWN_AGENT"
                )
            return {"agent": str(agent)}
        if skill:
            if skill not in self._staff.skills:
                said = ", ".join(self._staff.skills[:50]) or "none"
                text = f"skill: {str(skill)[:80]!r} may not be used; there are: {said}"
                self._wrong(where, text, "UNKNOWN_SKILL")
            return {"skill": str(skill)}
        if not _are_wants(wanted):
            most = f"at most {CAPABILITIES_MAX} texts of {CAPABILITY_CHARS_MAX} characters"
            self._wrong(where, f"capabilities: is a list of {most}")
            return {"skill": LLM}
        if wanted and (chosen := _awarded(self._draft, self._staff, where, wanted)):
            return {"agent": chosen}
        return {"skill": LLM}

    # --- what it is given

    def _input(
        self,
        node: Raw,
        task: Mapping[str, Any],
        where: str,
        behind: Sequence[str],
        about: str,
        results: Raw,
    ) -> Any:
        given = task.get("input")
        own = self._written(given, where, frozenset(behind)) if given not in (None, {}, "") else None
        if "agent" in node:
            more = {"input": own} if own is not None else {}
            return {
                "task": self._given(about),
                GOAL: _ref(GOAL),
                CONTEXT: _ref(CONTEXT),
                "results": results,
                **more,
            }
        if node.get("skill") == LLM and not (isinstance(own, dict) and {"prompt", "messages"} & own.keys()):
            context = {GOAL: _ref(GOAL), CONTEXT: _ref(CONTEXT), "results": results, "input": own}
            return {"prompt": self._given(about), CONTEXT: context}
        return own if own is not None else {"task": self._given(about), "results": results}

    def _given(self, text: str) -> str:
        """A text that is data: where it looks like a reference, one to itself."""
        if OPEN not in text:
            return text
        texts = self._draft.inputs[GIVEN]
        texts.append(text)
        return f"{{{{ {GIVEN}[{len(texts) - 1}] }}}}"

    def _written(self, value: Any, where: str, behind: frozenset[str], depth: int = 0) -> Any:
        """The value with its texts as data, and `{"result_of": id, "path": "a.b"}` as references."""
        if depth > DEPTH_MAX:
            self._wrong(where, f"input: deeper than {DEPTH_MAX}")
            return None
        if isinstance(value, str):
            return self._given(value)
        if isinstance(value, list):
            return [self._written(one, where, behind, depth + 1) for one in value]
        if not isinstance(value, dict):
            return value
        if "result_of" in value and value.keys() <= {"result_of", "path"}:
            return self._result_of(value, where, behind)
        if any(OPEN in key for key in value):
            self._wrong(where, "input: a key holds {{")
            return None
        return {key: self._written(one, where, behind, depth + 1) for key, one in value.items()}

    def _result_of(self, value: Mapping[str, Any], where: str, behind: frozenset[str]) -> Any:
        name, path = value.get("result_of"), value.get("path") or ""
        if not isinstance(name, str) or name not in behind or name not in self._places:
            self._wrong(where, f"input: result_of {str(name)[:80]!r} is not one of its dependencies")
            return None
        if not isinstance(path, str) or (path and not _PATH.fullmatch(path)):
            self._wrong(where, f"input: path {str(path)[:80]!r} is not like answer, or rows.0.name")
            return None
        parts = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".") if part)
        return _ref(f"r{self._places[name]}{parts}")


def _awarded(draft: Draft, staff: Staff, where: str, wanted: Sequence[str], among: Sequence[str] = ()) -> str:
    """Announce, take bids, award: all of it is kept."""
    offers = staff.bids(wanted, among)
    chosen = winner(offers)
    shown = [bid_to_json(bid) for bid in offers[:50]]
    said = {"task": where, "wanted": list(wanted), "strategy": staff.selection.value, "winner": chosen}
    draft.selection.append({**said, "bids": shown})
    if not chosen and among:
        text = f"none of {', '.join(among)} takes it: they are unknown or paused"
        draft.problems.append(Problem("NO_AGENT", where, text))
    return chosen or (among[0] if among else "")


def _ref(path: str, default: str = "") -> str:
    return f"{{{{ {path} | {default} }}}}" if default else f"{{{{ {path} }}}}"
