"""What each type of node needs, and may not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coterie.core.graph import expr
from coterie.core.graph.model import BRANCHING, BY_SKILL, ITERATIONS_MAX, PARALLEL_MAX, Graph, GraphNode
from coterie.core.graph.model import JoinKind as J
from coterie.core.graph.model import NodeType as T
from coterie.core.graph.refs import references
from coterie.core.graph.values import ValueFault
from coterie.core.shown import shown

DURATION_MS_MAX = 366 * 24 * 3_600_000
TEMPLATE_MAX = 256 * 1024
OF_A_LOOP = frozenset({"iteration", "last"})
OF_A_MAP = frozenset({"item", "index"})
# Fields, and the types of nodes to which they mean something.
_MEANT: dict[str, frozenset[T]] = {
    "skill": BY_SKILL | {T.MAP, T.REDUCE, T.COMPENSATE},
    "agents": frozenset({T.AGENT}),
    "requires": frozenset({T.AGENT}),
    "judge": frozenset({T.AGENT}),
    "expr": frozenset({T.CONDITION, T.SWITCH, T.LOOP}),
    "cases": frozenset({T.SWITCH}),
    "max_iterations": frozenset({T.LOOP}),
    "body": frozenset({T.LOOP, T.MAP, T.WORKFLOW}),
    "over": frozenset({T.MAP, T.REDUCE}),
    "window": frozenset({T.MAP}),
    "reducer": frozenset({T.REDUCE}),
    "signal": frozenset({T.WAIT}),
    "duration_ms": frozenset({T.TIMER}),
    "compensates": frozenset({T.COMPENSATE}),
}
_WRITTEN = {"expr": "condition, switch or until", "reducer": "reduce", "duration_ms": "duration"}
_Fault = Callable[[GraphNode], bool]
# Types, what is wrong with a node of them, and the words for it.
_NEEDS: tuple[tuple[frozenset[T], _Fault, str], ...] = (
    (BY_SKILL, lambda node: not node.task_type, "needs a skill"),
    (frozenset({T.AGENT}), lambda node: not node.agents, "needs an agent"),
    (frozenset({T.CONDITION, T.SWITCH, T.LOOP}), lambda node: not node.expr, "needs an expression"),
    (frozenset({T.SWITCH}), lambda node: not node.cases, "needs cases"),
    (
        frozenset({T.LOOP}),
        lambda node: not 1 <= node.max_iterations <= ITERATIONS_MAX,
        f"needs max_iterations of 1 to {ITERATIONS_MAX}",
    ),
    (frozenset({T.LOOP, T.WORKFLOW}), lambda node: node.body is None, "needs a body"),
    (
        frozenset({T.MAP}),
        lambda node: (node.body is None) == (not node.skill),
        "needs a skill or a body, one of the two",
    ),
    (frozenset({T.MAP, T.REDUCE}), lambda node: not node.over, "needs `over`, a list"),
    (
        frozenset({T.REDUCE}),
        lambda node: (node.reducer is None) == (not node.skill),
        "needs a reducer or a skill, one of the two",
    ),
    (frozenset({T.WAIT}), lambda node: not node.signal, "needs the name of a signal"),
    (frozenset({T.TIMER}), lambda node: not node.duration_ms, "needs a duration"),
    (
        frozenset({T.COMPENSATE}),
        lambda node: not node.compensates or not node.skill or bool(node.depends_on),
        "needs a skill and the node it compensates, and has no dependencies",
    ),
)


def faults_of(node: GraphNode, code_enabled: bool) -> Iterator[str]:
    """What its type needs and it lacks, and what is out of bounds."""
    for kinds, is_wrong, text in _NEEDS:
        if node.type in kinds and is_wrong(node):
            yield f"{_a(node)} node {text}"
    if node.type is T.CODE and not code_enabled:
        yield "code nodes are not enabled here; make it a skill, or enable them"
    yield from _useless(node)
    yield from _bounds(node)
    yield from _joins(node)


def _useless(node: GraphNode) -> Iterator[str]:
    """What somebody wrote and nothing would come of."""
    for name, kinds in _MEANT.items():
        if node.type not in kinds and getattr(node, name):
            written = _WRITTEN.get(name, name)
            yield f"{written} means nothing to {_a(node)} node; take it out, or name the type"
    if len(set(node.cases)) < len(node.cases):
        yield f"cases: {', '.join(node.cases)}: one of them stands twice"
    if node.over and not node.over.startswith("[") and "{{" not in node.over:
        yield f"over: {node.over[:80]} is not a list, or a reference to one"


def _a(node: GraphNode) -> str:
    return f"{'an' if node.type.value[0] in 'aeiou' else 'a'} {node.type.value}"


def _bounds(node: GraphNode) -> Iterator[str]:
    if not 0 <= node.timeout_ms <= DURATION_MS_MAX or not 0 <= node.duration_ms <= DURATION_MS_MAX:
        yield f"has a time that is not in 0..{DURATION_MS_MAX} ms"
    if not 0 <= node.window <= PARALLEL_MAX:
        yield f"window {node.window} is not in 0..{PARALLEL_MAX} (0: the default)"
    if not 0 <= node.priority <= 4:
        yield f"priority {node.priority} is not in 0..4 (0: the run's)"
    if node.retry.attempts_max > 100:
        yield f"retry.attempts_max {node.retry.attempts_max} is not in 0..100 (0: the default)"
    if len(node.input) > TEMPLATE_MAX or len(node.over) > TEMPLATE_MAX:
        yield f"an input of more than {TEMPLATE_MAX} characters; give it to the run as a value"
    if node.on_item_failure not in ("fail", "skip"):
        yield f"on_item_failure {shown(node.on_item_failure)} is not fail or skip"


def _joins(node: GraphNode) -> Iterator[str]:
    joined = len(node.agents) if len(node.agents) > 1 else len(node.depends_on)
    counts = node.join.kind in (J.ANY, J.FIRST, J.QUORUM)
    if counts and not joined and node.type is not T.COMPENSATE and not expr.text_looks_at_ends(node.when):
        yield f"join {node.join.kind.value} of nothing: it would never run; take the join out"
    elif node.join.kind is J.QUORUM and not 1 <= node.join.count <= max(1, joined):
        yield f"join quorum({node.join.count}) of {joined}: it must be from 1 to {max(1, joined)}"
    if node.join.kind is J.JUDGE and len(node.agents) < 2:
        yield "join llm-judge chooses among the answers of several agents; name them, or use all or any"
    for agent in sorted({agent for agent in node.agents if node.agents.count(agent) > 1}):
        yield f"names the agent {shown(agent)} twice"


def outcomes_of(node: GraphNode) -> frozenset[str]:
    """What an edge may wait for; empty when the node only succeeds or fails."""
    if node.type is T.SWITCH:
        return frozenset({*node.cases, "default"})
    return frozenset({"true", "false"}) if node.type in BRANCHING else frozenset()


def names_given(node: GraphNode) -> frozenset[str]:
    """What the type of a node itself puts into the scope of its body, or of its own input."""
    if node.type is T.LOOP:
        return OF_A_LOOP
    return OF_A_MAP if node.type is T.MAP else frozenset()


def text_faults(node: GraphNode) -> Iterator[tuple[str, str]]:
    """Code and text of what cannot be parsed in its expressions and references."""
    for where, text in (("when", node.when), ("expr", node.expr)):
        try:
            if text:
                expr.parse(text)
        except ValueFault as fault:
            yield fault.code, f"{where}: {fault.text}"
    for where, template in (("input", node.input), ("over", node.over)):
        try:
            references(template)
        except ValueFault as fault:
            yield fault.code, f"{where}: {fault.text}"


def reads_of(node: GraphNode) -> Iterator[tuple[str, str]]:
    """The names a node needs, and where it reads them; what cannot be parsed needs none."""
    for where, text in (("when", node.when), ("expr", node.expr)):
        for name in sorted(_names_in(text)):
            yield where, name
    for where, template in (("input", node.input), ("over", node.over)):
        for name in needed_names(template):
            yield where, name


def _names_in(text: str) -> set[str]:
    try:
        return expr.names_in(expr.parse(text)) if text else set()
    except ValueFault:
        return set()


def needed_names(template: str) -> list[str]:
    """The names without which a template cannot be filled in."""
    try:
        needed = [ref for ref in references(template) if ref.needed]
    except ValueFault:
        return []
    return sorted({path.name for ref in needed for path in ref.paths})


def size(graph: Graph) -> int:
    """How many nodes, those of bodies too."""
    return sum(1 + (size(node.body) if node.body is not None else 0) for node in graph.nodes)


def free_names(graph: Graph) -> list[str]:
    """What a graph that declares no inputs needs to be given."""
    produced = {node.variable for node in graph.nodes} | {node.node_id for node in graph.nodes}
    reads = {
        name for node in graph.nodes for where, name in reads_of(node) if not own_name(node, where, name)
    }
    return sorted(reads - produced - {"input", "run"})


def own_name(node: GraphNode, where: str, name: str) -> bool:
    """Whether the node itself provides it there: the item of a map, the output of a loop's body."""
    if where == "expr":
        return node.type is T.LOOP and name in OF_A_LOOP | {"output"}
    return where == "input" and name in names_given(node)
