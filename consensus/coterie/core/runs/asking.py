"""What agents and judges are asked, and which answer a judge has chosen."""

from __future__ import annotations

from typing import Any

from coterie.core.graph.evaluate import Meter
from coterie.core.graph.model import GraphNode
from coterie.core.graph.values import ValueFault, read_json
from coterie.core.nouns import Data
from coterie.core.runs.scope import described, inline
from coterie.core.state import held

ASKED = frozenset({"prompt", "messages"})  # an input that has one of them is handed on as it is


def asked(node: GraphNode, payload: Data, meter: Meter) -> Data:
    """The input of an agent: `{prompt, context}`. The prompt is the text, or what `task` says, or the node's
    name; the rest of the input is the context. Raises ValueFault."""
    given = described(payload, meter)
    if isinstance(given, dict) and ASKED & given.keys():
        return payload
    prompt, context = node.name or node.node_id, given
    if isinstance(given, str):
        prompt, context = given, None
    elif isinstance(given, dict) and isinstance(given.get("task"), str) and given["task"]:
        prompt, context = given["task"], {name: value for name, value in given.items() if name != "task"}
    if node.requires:
        context = {**(context if isinstance(context, dict) else {}), "skills": list(node.requires)}
    return inline({"prompt": prompt, **({"context": context} if context not in (None, {}) else {})}, meter)


def chosen(verdict: Data, answers: list[Data], meter: Meter) -> Data:
    """The answer that a judge's `{"choice": 0…}` names; else what the judge said."""
    said: Any = None
    meter.bytes += held(verdict)
    try:
        said = read_json(verdict.inline) if verdict.inline else None
    except ValueFault:
        return verdict
    choice = said.get("choice") if isinstance(said, dict) else None
    known = isinstance(choice, int) and not isinstance(choice, bool) and 0 <= choice < len(answers)
    return answers[choice] if known and choice is not None else verdict
