"""The forms in which workflows come, each brought into the native one:

- a routing rule: `workflow:` is a list of `agent, step, task, depends_on, timeout`;
- steps: `workflow: NAME`, `steps:` of `id, name, agent(s), inputs, skills, expected_output, …`;
- steps: `workflow: NAME`, `steps:` of `id, name, agent(s), inputs, skills, expected_output, ...`;
- DAG nodes: `workflow_id, nodes: [{node_id, node_type, config, depends_on, output_var}], entry_points`;
- a decomposition: `tasks: [{id, name, skill, description, dependencies}]`, or `subtasks` by name;
- native: `nodes:`, as docs/workflows.md says."""

import re
from collections.abc import Callable
from typing import Any

from coterie.core.graph.model import Problem

Raw = dict[str, Any]


def to_native(value: Raw, problems: list[Problem], rule: str = "") -> Raw:
    """The native form of any of them."""
    if isinstance(value.get("routing_rules"), list):
        value = _chosen_rule(value["routing_rules"], rule, problems)
    for fits, convert in _FORMS:
        if fits(value):
            return convert(value, problems)
    return value


def _chosen_rule(rules: list[Any], wanted: str, problems: list[Problem]) -> Raw:
    found = {
        str(rule.get("name")): rule
        for rule in rules
        if isinstance(rule, dict) and isinstance(rule.get("workflow"), list)
    }
    if wanted in found or len(found) == 1:
        return found[wanted] if wanted in found else next(iter(found.values()))
    names = ", ".join(found) or "none"
    problems.append(
        Problem("BAD_FIELD", "routing_rules", f"name the rule that is meant; with a workflow: {names}")
    )
    return {}


def _items(value: Any, where: str, problems: list[Problem]) -> list[Raw]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        problems.append(Problem("BAD_FIELD", where, "is a list of mappings"))
        return []
    return value


def _kept(value: Raw, names: tuple[str, ...], where: str, problems: list[Problem]) -> Raw:
    """The values of known keys; others are reported."""
    known = ", ".join(names)
    unknown = [key for key in value if key not in names]
    problems += [Problem("BAD_FIELD", where, f"unknown key {key!r}; known: {known}") for key in unknown]
    return {name: value[name] for name in names if value.get(name) is not None}


def _renamed(value: Raw, names: dict[str, str]) -> Raw:
    return {names.get(key, key): inner for key, inner in value.items()}


# --- a routing rule


def _from_rule(value: Raw, problems: list[Problem]) -> Raw:
    names = ("name", "pattern", "workflow", "priority", "timeout", "agents", "on_failure", "max_parallel")
    rule = _kept(value, names, "workflow", problems)
    nodes = []
    for place, step in enumerate(_items(rule["workflow"], "workflow", problems)):
        where = f"workflow[{place}]"
        found = _kept(step, ("agent", "agents", "step", "task", "depends_on", "timeout"), where, problems)
        number = found.pop("step", place + 1)
        found["id"] = f"step-{number}" if isinstance(number, int) else str(number)
        nodes.append(_with_task(found))
    for_the_run = ("name", "timeout", "on_failure", "max_parallel")
    kept: Raw = {key: rule[key] for key in for_the_run if key in rule}
    return {**kept, "nodes": nodes}


def _with_task(node: Raw) -> Raw:
    """What an agent is asked to do is its name for people, and part of its input."""
    task = node.pop("task", "")
    given = node.get("input") if isinstance(node.get("input"), dict) else {}
    return {"name": task, **node, "input": {"task": task, **(given or {})}} if task else node


# --- steps


_STEP = (
    *("id", "name", "agent", "agents", "task", "inputs", "skills", "expected_output", "timeout"),
    *("depends_on", "join", "critical", "when", "retry", "type", "skill", "input", "judge", "priority"),
)


def _from_steps(value: Raw, problems: list[Problem]) -> Raw:
    names = ("workflow", "name", "steps", "total_timeout", "timeout", "inputs", "outputs", "on_failure")
    found = _kept(value, (*names, "max_parallel"), "workflow", problems)
    nodes = []
    for place, step in enumerate(_items(found.pop("steps", None), "steps", problems)):
        kept = _kept(step, _STEP, f"steps[{place}]", problems)
        named = kept.pop("inputs", [])
        names_ = named if isinstance(named, list) else [named]
        inputs = {str(name): f"{{{{ {name} }}}}" for name in names_}
        given = kept.get("input") if isinstance(kept.get("input"), dict) else {}
        task = kept.pop("task", "") or kept.get("name", "")
        node = _renamed(kept, {"skills": "requires", "expected_output": "output_var"})
        nodes.append({**node, "input": {**({"task": task} if task else {}), **inputs, **(given or {})}})
    renamed = _renamed(found, {"workflow": "name", "total_timeout": "timeout"})
    return {**renamed, "nodes": nodes}


# --- DAG nodes

_BRACED = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.]*)\s*\}\}")
_CONFIG = {"prompt": "input", "args": "input", "tool_name": "skill", "condition": "expr", "code": "input"}


