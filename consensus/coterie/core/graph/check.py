"""Everything that is wrong with a graph, at once. A cycle is reported with its path and never mended."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from coterie.core.graph.flow import Flow
from coterie.core.graph.model import (
    DEPTH_MAX,
    EDGES_MAX,
    NODES_MAX,
    PARALLEL_MAX,
    Edge,
    Graph,
    GraphNode,
    JoinKind,
    NodeType,
    Problem,
)
from coterie.core.graph.near import near
from coterie.core.graph.needs import (
    DURATION_MS_MAX,
    faults_of,
    free_names,
    names_given,
    needed_names,
    outcomes_of,
    own_name,
    reads_of,
    size,
    text_faults,
)
from coterie.core.graph.refs import references
from coterie.core.graph.values import ValueFault, read_json
from coterie.core.shown import shown

PROBLEMS_MAX = 200
A_NAME = "use 1 to 64 letters, digits, _ and -, the first a letter or _"
AN_ID = "use 1 to 64 letters, digits and . _ -, the first a letter or digit"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the graph is checked against."""

    skills: Collection[str] | None = None  # of the cluster; None: not known here
    agents: Collection[str] | None = None  # ids and aliases; None: not known here
    code_enabled: bool = False
    names: frozenset[str] = frozenset()  # given from outside
    nodes: frozenset[str] = frozenset()  # that are there already
    undos: frozenset[str] = frozenset()  # those of them on which nothing can stand
    at: str = ""  # where the graph stands in another
    depth: int = 1


NOTHING_KNOWN = Surroundings()


def problems_of(graph: Graph, around: Surroundings = NOTHING_KNOWN) -> list[Problem]:
    """Every problem, those of bodies too, PROBLEMS_MAX at most."""
    return _Check(graph, around).problems()[:PROBLEMS_MAX]


