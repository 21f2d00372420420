"""The one written form of a graph: JSON with the field names of the model. Files are turned into it at the
edge, runs carry it, and what is wrong with it is said all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from coterie.core.graph.model import (
    DEPTH_MAX,
    GRAPH_BYTES_MAX,
    PARALLEL_DEFAULT,
    Edge,
    Graph,
    GraphError,
    GraphNode,
    Input,
    Join,
    JoinKind,
    NodeType,
    OnFailure,
    Problem,
    Reducer,
    Retry,
)
from coterie.core.graph.near import near
from coterie.core.graph.values import ValueFault, read_json, write_json
from coterie.core.nouns import make
from coterie.core.shown import shown

E = TypeVar("E", bound=StrEnum)
_NODE_KEYS = frozenset(field.name for field in fields(GraphNode)) - {"node_id"} | {"id"}
_GRAPH_KEYS = frozenset(field.name for field in fields(Graph))
_RETRY_KEYS = frozenset(field.name for field in fields(Retry))
_NUMBER_MAX = 1 << 40
SMALL_BYTES_MAX = 128 << 10  # of a graph of which many are remembered


def graph_of(raw: bytes) -> Graph:
    """The graph that a run carries, which was checked before it was committed; of the latest it is at hand.
    What is read takes some five times as much memory as the bytes. Raises GraphError."""
    return small_graph_of(raw) if len(raw) <= SMALL_BYTES_MAX else large_graph_of(raw)


def _read(raw: bytes) -> Graph:
    try:
        value = read_json(raw)
    except ValueFault as fault:
        raise GraphError((Problem("BAD_FIELD", "workflow", fault.text),)) from fault
    graph, problems = read_graph(value)
    if problems:
        raise GraphError(tuple(problems))
    return graph


small_graph_of = lru_cache(maxsize=64)(_read)
large_graph_of = lru_cache(maxsize=4)(_read)


def read_graph(value: Any) -> tuple[Graph, list[Problem]]:
    """The graph, and everything in its form that cannot be read."""
    reader = _Reader()
    return reader.graph(value, "", 1), reader.problems


def read_nodes(value: Any) -> tuple[tuple[GraphNode, ...], list[Problem]]:
    """Nodes alone, as a planner adds them."""
    reader = _Reader()
    return reader.nodes(value, "nodes", 1), reader.problems


class _Reader:
    """Its methods take the value of a key and the place of it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def _wrong(self, where: str, text: str) -> None:
        self.problems.append(Problem("BAD_FIELD", where, text))

    def graph(self, value: Any, at: str, depth: int) -> Graph:
        if not isinstance(value, dict) or depth > DEPTH_MAX:
            self._wrong(at or "workflow", f"a workflow is a mapping, nested at most {DEPTH_MAX} deep")
            return Graph()
        self._unknown(value, _GRAPH_KEYS, at or "workflow")
        found: dict[str, Any] = {}
        for name, inner in value.items():
            place = f"{at}.{name}" if at else name
            if name == "nodes":
                found[name] = self.nodes(inner, place, depth)
            elif (read := _OF_GRAPH.get(name)) is not None:
                found[name] = read(self, inner, place)
        found["max_parallel"] = found.get("max_parallel") or PARALLEL_DEFAULT
        return Graph(**found)

    def nodes(self, value: Any, at: str, depth: int) -> tuple[GraphNode, ...]:
        if not isinstance(value, list):
            self._wrong(at, "is a list of nodes")
            return ()
        found = []
        for number, one in enumerate(value):
            place = f"{at}[{number}]"
            if isinstance(one, dict):
                place = _place(one, at) or place
                found.append(self._node(one, place, depth))
            else:
                self._wrong(place, "a node is a mapping")
        return tuple(found)

    def _node(self, value: dict[str, Any], at: str, depth: int) -> GraphNode:
        if not value.keys() <= _NODE_KEYS:
            self._unknown(value, _NODE_KEYS, at)
        found: dict[str, Any] = {"node_id": ""}
        for name, inner in value.items():
            if name == "body":
                found[name] = self.graph(inner, f"{at}.body", depth + 1) if inner is not None else None
            elif (read := _OF_NODE.get(name)) is not None:
                found["node_id" if name == "id" else name] = read(self, inner, f"{at}.{name}")
        return make(GraphNode, **found)

    # --- values

    def _unknown(self, value: Mapping[str, Any], known: frozenset[str], at: str) -> None:
        for key in value:
            if key not in known:
                meant = near(str(key), sorted(known))
                hint = f"; did you mean {shown(meant)}?" if meant else f"; known: {', '.join(sorted(known))}"
                self._wrong(at, f"unknown key {shown(key)}{hint}")

    def text(self, value: Any, at: str) -> str:
        if isinstance(value, str):
            return value
        self._wrong(at, f"{shown(value)} is not a text")
        return ""

    def number(self, value: Any, at: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _NUMBER_MAX:
            return value
        self._wrong(at, f"{shown(value)} is not a whole number from 0")
        return 0

    def texts(self, value: Any, at: str) -> tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return tuple(value)
        self._wrong(at, f"{shown(value)} is not a list of texts")
        return ()

    def flag(self, value: Any, at: str) -> bool:
        if not isinstance(value, bool):
            self._wrong(at, f"{shown(value)} is not true or false")
        return value is True

    def json(self, value: Any, at: str) -> str:
        if value is None:
            return ""
        try:
            return write_json(value).decode()
        except (ValueFault, ValueError, TypeError) as error:
            self._wrong(at, str(error))
            return ""

    def one(self, kind: type[E], value: Any, at: str) -> E:
        try:
            return kind(value)
        except ValueError:
            self._wrong(at, f"{shown(value)} is not one of {', '.join(kind)}")
            return next(iter(kind))

    def type(self, value: Any, at: str) -> NodeType:
        known = _TYPES.get(value) if isinstance(value, str) else None
        return known or self.one(NodeType, value, at)

    def reducer(self, value: Any, at: str) -> Reducer | None:
        return self.one(Reducer, value, at) if value else None

    def on_failure(self, value: Any, at: str) -> OnFailure:
        return self.one(OnFailure, value, at)

    def edges(self, value: Any, at: str) -> tuple[Edge, ...]:
        if not isinstance(value, list):
            self._wrong(at, "is a list of node ids, or of [id, outcome]")
            return ()
        edges = {}
        for one in value:
            if isinstance(one, str):
                edges[one, ""] = Edge(one)
            elif isinstance(one, list) and len(one) == 2 and all(isinstance(part, str) for part in one):
                edges[one[0], one[1]] = Edge(one[0], one[1])
            else:
                self._wrong(at, f"{shown(one)} is neither a node id nor [id, outcome]")
        return tuple(edges.values())

    def join(self, value: Any, at: str) -> Join:
        text = value if isinstance(value, str) else ""
        kind, bracket, rest = text.partition("(")
        count = rest.removesuffix(")")
        if kind == "quorum" and bracket and count.isascii() and count.isdecimal():
            return Join(JoinKind.QUORUM, int(count[:9]))
        if kind in ("quorum", "") or bracket:
            self._wrong(at, f"{shown(value)} is not all, any, first, quorum(k) or llm-judge")
            return Join()
        return Join(self.one(JoinKind, text, at))

    def retry(self, value: Any, at: str) -> Retry:
        if not isinstance(value, dict):
            self._wrong(at, "is a mapping of attempts_max, backoff_initial_ms, backoff_max_ms")
            return Retry()
        self._unknown(value, _RETRY_KEYS, at)
        return Retry(**{name: self.number(value.get(name, 0), f"{at}.{name}") for name in _RETRY_KEYS})

    def inputs(self, value: Any, at: str) -> tuple[Input, ...]:
        if not isinstance(value, list):
            self._wrong(at, "is a list of {name, required, default}")
            return ()
        inputs = []
        for number, one in enumerate(value):
            if not isinstance(one, dict) or not isinstance(one.get("name"), str):
                self._wrong(f"{at}[{number}]", "needs a name")
                continue
            self._unknown(one, frozenset({"name", "required", "default"}), f"{at}[{number}]")
            default = self.json(one.get("default"), f"{at}[{number}].default") or "null"
            inputs.append(Input(one["name"], one.get("required") is not False, default))
        return tuple(inputs)


def _place(node: Mapping[str, Any], at: str) -> str:
    """A node is named by its id, after those of the nodes it is inside of; empty: it has none."""
    name = node.get("id")
    inside = at.removesuffix("nodes").removesuffix("body.")
    return f"{inside}{name}" if isinstance(name, str) and name else ""


_TYPES = {kind.value: kind for kind in NodeType}
_Read = Callable[[_Reader, Any, str], Any]
_OF_GRAPH: dict[str, _Read] = {
    "name": _Reader.text,
    "inputs": _Reader.inputs,
    "open_inputs": _Reader.flag,
    "outputs": _Reader.json,
    "on_failure": _Reader.on_failure,
    "max_parallel": _Reader.number,
    "timeout_ms": _Reader.number,
    "entry_points": _Reader.texts,
    "execution_order": _Reader.texts,
}
_OF_NODE: dict[str, _Read] = {
    "id": _Reader.text,
    "type": _Reader.type,
    "input": _Reader.json,
    "over": _Reader.json,
    "depends_on": _Reader.edges,
    "critical": _Reader.flag,
    "join": _Reader.join,
    "retry": _Reader.retry,
    "reducer": _Reader.reducer,
    **dict.fromkeys(("name", "skill", "output_var", "when", "expr", "signal"), _Reader.text),
    **dict.fromkeys(("compensates", "judge", "on_item_failure"), _Reader.text),
    **dict.fromkeys(("timeout_ms", "max_iterations", "window", "duration_ms", "priority"), _Reader.number),
    **dict.fromkeys(("agents", "cases", "requires"), _Reader.texts),
}


# --- writing


def write_graph(graph: Graph) -> dict[str, Any]:
    """What `read_graph` reads again; defaults are left out."""
    return _written(graph, Graph())


def graph_bytes(graph: Graph) -> bytes:
    """As a run carries it; equal graphs give equal bytes. Raises ValueFault VALUE_TOO_LARGE."""
    return write_json(write_graph(graph), GRAPH_BYTES_MAX)


def write_node(node: GraphNode) -> dict[str, Any]:
    """What a node holds beyond its defaults."""
    held = sorted(node.__dict__.items())
    return {"id" if name == "node_id" else name: _plain(name, value) for name, value in held}


def _written(record: Any, plain: Any) -> dict[str, Any]:
    names = [field.name for field in fields(record)]
    changed = [name for name in names if getattr(record, name) != getattr(plain, name)]
    return {name: _plain(name, getattr(record, name)) for name in changed}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Graph):
        return write_graph(value)
    if isinstance(value, Retry):
        return _written(value, Retry())
    if isinstance(value, Join):
        return f"quorum({value.count})" if value.kind is JoinKind.QUORUM else value.kind.value
    if name in ("input", "over", "outputs"):
        return read_json(value)
    if name == "nodes":
        return [write_node(node) for node in value]
    if name == "depends_on":
        return [[edge.node, edge.when] if edge.when else edge.node for edge in value]
    if name == "inputs":
        return [
            {"name": one.name, "required": one.required, "default": read_json(one.default)} for one in value
        ]
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, StrEnum) else value
