"""How a graph would run, as text and as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coterie.core.graph.flow import Flow
from coterie.core.graph.model import BRANCHING, BY_SKILL, Graph, GraphNode, NodeType

MERMAID_NODES_MAX = 500


@dataclass(frozen=True, slots=True)
class Plan:
    """A view only: nodes start as soon as what they stand on is done, not stage by stage."""

    stages: tuple[tuple[str, ...], ...]
    critical_path: tuple[str, ...]
    critical_ms: int  # what the timeouts along it add up to; 0: some have none
    widest: int  # nodes of the largest stage


def plan_of(graph: Graph) -> Plan:
    """The plan of a graph without problems."""
    flow = Flow(graph)
    stages = tuple(tuple(stage) for stage in flow.generations)
    path = _critical_path(flow)
    times = [span_ms(flow.nodes[name]) for name in path]
    total = sum(times) if all(times) else 0
    return Plan(stages, path, total, max((len(stage) for stage in stages), default=0))


def span_ms(node: GraphNode) -> int:
    """How long a node may take, as far as it says so."""
    if node.type is NodeType.TIMER:
        return node.duration_ms
    rounds = node.max_iterations if node.type is NodeType.LOOP else 1
    inside = plan_of(node.body).critical_ms if node.body is not None else 0
    return node.timeout_ms or inside * rounds


def _critical_path(flow: Flow) -> tuple[str, ...]:
    """The path that may take longest; where no node says how long, the one of most nodes."""
    best: dict[str, tuple[int, int, str]] = {}
    for name in flow.topological:
        before = [(*best[one][:2], one) for one in flow.digraph.predecessors(name)]
        first: tuple[int, int, str] = (0, 0, "")
        ms, count, through = max(before, key=lambda one: (one[0], one[1], -flow.order[one[2]]), default=first)
        best[name] = (ms + span_ms(flow.nodes[name]), count + 1, through)
    end = max(best, key=lambda name: (best[name][0], best[name][1], -flow.order[name]), default="")
    path = []
    while end:
        path.append(end)
        end = best[end][2]
    return tuple(reversed(path))


def text_of(graph: Graph, plan: Plan) -> str:
    """The plan for a terminal."""
    nodes = {node.node_id: node for node in graph.nodes}
    head = f"{graph.name or 'workflow'}: {len(nodes)} nodes, {len(plan.stages)} stages, widest {plan.widest}"
    lines = [head]
    for number, stage in enumerate(plan.stages, 1):
        lines.append(f"stage {number}")
        lines += [f"  {_line(nodes[name])}" for name in stage]
    lines.append(f"critical path: {' -> '.join(plan.critical_path)}" + _allowed(plan))
    return "\n".join(lines)


def _allowed(plan: Plan) -> str:
    return f" ({plan.critical_ms / 1000:g} s by its timeouts)" if plan.critical_ms else ""


def _line(node: GraphNode) -> str:
    by = node.task_type if node.type in BY_SKILL or node.skill else ""
    agents = f" by {', '.join(node.agents)}" if node.agents else ""
    joined = "" if node.join.kind.value == "all" else f" join {node.join.kind.value}"
    after = [f"{edge.node}[{edge.when}]" if edge.when else edge.node for edge in node.depends_on]
    behind = f" <- {', '.join(after)}" if after else ""
    limit = f" timeout {node.timeout_ms / 1000:g} s" if node.timeout_ms else ""
    return f"{node.node_id} ({node.type.value}{' ' + by if by else ''}){agents}{joined}{behind}{limit}"


def mermaid_of(graph: Graph, styles: Mapping[str, str] | None = None) -> str:
    """A flowchart; `styles` gives the class of each node, such as its state."""
    lines = ["flowchart TD"]
    shown = graph.nodes[:MERMAID_NODES_MAX]
    names = {node.node_id: f"n{place}" for place, node in enumerate(shown)}
    for node in shown:
        opened, closed = _shape(node)
        label = _quoted(f"{node.node_id}: {node.name}" if node.name else node.node_id)
        style = f":::{styles[node.node_id]}" if styles and node.node_id in styles else ""
        lines.append(f'    {names[node.node_id]}{opened}"{label}"{closed}{style}')
    for node in shown:
        for edge in node.depends_on:
            arrow = f'-->|"{_quoted(edge.when)}"|' if edge.when else "-->"
            lines.append(f"    {names.get(edge.node, 'unknown')} {arrow} {names[node.node_id]}")
        if node.compensates:
            lines.append(f"    {names.get(node.compensates, 'unknown')} -.->|undo| {names[node.node_id]}")
    if len(graph.nodes) > len(shown):
        lines.append(f'    more["… {len(graph.nodes) - len(shown)} more"]')
    return "\n".join(lines)


def _shape(node: GraphNode) -> tuple[str, str]:
    if node.type in BRANCHING:
        return "{", "}"
    if node.type in (NodeType.LOOP, NodeType.MAP, NodeType.WORKFLOW):
        return "[[", "]]"
    if node.type in (NodeType.WAIT, NodeType.TIMER):
        return "([", "])"
    return "[", "]"


def _quoted(text: str) -> str:
    """Nothing in a label can end it or begin markup."""
    kept = "".join(char if char.isprintable() else " " for char in text[:80])
    return kept.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
