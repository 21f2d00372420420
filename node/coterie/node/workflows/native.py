"""The native form for people: durations with units, lists that may be single values, types that show by
themselves. `canonical` makes it what the core reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from coterie.core.graph.model import DEPTH_MAX, NODES_MAX, GraphNode, Problem
from coterie.core.graph.near import near
from coterie.node.units import parse_duration_ms
from coterie.node.workflows.source import read_source

Raw = dict[str, Any]
_TIMES = {"timeout": "timeout_ms", "duration": "duration_ms", "total_timeout": "timeout_ms"}
_OTHER_NAMES = {
    "condition": "expr",
    "until": "expr",
    "switch": "expr",
    "if": "when",
    "reduce": "reducer",
    "compensate": "compensates",
    "items": "over",
    "needs": "depends_on",
    "node_id": "id",
    "expected_output": "output_var",
}
_BY_KEY = (
    ("compensates", "compensate"),
    ("max_iterations", "loop"),
    ("reducer", "reduce"),
    ("over", "map"),
    ("cases", "switch"),
    ("expr", "condition"),
    ("signal", "wait"),
    ("duration_ms", "timer"),
    ("skill", "task"),
    ("agents", "agent"),
    ("body", "workflow"),
)
_KNOWN = sorted(
    {field.name for field in fields(GraphNode)} - {*_TIMES.values(), "expr", "reducer", "over", "node_id"}
    | {*_OTHER_NAMES, *_TIMES, "agent", "workflow", "id", "reducer", "over"} - {"total_timeout"}
)
_READ = {*_KNOWN, *_TIMES.values(), *_OTHER_NAMES.values()}
_BACKOFFS = {"max_attempts": "attempts_max", "backoff": "backoff_initial_ms", "max_backoff": "backoff_max_ms"}
_DECLARED = frozenset({"required", "default"})
_DECLARING = _DECLARED | {"type", "description"}
_FROM_ONE = ("max_parallel", "window", "max_attempts", "attempts_max")  # 0 would be the default
_PRIORITIES = {"low": 1, "normal": 2, "high": 3, "critical": 4}


def canonical(native: Raw, problems: list[Problem], workflows: Mapping[str, str] | None) -> Raw:
    """What `coterie.core.graph.reading` reads. `workflows`: sources of those that can be named; None: no
    cluster was asked."""
    try:
        return _Writer(problems, workflows).graph(native, "", 1)
    except _TooManyNodes:
        text = f"more than {NODES_MAX} nodes with those of the workflows it names; use a map, or several runs"
        problems.append(Problem("TOO_LARGE", "workflow", text))
        return {}


class _TooManyNodes(Exception):
    """A few texts that name each other stand for more than a memory holds."""


class _Writer:
    def __init__(self, problems: list[Problem], workflows: Mapping[str, str] | None) -> None:
        self._problems, self._workflows = problems, workflows
        self._read: dict[str, Raw] = {}  # by the name of a workflow: each text is read once
        self._nodes = 0  # of all graphs so far

    def _wrong(self, where: str, text: str, code: str = "BAD_FIELD") -> None:
        self._problems.append(Problem(code, where or "workflow", text))

    def graph(self, value: Any, at: str, depth: int) -> Raw:
        if not isinstance(value, dict):
            self._wrong(at, "a workflow is a mapping with nodes")
            return {}
        found = dict(value)
        nodes = found.get("nodes", [])
        if isinstance(nodes, dict):
            nodes = [{"id": key, **one} if isinstance(one, dict) else one for key, one in nodes.items()]
        if isinstance(nodes, list):
            self._nodes += len(nodes)
            found["nodes"] = [self.node(one, at, depth) if isinstance(one, dict) else one for one in nodes]
        self._times(found, at)
        self._from_one(found, at, "")
        found.update(self._inputs(found, at) if depth == 1 or "inputs" in found else {})
        if isinstance(found.get("on_failure"), str):
            found["on_failure"] = found["on_failure"].replace("_", "-")
        return {key: inner for key, inner in found.items() if inner is not None}

    def node(self, value: Raw, at: str, depth: int) -> Raw:
        found = {_OTHER_NAMES.get(key, key): inner for key, inner in value.items() if inner is not None}
        name = str(found.get("id", ""))
        where = f"{at}.{name}" if at else name
        for key in [key for key in found if key not in _READ]:
            meant = near(str(key), _KNOWN)
            hint = f"did you mean {meant!r}?" if meant else f"known: {', '.join(_KNOWN)}"
            self._wrong(where, f"unknown key {str(key)[:80]!r}; {hint}")
            del found[key]
        self._times(found, where)
        self._from_one(found, where, "")
        self._singles(found, where)
        if "depends_on" in found:
            found["depends_on"] = self._edges(found["depends_on"], where)
        if "retry" in found:
            found["retry"] = self._retry(found["retry"], where)
        self._texts(found, where)
        self._body(found, where, depth)
        if not found.get("type"):
            found["type"] = next((kind for key, kind in _BY_KEY if found.get(key) not in (None, "")), "task")
        return found

    # --- values

    def _times(self, found: Raw, where: str) -> None:
        for name, written in _TIMES.items():
            if name in found:
                try:
                    found[written] = parse_duration_ms(found.pop(name))
                except ValueError as error:
                    self._wrong(where, f"{name}: {error}")

    def _from_one(self, found: Raw, where: str, prefix: str) -> None:
        for name in _FROM_ONE:
            if name in found and found[name] in (0, False):
                self._wrong(where, f"{prefix}{name}: {found.pop(name)} is not a whole number from 1")

    def _singles(self, found: Raw, where: str) -> None:
        """Where a list is meant, one value may stand."""
        if "agent" in found:
            agent = found.pop("agent")
            if "agents" in found:
                self._wrong(where, "has agent and agents; give one of them")
            found.setdefault("agents", [agent])
        for name in ("agents", "cases", "requires"):
            if isinstance(found.get(name), str):
                found[name] = [found[name]]

    def _edges(self, value: Any, where: str) -> Any:
        edges: list[Any] = []
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict) and set(one) == {"node", "when"}:
                edges.append([one["node"], _outcome(one["when"])])
            elif isinstance(one, str) and one.endswith("]") and "[" in one:
                node, _, outcome = one[:-1].partition("[")
                edges.append([node, outcome])
            elif isinstance(one, str | list):
                edges.append(one)
            else:
                self._wrong(where, f"depends_on: {one!r} is not a node id, id[outcome] or {{node, when}}")
        return edges

    def _retry(self, value: Any, where: str) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            value = {"max_attempts": value}
        if not isinstance(value, dict):
            self._wrong(where, f"retry: {value!r} is not a number of attempts or a mapping")
            return {}
        found: Raw = {}
        value = dict(value)
        self._from_one(value, where, "retry.")
        for key, inner in value.items():
            name = _BACKOFFS.get(key, key)
            if name not in _BACKOFFS.values():
                self._wrong(where, f"retry: unknown key {key!r}; known: {', '.join(_BACKOFFS)}")
                continue
            if name == "attempts_max" and (
                isinstance(inner, bool) or not isinstance(inner, int) or inner < 1
            ):
                self._wrong(where, f"retry.{key}: {inner!r} is not a whole number from 1")
                continue
            try:
                found[name] = parse_duration_ms(inner) if key in ("backoff", "max_backoff") else inner
            except ValueError as error:
                self._wrong(where, f"retry.{key}: {error}")
        return found

    def _texts(self, found: Raw, where: str) -> None:
        if isinstance(found.get("when"), bool):
            found["when"] = _outcome(found["when"])
        if isinstance(found.get("expr"), bool):
            found["expr"] = _outcome(found["expr"])
        if isinstance(found.get("cases"), list):
            found["cases"] = [_outcome(case) for case in found["cases"]]
        if isinstance(found.get("priority"), str):
            level = _PRIORITIES.get(found["priority"])
            if level is None:
                self._wrong(where, f"priority {found['priority']!r} is not {', '.join(_PRIORITIES)}")
            found["priority"] = level or 0
        if isinstance(found.get("join"), dict) and set(found["join"]) == {"quorum"}:
            found["join"] = f"quorum({found['join']['quorum']})"
        if isinstance(found.get("join"), str):
            found["join"] = found["join"].replace("_", "-")

    def _inputs(self, found: Raw, at: str) -> Raw:
        """A list of names, or names with defaults; none at all: what nothing provides is an input."""
        inputs = found.get("inputs")
        if inputs is None:
            return {"open_inputs": True}
        if isinstance(inputs, dict):
            for name, given in inputs.items():
                self._declaration(str(name), given, at)
            return {"inputs": [{"name": name, **_declared(given)} for name, given in inputs.items()]}
        if not isinstance(inputs, list):
            self._wrong(at, "inputs: is a list of names, or a mapping of names to defaults")
            return {"inputs": []}
        return {"inputs": [one if isinstance(one, dict) else {"name": str(one)} for one in inputs]}

    def _declaration(self, name: str, given: Any, at: str) -> None:
        """A mapping that looks like a declaration, and is none, would be a default that nobody meant."""
        if isinstance(given, dict) and given.keys() & _DECLARING and not given.keys() <= _DECLARED:
            unknown = sorted(str(key) for key in given.keys() - _DECLARED)
            hint = "known: required, default (a default that is an object stands under default)"
            self._wrong(at, f"inputs.{name}: unknown key {unknown[0]!r}; {hint}")

    # --- graphs inside

    def _body(self, found: Raw, where: str, depth: int) -> None:
        if "workflow" in found:
            found["body"] = self._named(str(found.pop("workflow")), where, depth)
            found.setdefault("type", "workflow")
        elif "body" in found:
            body = found["body"]
            found["body"] = self.graph({"nodes": body} if isinstance(body, list) else body, where, depth + 1)

    def _named(self, name: str, where: str, depth: int) -> Any:
        from coterie.node.workflows.forms import to_native

        if self._workflows is None or name not in self._workflows:
            self._wrong(where, _unknown(name, self._workflows), "UNKNOWN_WORKFLOW")
            return {"nodes": []}
        if depth >= DEPTH_MAX:
            self._wrong(where, f"workflows inside workflows go {DEPTH_MAX} deep at most", "TOO_LARGE")
            return {"nodes": []}
        if self._nodes > NODES_MAX:
            raise _TooManyNodes
        if name not in self._read:
            value = read_source(self._workflows[name], name, self._problems)
            self._read[name] = to_native(value or {}, self._problems)
        return self.graph(self._read[name], where, depth + 1)


def _unknown(name: str, workflows: Mapping[str, str] | None) -> str:
    if workflows is None:
        return f"the workflow {name!r} is looked up in a cluster, and none was asked: --check asks it"
    return f"no workflow {name!r} is applied; known: {', '.join(sorted(workflows)[:20]) or 'none'}"


def _outcome(value: Any) -> Any:
    """YAML's true is the outcome "true"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _declared(given: Any) -> Raw:
    if isinstance(given, dict) and given.keys() <= _DECLARED:
        return {"required": "default" not in given, **given}
    return {"required": given is None, "default": given}
