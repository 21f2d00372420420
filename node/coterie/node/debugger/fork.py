"""A new task or run that goes on from a point of another one, with what it had completed before.

Pure: what is asked for and what there is go in; the parts of the new one come out, or all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coterie.core.graph.model import Graph, GraphNode, NodeType
from coterie.core.graph.values import ValueFault, read_json, write_json
from coterie.core.nouns import Data, Step, Task
from coterie.core.runs.book import inputs_of
from coterie.core.runs.run import Run
from coterie.node.errors import Violation
from coterie.node.workflows.runs import PART, done_anew, undone_in

NAMED_MAX = 20  # of what there is, in an error
Load = Callable[[Data], Any]


@dataclass(frozen=True, slots=True)
class Fork:
    """The journal and the inputs of the new one."""

    steps: tuple[Step, ...]
    payload: Data


@dataclass(frozen=True, slots=True)
class Changes:
    """Values by the names of variables, and what was wrong with their texts."""

    values: Mapping[str, Any]
    wrong: tuple[Violation, ...] = ()


def read_changes(texts: Mapping[str, str]) -> Changes:
    """Each text is JSON."""
    values, wrong = {}, []
    for name in sorted(texts):
        try:
            values[name] = read_json(texts[name])
        except ValueFault as fault:
            wrong.append(Violation(f"set.{name}", f"{fault.text}; a text is written in quotes"))
    return Changes(values, tuple(wrong))


def fork_run(
    graph: Graph,
    payload: Data,
    steps: Sequence[Step],
    node_id: str,
    changes: Changes,
    run: Run | None = None,
) -> Fork | list[Violation]:
    """A run that goes on from a node: other nodes keep what they gave, or get what is said instead; but what
    was undone, and all that stands on it, is done again. `run`: of a live one, how far it is."""
    wrong = list(changes.wrong)
    node = next((one for one in graph.nodes if one.node_id == node_id), None)
    if node is None:
        wrong.append(Violation("at", f"no node {node_id!r} in this run; there are {_some(_names(graph))}"))
    elif node.type is NodeType.COMPENSATE:
        wrong.append(
            Violation("at", f"{node_id} undoes {node.compensates}; fork at a node that is not an undo")
        )
    if node is None or node.type is NodeType.COMPENSATE:
        again: set[str] = set()
    else:
        again = done_anew(graph, steps, node_id, run)
    undone = undone_in(graph, steps, run)
    kept = {step.key: step for step in steps if step.key.partition(PART)[0] not in again}
    inputs = inputs_of(graph, payload)
    declared = {one.name for one in graph.inputs}
    makers = {one.variable: one for one in graph.nodes} | {one.node_id: one for one in graph.nodes}
    new_inputs: dict[str, Any] = {}
    for name, value in changes.values.items():
        maker = makers.get(name)
        if name in inputs or name in declared:
            wrong += _type_faults(name, value, inputs.get(name))
            new_inputs[name] = value
        elif maker is None:
            names = [*inputs, *(one.variable for one in graph.nodes if one.node_id in kept)]
            wrong.append(Violation(f"set.{name}", f"no such variable; there are {_some(names)}"))
        else:
            wrong += _output_faults(name, value, maker, kept, again, undone)
            if maker.node_id in kept:
                kept[maker.node_id] = replace(kept[maker.node_id], result=Data(write_json(value)))
    if wrong:
        return wrong
    return Fork(tuple(kept.values()), Data(write_json({**inputs, **new_inputs})) if new_inputs else payload)


def _output_faults(
    name: str,
    value: Any,
    maker: GraphNode,
    kept: Mapping[str, Step],
    again: set[str],
    undone: Sequence[str],
) -> list[Violation]:
    """What a node gave can be changed where the node is not done again."""
    if maker.node_id in undone:
        text = f"node {maker.node_id} gives it, and was undone; it is done again in the fork"
        return [Violation(f"set.{name}", text)]
    if maker.node_id in again:
        text = f"node {maker.node_id} gives it, and is done again; fork at a later node to change it"
        return [Violation(f"set.{name}", text)]
    step = kept.get(maker.node_id)
    if step is None:
        text = f"node {maker.node_id} gives it, and has not succeeded; it is done anew in the fork"
        return [Violation(f"set.{name}", text)]
    if step.result.sha256:
        return []  # a large value: of what type is not known here
    return _type_faults(name, value, _value(step.result))


def fork_task(task: Task, steps: Sequence[Step], at: str, changes: Changes) -> Fork | list[Violation]:
    """A task whose journal ends before the step `at`."""
    wrong = list(changes.wrong)
    keys = [step.key for step in steps]
    if at not in keys:
        text = f"no step {at!r} was recorded in this task; there are {_some(keys)}"
        wrong.append(Violation("at", text))
    kept = {step.key: step for step in steps[: keys.index(at)]} if at in keys else {}
    given = {} if task.payload.sha256 else _value(task.payload)
    fields = given if isinstance(given, dict) else {}
    new_fields: dict[str, Any] = {}
    for name, value in changes.values.items():
        if name in fields:
            wrong += _type_faults(name, value, fields[name])
            new_fields[name] = value
        elif name in kept:
            if not kept[name].result.sha256:
                wrong += _type_faults(name, value, _value(kept[name].result))
            kept[name] = replace(kept[name], result=Data(write_json(value)))
        else:
            text = f"neither a field of the payload nor a step before {at!r}; there are"
            wrong.append(Violation(f"set.{name}", f"{text} {_some([*fields, *kept])}"))
    if wrong:
        return wrong
    payload = Data(write_json({**fields, **new_fields})) if new_fields else task.payload
    return Fork(tuple(kept.values()), payload)


def _value(data: Data) -> Any:
    try:
        return read_json(data.inline) if data.inline else None
    except ValueFault:
        return None


def _type_faults(name: str, value: Any, before: Any) -> list[Violation]:
    """A value is of the type of the one it stands for; null may be anything."""
    if value is None or before is None or type_of(value) == type_of(before):
        return []
    text = f"is {type_of(value)}, and {name} is {type_of(before)} here"
    return [Violation(f"set.{name}", text)]


def type_of(value: Any) -> str:
    """As JSON calls it."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "null"


def _names(graph: Graph) -> list[str]:
    return [node.node_id for node in graph.nodes]


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