def _from_dag(value: Raw, problems: list[Problem]) -> Raw:
    names = ("workflow_id", "name", "nodes", "entry_points", "inputs", "outputs", "timeout", "on_failure")
    found = _kept(value, (*names, "max_parallel"), "workflow", problems)
    nodes = []
    for place, one in enumerate(_items(found.pop("nodes", None), "nodes", problems)):
        where = f"nodes[{place}]"
        kept = _kept(one, ("node_id", "node_type", "config", "depends_on", "output_var"), where, problems)
        config = kept.pop("config", {})
        node = {"id": kept.get("node_id", ""), "type": kept.get("node_type", "")}
        node |= {key: kept[key] for key in ("depends_on", "output_var") if key in kept}
        nodes.append({**node, **_configured(config if isinstance(config, dict) else {}, node["type"])})
    name = found.pop("workflow_id", "")
    return {"name": name, **found, "nodes": nodes}


_OF_LLM = (  # what the skill `llm` takes beside a prompt
    *("model", "temperature", "max_tokens", "schema", "system", "context", "messages"),
    *("cache_ttl", "budget"),
)


def _configured(config: Raw, kind: str) -> Raw:
    """A node's config: the keys of the native form, and the names that DAG nodes have for some of them."""
    if kind == "llm":
        model = {key: config[key] for key in _OF_LLM if key in config}
        rest = {key: inner for key, inner in config.items() if key not in model and key != "prompt"}
        return {**rest, "input": {"prompt": config.get("prompt", ""), **model}}
    if kind == "code":
        rest = {key: inner for key, inner in config.items() if key != "code"}
        return {**rest, "input": {"code": config.get("code", "")}}
    found = _renamed(config, _CONFIG)
    if isinstance(
        found.get("expr"), str
    ):  # a name in braces is a name: nothing is ever pasted into a condition
        found["expr"] = _BRACED.sub(r"\1", found["expr"])
    return found


# --- decompositions


def _from_tasks(value: Raw, problems: list[Problem]) -> Raw:
    names = ("name", "tasks", "execution_order", "estimated_time", "on_failure", "timeout", "max_parallel")
    found = _kept(value, names, "workflow", problems)
    nodes = []
    for place, one in enumerate(_items(found.pop("tasks", None), "tasks", problems)):
        keys = (
            "id",
            "name",
            "skill",
            "description",
            "dependencies",
            "parallel",
            "input",
            "agent",
            "critical",
        )
        kept = _kept(one, keys, f"tasks[{place}]", problems)
        kept.pop("parallel", None)  # a hint: the dependencies say it
        node = _renamed(kept, {"dependencies": "depends_on"})
        nodes.append(_described(node))
    found.pop("estimated_time", None)  # a hint
    return {**found, "nodes": nodes}


def _described(node: Raw) -> Raw:
    text = node.pop("description", "")
    given = node.get("input") if isinstance(node.get("input"), dict) else {}
    if given and node.get("skill"):  # nothing beside it: the skill may refuse that
        return node
    task = {"task": text or node.get("name", "")}
    return {**node, "input": {**task, **(given or {})}}


def _from_subtasks(value: Raw, problems: list[Problem]) -> Raw:
    """Subtasks name each other, so a name must be one subtask's alone."""
    found = _kept(value, ("name", "subtasks", "on_failure", "timeout"), "workflow", problems)
    subtasks = _items(found.pop("subtasks", None), "subtasks", problems)
    ids = {str(one.get("name")): f"task_{place}" for place, one in reversed(list(enumerate(subtasks, 1)))}
    nodes = []
    for place, one in enumerate(subtasks, 1):
        where, name = f"subtasks[{place - 1}]", str(one.get("name"))
        if ids[name] != f"task_{place}":
            problems.append(
                Problem("DUPLICATE_ID", where, f"the name {name!r} is that of {ids[name]} too; rename one")
            )
        keys = ("name", "description", "role", "dependencies", "input", "output")
        kept = _kept(one, keys, where, problems)
        behind = kept.pop("dependencies", [])
        node = {"id": f"task_{place}", "depends_on": [ids.get(str(name), str(name)) for name in behind]}
        kept.pop("output", None)  # what is expected, said in words
        nodes.append(_described({**_renamed(kept, {"role": "agent"}), **node}))
    return {**found, "nodes": nodes}


def _first_has(value: Raw, items: str, key: str) -> bool:
    nodes = value.get(items)
    return isinstance(nodes, list) and bool(nodes) and isinstance(nodes[0], dict) and key in nodes[0]


_FORMS: tuple[tuple[Callable[[Raw], bool], Callable[[Raw, list[Problem]], Raw]], ...] = (
    (lambda value: isinstance(value.get("workflow"), list), _from_rule),
    (lambda value: "steps" in value, _from_steps),
    (lambda value: "workflow_id" in value or _first_has(value, "nodes", "node_id"), _from_dag),
    (lambda value: "tasks" in value, _from_tasks),
    (lambda value: "subtasks" in value, _from_subtasks),
)
