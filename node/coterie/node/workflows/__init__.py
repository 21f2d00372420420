"""Workflows at the edge: files in any of the accepted forms become the one graph of `coterie.core.graph`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from coterie.core.graph.check import Surroundings, problems_of
from coterie.core.graph.model import Graph, Problem
from coterie.core.graph.needs import free_names
from coterie.core.graph.reading import read_graph
from coterie.node.workflows.forms import Raw, to_native
from coterie.node.workflows.native import canonical
from coterie.node.workflows.source import read_source


@dataclass(frozen=True, slots=True)
class Known:
    """What the one who reads knows of the cluster."""

    skills: Collection[str] | None = None  # None: not asked
    workflows: Mapping[str, str] | None = None  # sources of the applied ones, by name
    code_enabled: bool = False
    agents: Collection[str] | None = None  # ids and aliases


NOTHING = Known()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A workflow as it was read, with all that is wrong with it."""

    graph: Graph
    problems: tuple[Problem, ...] = ()
    needs: tuple[str, ...] = ()  # inputs that a run must be given


def load(text: str, known: Known = NOTHING, *, name: str = "workflow", rule: str = "") -> Loaded:
    """Read YAML or JSON in any accepted form. `name` stands for the file in messages; `rule` chooses among
    several routing rules."""
    problems: list[Problem] = []
    value = read_source(text, name, problems)
    if value is None:
        return Loaded(Graph(), tuple(problems))
    return load_native(to_native(value, problems, rule), known, name=name, problems=problems)


def load_native(
    native: Raw, known: Known = NOTHING, *, name: str = "workflow", problems: Sequence[Problem] = ()
) -> Loaded:
    """The same for values in the native form. `problems`: what is known to be wrong already."""
    problems = list(problems)
    raw = canonical(native, problems, known.workflows)
    graph, unread = read_graph(raw)
    problems += unread
    around = Surroundings(known.skills, known.agents, known.code_enabled)
    if not (problems and not graph.nodes):
        problems += problems_of(graph, around)
    nameless = {one.where for one in problems if one.code == "UNKNOWN_WORKFLOW"}
    problems = [one for one in problems if one.code != "EMPTY" or one.where not in nameless]
    required = [one.name for one in graph.inputs if one.required]
    needs = [*required, *(free_names(graph) if graph.open_inputs else ())]
    return Loaded(replace(graph, name=graph.name or name), tuple(dict.fromkeys(problems)), tuple(needs))