class _Check:
    def __init__(self, graph: Graph, around: Surroundings) -> None:
        self._graph, self._around = graph, around
        self._flow = Flow(graph)
        self._found: list[Problem] = []
        self._undone_by: dict[str, str] = {}
        self._dot = f"{around.at}." if around.at else ""
        # Names of a run that grows: what stands in it already would read something else under them.
        self._taken = around.names if around.nodes else frozenset()

    def problems(self) -> list[Problem]:
        self._limits()
        self._ids()
        for node in self._graph.nodes:
            self._node(node)
            self._edges(node)
        if self._cycles():
            self._names()
        else:
            self._reached()
            self._variables()
            self._hints()
        return self._found

    def _add(self, code: str, node: str, text: str, cycle: tuple[str, ...] = ()) -> None:
        where = f"{self._dot}{node}" if node else self._around.at or "workflow"
        self._found.append(Problem(code, where, text, cycle))

    def _cycles(self) -> bool:
        cycles = self._flow.cycles()
        for cycle in cycles:
            text = f"stands on itself: {' <- '.join(cycle)}; take one of these dependencies out"
            self._add("CYCLE", cycle[0], text, cycle)
        for name in self._flow.behind_cycles() if cycles else ():
            self._add("UNREACHABLE", name, "can never run: it stands on a cycle")
        return bool(cycles)

    # --- limits and ids

    def _limits(self) -> None:
        graph, count = self._graph, size(self._graph)
        edges = sum(len(node.depends_on) for node in graph.nodes)
        if not graph.nodes:
            self._add("EMPTY", "", "has no nodes; give at least one")
        if count > NODES_MAX:
            self._add("TOO_LARGE", "", f"{count} nodes, the limit is {NODES_MAX}; use a map, or several runs")
        if edges > EDGES_MAX:
            self._add("TOO_LARGE", "", f"{edges} dependencies, the limit is {EDGES_MAX}")
        if not 1 <= graph.max_parallel <= PARALLEL_MAX:
            self._add("BAD_FIELD", "", f"max_parallel {graph.max_parallel} is not in 1..{PARALLEL_MAX}")
        if not 0 <= graph.timeout_ms <= DURATION_MS_MAX:
            self._add("BAD_FIELD", "", f"timeout_ms {graph.timeout_ms} is not in 0..{DURATION_MS_MAX}")
        if self._around.depth > DEPTH_MAX:
            self._add("TOO_LARGE", "", f"graphs inside graphs go {DEPTH_MAX} deep at most")
        for given in graph.inputs:
            if not _VARIABLE.fullmatch(given.name):
                self._add("BAD_FIELD", "", f"the input {shown(given.name)} is not a name: {A_NAME}")

    def _ids(self) -> None:
        seen: set[str] = set(self._around.nodes)
        variables = {given.name: "an input" for given in self._graph.inputs}
        for node in self._graph.nodes:
            if not _ID.fullmatch(node.node_id):
                self._add("BAD_FIELD", node.node_id[:64], f"{shown(node.node_id[:80])} is not an id: {AN_ID}")
            if node.node_id and node.node_id in seen:
                self._add("DUPLICATE_ID", node.node_id, "is the id of two nodes; rename one")
            elif node.node_id in self._taken:
                self._add("DUPLICATE_ID", node.node_id, "is the name of a value of the run; rename it")
            seen.add(node.node_id)
            if node.output_var:
                self._variable(node, variables)

    def _variable(self, node: GraphNode, variables: dict[str, str]) -> None:
        name = node.output_var
        if not _VARIABLE.fullmatch(name):
            self._add("BAD_FIELD", node.node_id, f"output_var {shown(name[:80])} is not a name: {A_NAME}")
        if name in variables:
            text = f"output_var {shown(name)} is that of {variables[name]} too; rename one"
            text += " (what follows a branch can read {{ a | b }})"
            self._add("DUPLICATE_VARIABLE", node.node_id, text)
        if name in self._taken:
            text = f"output_var {shown(name)} is the name of a value of the run; rename it"
            self._add("DUPLICATE_VARIABLE", node.node_id, text)
        variables[name] = f"node {node.node_id}"

    # --- single nodes

    def _node(self, node: GraphNode) -> None:
        for text in faults_of(node, self._around.code_enabled):
            self._add("BAD_FIELD", node.node_id, text)
        for code, text in text_faults(node):
            self._add(code, node.node_id, text)
        self._skills(node)
        self._agents(node)
        if node.body is not None:
            self._found += problems_of(node.body, self._inside(node))

    def _inside(self, node: GraphNode) -> Surroundings:
        """A body sees what its node's input gives it, and nothing else."""
        around = self._around
        return Surroundings(
            skills=around.skills,
            agents=around.agents,
            code_enabled=around.code_enabled,
            names=names_given(node) | _keys_of(node.input),
            at=f"{self._dot}{node.node_id}",
            depth=around.depth + 1,
        )

    def _agents(self, node: GraphNode) -> None:
        agents = self._around.agents
        for agent in node.agents if agents is not None else ():
            if agents is not None and agent not in agents:
                hint = self._near(agent, agents) or f"; known: {', '.join(sorted(agents)[:20])}"
                self._add("UNKNOWN_AGENT", node.node_id, f"there is no agent {shown(agent)}{hint}")

    def _skills(self, node: GraphNode) -> None:
        skills = self._around.skills
        if skills is None:
            return
        judged = node.join.kind is JoinKind.JUDGE and len(node.agents) > 1
        for skill in (node.task_type, (node.judge or "llm") if judged else ""):
            if skill and skill not in skills:
                known, meant = sorted(skills), near(skill, sorted(skills))
                others = ", ".join(known[:20]) or "none"
                hint = f"did you mean {shown(meant)}?" if meant else f"known: {others}"
                self._add("UNKNOWN_SKILL", node.node_id, f"no node has a skill {shown(skill)}; {hint}")

    # --- dependencies

    def _edges(self, node: GraphNode) -> None:
        for edge in node.depends_on:
            target = self._flow.nodes.get(edge.node)
            undoes = (
                target.type is NodeType.COMPENSATE if target is not None else edge.node in self._around.undos
            )
            if undoes:
                text = f"stands on {edge.node}, which runs only when the run has failed"
                self._add("UNREACHABLE", node.node_id, text)
            if target is not None:
                self._outcome(node, edge, target)
            elif edge.node not in self._around.nodes:
                hint = self._near(edge.node, self._flow.nodes)
                text = f"depends on {shown(edge.node)}, which no node is{hint}"
                self._add("UNKNOWN_DEPENDENCY", node.node_id, text)
        if node.compensates:
            self._undo(node)

    def _undo(self, node: GraphNode) -> None:
        target = self._flow.nodes.get(node.compensates)
        first = self._undone_by.setdefault(node.compensates, node.node_id)
        if target is None:
            text = f"compensates {shown(node.compensates)}, which no node is"
            self._add("UNKNOWN_DEPENDENCY", node.node_id, text)
        elif target.type is NodeType.COMPENSATE:
            self._add(
                "BAD_FIELD", node.node_id, f"compensates {target.node_id}, which undoes something itself"
            )
        elif first != node.node_id:
            text = f"compensates {target.node_id}, as {first} does: one node undoes another"
            self._add("BAD_FIELD", node.node_id, text)

    @staticmethod
    def _near(name: str, known: Iterable[str]) -> str:
        meant = near(name, known)
        return f"; did you mean {shown(meant)}?" if meant else ""

    def _outcome(self, node: GraphNode, edge: Edge, target: GraphNode) -> None:
        outcomes = outcomes_of(target)
        if edge.when and edge.when not in outcomes:
            can = f"it can be {', '.join(sorted(outcomes))}" if outcomes else "it has no outcomes"
            self._add("BAD_FIELD", node.node_id, f"wants {edge.node} to be {shown(edge.when)}; {can}")

    def _reached(self) -> None:
        for node_id, branch in self._flow.impossible().items():
            text = f"can never run: it needs several outcomes of {branch} at once; use join any"
            self._add("UNREACHABLE", node_id, text)
        known = self._flow.nodes
        for entry in self._graph.entry_points:
            if entry not in known:
                self._add("UNKNOWN_DEPENDENCY", "", f"entry point {shown(entry)} is no node")
            elif known[entry].depends_on:
                self._add("BAD_FIELD", entry, "is an entry point, and has dependencies: take one out")
        entries = [entry for entry in self._graph.entry_points if entry in known]
        for node_id in self._flow.unreached(entries) if entries else ():
            self._add("UNREACHABLE", node_id, "is not reached from the entry points; add it to them")

    # --- variables

    def _variables(self) -> None:
        flow, given = self._flow, self._given()
        for node in self._graph.nodes:
            for where, name in reads_of(node):
                if name not in given and not own_name(node, where, name):
                    self._read(node, where, name, given)
            for asked in sorted(flow.asked_for(node)):
                self._asked(node, asked)
        try:
            outputs = {path.name for ref in references(self._graph.outputs) for path in ref.paths}
        except ValueFault as fault:
            self._add(fault.code, "", f"outputs: {fault.text}")
            return
        if self._graph.open_inputs:  # what nodes read is an input too; what has a default may be missing
            outputs &= set(needed_names(self._graph.outputs)) - set(free_names(self._graph))
        for name in sorted(outputs - given - flow.producers.keys()):
            hint = self._near(name, [*sorted(given), *flow.producers])
            self._add("UNKNOWN_VARIABLE", "", f"outputs: there is no {shown(name)}{hint}")

    def _names(self) -> None:
        """Where nothing comes before anything: what no node gives is wrong all the same."""
        given = self._given()
        for node in self._graph.nodes:
            for where, name in reads_of(node):
                known = name in given or name in self._flow.producers or own_name(node, where, name)
                if not known:
                    self._read(node, where, name, given)

    def _given(self) -> frozenset[str]:
        return self._around.names | {given.name for given in self._graph.inputs} | {"input", "run"}

    def _asked(self, node: GraphNode, asked: str) -> None:
        flow = self._flow
        if asked not in flow.nodes and asked not in self._around.nodes:
            self._add("UNKNOWN_DEPENDENCY", node.node_id, f"asks how {shown(asked)} ended, which no node is")
        elif asked in flow.nodes and not flow.is_before(asked, node.node_id):
            self._add("BAD_FIELD", node.node_id, f"asks how {asked} ended; add it to depends_on")

    def _read(self, node: GraphNode, where: str, name: str, given: frozenset[str]) -> None:
        producer = self._flow.producers.get(name)
        if producer is None and not self._graph.open_inputs:
            hint = self._near(name, [*sorted(given), *self._flow.producers]) or "; declare it under inputs"
            text = f"{where} reads {shown(name)}, which nothing provides{hint}"
            self._add("UNKNOWN_VARIABLE", node.node_id, text)
        elif producer == node.node_id:
            text = f"{where} reads {shown(name)}, what the node itself will give"
            self._add("UNKNOWN_VARIABLE", node.node_id, text)
        elif producer is not None and not self._flow.is_before(producer, node.node_id):
            text = (
                f"{where} reads {shown(name)} of {producer}, on which it does not stand; add it to depends_on"
            )
            self._add("UNKNOWN_VARIABLE", node.node_id, text)

    def _hints(self) -> None:
        places = {node_id: place for place, node_id in enumerate(self._graph.execution_order)}
        for node in self._graph.nodes if places else ():
            for edge in node.depends_on:
                if places.get(edge.node, -1) > places.get(node.node_id, len(places)):
                    text = f"stands on {edge.node}, and comes before it in execution_order; correct one"
                    self._add("CONTRADICTION", node.node_id, text)
        for unknown in sorted(places.keys() - self._flow.nodes.keys()):
            self._add("UNKNOWN_DEPENDENCY", "", f"execution_order names {shown(unknown)}, which no node is")


def _keys_of(template: str) -> frozenset[str]:
    """The names that an input gives to a body; none if it cannot be read, of which others tell."""
    try:
        return frozenset(read_json(template)) if template.startswith("{") else frozenset()
    except ValueFault:
        return frozenset()
