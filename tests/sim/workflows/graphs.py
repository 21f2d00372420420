"""Random graphs: branches, joins, loops, maps, sub-workflows, handlers; free of problems by construction."""

from __future__ import annotations

import random
from typing import Any

from coterie.core.graph.check import problems_of
from coterie.core.graph.model import Graph
from coterie.core.graph.reading import read_graph

Raw = dict[str, Any]
POLICIES = ("abort", "continue", "skip-dependents", "compensate")


def random_graph(seed: int) -> Graph:
    """The graph of a seed."""
    dice = random.Random(seed)
    raw = _graph(dice, dice.randrange(1, 14), 1)
    raw["on_failure"] = dice.choice(POLICIES)
    raw["max_parallel"] = dice.choice((1, 2, 3, 256))
    raw["inputs"] = [{"name": "n"}]
    if raw["on_failure"] == "compensate":
        undone = [node["id"] for node in raw["nodes"] if node["type"] == "task" and dice.random() < 0.5]
        raw["nodes"] += [
            {"id": f"undo-{name}", "type": "compensate", "compensates": name, "skill": "echo"}
            for name in undone
        ]
    graph, problems = read_graph(raw)
    problems += problems_of(graph)
    serious = [one for one in problems if one.code != "UNREACHABLE"]  # what can never run is skipped
    assert serious == [], serious
    return graph


def _graph(dice: random.Random, count: int, depth: int) -> Raw:
    nodes: list[Raw] = []
    for place in range(count):
        nodes.append(_node(dice, f"n{place}", nodes, depth))
    return {"nodes": nodes}


def _node(dice: random.Random, name: str, before: list[Raw], depth: int) -> Raw:
    node: Raw = {"id": name, "depends_on": _edges(dice, before)}
    kinds = ["task"] * 6 + ["condition", "switch", "agents", "reduce"]
    kinds += ["loop", "map", "workflow"] if depth < 3 else []
    kind = dice.choice(kinds)
    node |= _KINDS[kind](dice, node, depth)
    if node["depends_on"] and dice.random() < 0.15 and depth == 1:
        node["when"] = dice.choice(("failed()", "always()", "skipped() || succeeded()", "!failed()"))
    elif kind != "agents" and len(node["depends_on"]) > 1 and dice.random() < 0.5:
        most = len(node["depends_on"])
        node["join"] = dice.choice(("any", "first", f"quorum({dice.randrange(1, most + 1)})"))
    if dice.random() < 0.1:
        node["critical"] = True
    return node


def _edges(dice: random.Random, before: list[Raw]) -> list[Any]:
    chosen = dice.sample(before, min(len(before), dice.choice((0, 1, 1, 2, 3))))
    edges: list[Any] = []
    for node in chosen:
        outcomes = {"condition": ["true", "false"], "switch": ["0", "1", "default"]}.get(node["type"], [])
        when = dice.choice(outcomes) if outcomes and dice.random() < 0.7 else ""
        edges.append([node["id"], when] if when else node["id"])
    return edges


def _reads(node: Raw) -> Any:
    names = [edge if isinstance(edge, str) else edge[0] for edge in node["depends_on"]]
    return {name: f"{{{{ {name} | null }}}}" for name in names}


def _task(dice: random.Random, node: Raw, depth: int) -> Raw:
    return {"type": "task", "skill": "echo", **({"input": _reads(node)} if dice.random() < 0.5 else {})}


def _condition(dice: random.Random, node: Raw, depth: int) -> Raw:
    return {
        "type": "condition",
        "expr": dice.choice(("true", "false", "size(run.id) > 0", "1 > 2", "run.id + 1")),
    }


def _switch(dice: random.Random, node: Raw, depth: int) -> Raw:
    return {"type": "switch", "expr": dice.choice(("0", "1", "'7'", "1 / 0")), "cases": ["0", "1"]}


def _agents(dice: random.Random, node: Raw, depth: int) -> Raw:
    join = dice.choice(("all", "any", "quorum(2)", "llm-judge"))
    return {"type": "agent", "agents": ["x", "y", "z"], "join": join, "judge": "echo", "skill": "echo"}


def _reduce(dice: random.Random, node: Raw, depth: int) -> Raw:
    reducer = dice.choice(("sum", "count", "list", "max"))
    over = dice.choice(([1, 2, 3], [], ["a", 1]))
    return {"type": "reduce", "over": over, "reducer": reducer}


def _loop(dice: random.Random, node: Raw, depth: int) -> Raw:
    until = dice.choice(("iteration == 2", "true", "iteration == 9", "size(output) >= 0"))
    return {"type": "loop", "expr": until, "max_iterations": 3, "body": _body(dice, depth)}


def _map(dice: random.Random, node: Raw, depth: int) -> Raw:
    over = dice.choice(([], [1], [1, 2, 3, 4]))
    inside = {"skill": "echo"} if dice.random() < 0.6 else {"body": _body(dice, depth)}
    how = dice.choice(("fail", "skip"))
    return {"type": "map", "over": over, "window": dice.choice((1, 2, 64)), "on_item_failure": how, **inside}


def _workflow(dice: random.Random, node: Raw, depth: int) -> Raw:
    return {"type": "workflow", "body": _body(dice, depth)}


def _body(dice: random.Random, depth: int) -> Raw:
    body = _graph(dice, dice.randrange(1, 4), depth + 1)
    return {**body, "on_failure": dice.choice(POLICIES[1:3]), "max_parallel": dice.choice((1, 9))}


_KINDS = {
    "task": _task,
    "condition": _condition,
    "switch": _switch,
    "agents": _agents,
    "reduce": _reduce,
    "loop": _loop,
    "map": _map,
    "workflow": _workflow,
}
