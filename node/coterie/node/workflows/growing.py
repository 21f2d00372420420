"""Nodes that are added to a live run: what is wrong with them, and what a node of the run itself may add."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from coterie.core.agentbook import AGENT_TYPE
from coterie.core.commands import Accepted
from coterie.core.graph.check import NOTHING_KNOWN, problems_of
from coterie.core.graph.model import SKILL_OF, Graph, GraphNode, JoinKind, NodeType, Problem
from coterie.core.graph.needs import size
from coterie.core.graph.reading import graph_bytes
from coterie.core.graph.values import ValueFault
from coterie.core.nouns import TaskId
from coterie.core.runs.commands import AddNodes
from coterie.core.runs.rules import beyond_one_addition, surroundings
from coterie.core.state import ClusterState
from coterie.node.errors import ApiError, Violation, from_rejection, invalid
from coterie.node.skill_calls import Handlers, Run, refused
from coterie.node.skillset import known_skills
from coterie.node.workflows import Known, Loaded, load
from coterie.node.workflows.aside import aside

FORM = frozenset({"NOT_READABLE", "BAD_FIELD", "UNKNOWN_WORKFLOW"})  # what a text says by itself
CODE = SKILL_OF[NodeType.CODE]
TEXT_CHARS_MAX = 1 << 20


def known_to(state: ClusterState, tenant: str, local: Collection[str]) -> Known:
    """What a workflow of the tenant may name. `local`: the skills on this node's disk."""
    texts = {one.name: one.source for one in state.workflows.values() if one.tenant == tenant}
    code = state.skillbook.get(CODE)
    return Known(
        frozenset(known_skills(state) | set(local)),
        texts,
        code is not None and bool(code.live),
        agents(state),
    )


def agents(state: ClusterState) -> frozenset[str] | None:
    """Ids and aliases. None where there are none at all: then a skill of the name may stand in for them."""
    entries = state.agents.values()
    return frozenset({name for one in entries for name in (one.agent_id, *one.aliases)}) or None


def more_nodes(state: ClusterState, run_id: TaskId, loaded: Loaded, known: Known) -> Graph:
    """The nodes that are to be added; the log looks at them again, and adds the same ones once. Raises
    ApiError with all that is wrong."""
    form = [one for one in loaded.problems if one.code in FORM]
    if form:
        raise refused_for(form)
    nodes = replace(loaded.graph, name="", open_inputs=False)
    written = bytes_of(nodes)
    beyond = beyond_one_addition(size(nodes), len(written))
    if beyond:
        raise invalid([Violation("nodes", beyond)], "TOO_LARGE")
    run, task = state.runs.get(run_id), state.tasks.get(run_id)
    if run is not None and written in run.head.grown:
        return nodes  # asked again, as by the next attempt of a planner that was lost before it was answered
    around = surroundings(run, task) if run is not None and task is not None else NOTHING_KNOWN
    around = replace(around, skills=known.skills, agents=known.agents, code_enabled=known.code_enabled)
    wrong = problems_of(Graph(nodes=nodes.nodes), around) if run is not None else []
    if wrong:
        raise refused_for(wrong)
    return nodes


def refused_for(problems: Collection[Problem]) -> ApiError:
    """All of them as violations; the reason is that of the first cycle, or of the first problem."""
    codes = [one.code for one in problems]
    reason = "CYCLE" if "CYCLE" in codes else codes[0]
    return invalid([Violation(one.where, one.text) for one in problems], reason)


def bytes_of(graph: Graph) -> bytes:
    """Raises ApiError when it is too large."""
    try:
        return graph_bytes(graph)
    except ValueFault as fault:
        raise invalid([Violation("source", f"{fault.text}; use maps, or sub-workflows")]) from fault


@dataclass(frozen=True, slots=True)
class GrowCalls:
    """What a skill may ask that runs as a node. `local`: the skills on this node's disk."""

    local: Callable[[], Collection[str]]

    def handlers(self) -> Handlers:
        return {"run.grow": self.grow}

    async def grow(self, run: Run, args: Any) -> dict[str, list[str]]:
        """Add nodes to the run of which the task is a node; the same addition twice is one.

        `agents`: the colleagues of an agent, which adds nodes of theirs and of no skill: else it could do in
        the run, for nobody in particular, what its files do not let it do itself."""
        run_id = run.task.parent_id
        if run_id not in run.state.runs:
            raise refused("NOT_IN_A_RUN", "only a node of a run of a workflow adds nodes, to that run")
        text = args.get("nodes")
        if not isinstance(text, str) or len(text) > TEXT_CHARS_MAX:
            raise refused("BAD_ARGUMENTS", f"nodes: give a text of at most {TEXT_CHARS_MAX} characters")
        if run.task.agent and run.task.type != AGENT_TYPE:
            raise refused("AGENT_FORBIDS", "what runs on behalf of an agent adds no nodes; the agent may")
        known = known_to(run.state, run.task.tenant, self.local())
        loaded = await aside(len(text), lambda: load(text, known, name="nodes"))
        more = more_nodes(run.state, run_id, loaded, known)
        if run.task.agent and (beyond := list(_beyond(more, _texts(args, "agents")))):
            raise refused_for(beyond)
        outcome = await run.commit_own(AddNodes(run_id, bytes_of(more), run.task_id, run.attempt))
        if not isinstance(outcome, Accepted):
            raise from_rejection(outcome)
        return {"added": [node.node_id for node in more.nodes]}


def _beyond(graph: Graph, colleagues: Collection[str]) -> Iterator[Problem]:
    """Nodes that would do what no colleague is asked to do."""
    for node in graph.nodes:
        if node.body is not None:
            yield from _beyond(node.body, colleagues)
        if _runs_a_skill(node):
            text = "an agent adds nodes of agents, conditions, reductions, waits: no skills, models, judges"
            yield Problem("AGENT_FORBIDS", node.node_id, text)
        for name in node.agents:
            if name not in colleagues:
                text = f"agent {name!r} is none of {', '.join(colleagues) or 'no colleagues'}"
                yield Problem("AGENT_FORBIDS", node.node_id, text)


def _runs_a_skill(node: GraphNode) -> bool:
    return bool(node.skill) or node.join.kind is JoinKind.JUDGE or node.type in (NodeType.LLM, NodeType.CODE)


def _texts(args: Mapping[str, Any], name: str) -> list[str]:
    given = args.get(name, [])
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise refused("BAD_ARGUMENTS", f"{name}: a list of texts is expected")
    return given
