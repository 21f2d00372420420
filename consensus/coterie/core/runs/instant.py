"""Nodes that need no task: branches, declared reducers, times, signals and approvals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from coterie.core.graph.evaluate import Meter, Scope, evaluate, holds
from coterie.core.graph.model import GraphNode, NodeType
from coterie.core.graph.refs import fill
from coterie.core.graph.values import ValueFault, read_json
from coterie.core.nouns import Data, evolve
from coterie.core.runs.reducers import reduced
from coterie.core.runs.run import NodeState, Taken
from coterie.core.runs.scope import bounded, described, inline
from coterie.core.runs.tasks import begin_task, input_of
from coterie.core.state import held

if TYPE_CHECKING:
    from coterie.core.runs.walk import Walk

APPROVAL = "approval."  # before the id of the node: the signal it waits for


def condition(walk: Walk, node: GraphNode) -> None:
    is_true = walk.counted(holds, node.expr, walk.scope(node))
    walk.succeed(node, inline(is_true, walk.meter), "true" if is_true else "false")


def switch(walk: Walk, node: GraphNode) -> None:
    value = walk.counted(evaluate, node.expr, walk.scope(node))
    walk.succeed(node, inline(value, walk.meter), _case(node, value, walk.meter))


def _case(node: GraphNode, value: Any, meter: Meter) -> str:
    text = value if isinstance(value, str) else inline(value, meter).inline.decode()
    return text if text in node.cases else "default"


def outcome_of(node: GraphNode, result: Data, meter: Meter) -> str:
    """The outcome of a branching node, from what it gave; empty when it gave what nothing can be made of."""
    meter.bytes += held(result)
    try:
        value = read_json(result.inline) if result.inline else None
        if node.type is NodeType.SWITCH:
            return _case(node, value, meter)
    except ValueFault:
        return ""
    if node.type is NodeType.APPROVAL:
        return "true" if isinstance(value, dict) and value.get("approved") is True else "false"
    return {True: "true", False: "false"}.get(value, "") if isinstance(value, bool) else ""


def reduce(walk: Walk, node: GraphNode) -> None:
    reducer, scope = node.reducer, walk.scope(node)
    if reducer is None:
        items = walk.counted(fill, node.over, scope)
        walk.put(evolve(walk.run.nodes[node.node_id], total=1))
        given = described(input_of(walk, node), walk.meter) if node.input else None
        payload = {"items": items, **({"input": given} if node.input else {})}
        begin_task(walk, node, 0, inline(payload, walk.meter))
        return

    def evaluated(over: str, scope: Scope, meter: Meter) -> Any:
        return reduced(reducer, fill(over, scope, meter), meter)

    value = bounded(walk.counted(evaluated, node.over, scope), walk.meter)
    walk.succeed(node, inline(value, walk.meter))


def wait(walk: Walk, node: GraphNode) -> None:
    walk.book.waiting[node.node_id] = None
    span_ms = node.duration_ms if node.type is NodeType.TIMER else node.timeout_ms
    until_ms = walk.moment.at_ms + span_ms if span_ms else 0
    walk.put(evolve(walk.run.nodes[node.node_id], state=NodeState.WAITING, until_ms=until_ms))
    if until_ms:
        walk.book.timers[node.node_id] = until_ms
    look_for_signal(walk, node)


def look_for_signals(walk: Walk) -> None:
    """Of those that wait for a signal that is there, who has waited longest is first. Nobody else is looked
    at: very many may wait."""
    left = Counter(signal.name for signal in walk.task.signals)
    left.subtract({one.name: one.count for one in walk.run.head.taken})
    nodes, order, records = walk.book.nodes, walk.book.order, walk.run.nodes
    called = [name for name in walk.book.waiting if left[_signal_of(nodes[name])] > 0]
    for name in sorted(called, key=lambda name: (records[name].since_ms, order[name])):
        signal = _signal_of(nodes[name])
        if left[signal] > 0:
            left[signal] -= 1
            look_for_signal(walk, nodes[name])


def _signal_of(node: GraphNode) -> str:
    """Empty: it waits for none."""
    if node.type is NodeType.TIMER:
        return ""
    return node.signal or APPROVAL + node.node_id


def look_for_signal(walk: Walk, node: GraphNode) -> None:
    """The next signal of its name that no other node has had."""
    name = _signal_of(node)
    if not name:
        return
    taken = next((one.count for one in walk.run.head.taken if one.name == name), 0)
    told = [signal for signal in walk.task.signals if signal.name == name]
    if len(told) <= taken:
        return
    others = tuple(one for one in walk.run.head.taken if one.name != name)
    walk.head(taken=(*others, Taken(name, taken + 1)))
    payload = told[taken].payload
    if node.type is not NodeType.APPROVAL:
        walk.succeed(node, payload)
        return
    outcome = outcome_of(node, payload, walk.meter)
    branches = any(when for _, when in walk.book.dependents.get(node.node_id, ()))
    if outcome == "true" or branches:
        walk.succeed(node, payload, outcome)
    else:
        walk.fail(node, "REJECTED", "it was not approved")
