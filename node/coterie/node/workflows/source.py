"""The text of a workflow file as plain values: YAML without surprises, or JSON."""

from __future__ import annotations

from typing import Any

from coterie.core.graph.model import GRAPH_BYTES_MAX, Problem
from coterie.core.graph.values import ValueFault, read_json
from coterie.node.config.yaml_text import Value, parse_yaml


def read_source(text: str, name: str, problems: list[Problem]) -> dict[str, Any] | None:
    """The mapping in the text; None, and why, when there is none."""
    if len(text) > GRAPH_BYTES_MAX:
        text = f"larger than {GRAPH_BYTES_MAX} characters; use a map, or sub-workflows"
        problems.append(Problem("TOO_LARGE", name, text))
        return None
    if text.lstrip().startswith("{"):
        try:
            value = read_json(text)
        except ValueFault as fault:
            why = f"{fault.text}: {fault.__cause__}" if fault.__cause__ else fault.text
            problems.append(Problem("NOT_READABLE", name, why))
            return None
        return value if isinstance(value, dict) else None
    complaints: list[str] = []
    tree = parse_yaml(text, name, complaints)
    problems += [Problem("NOT_READABLE", name, complaint) for complaint in complaints]
    if tree is None or not tree.is_mapping:
        return None
    found = _plain(tree)
    assert isinstance(found, dict), "a mapping"
    return found


def _plain(value: Value) -> Any:
    if value.is_mapping:
        assert isinstance(value.data, list)
        return {entry.key: _plain(entry.value) for entry in value.data if not isinstance(entry, Value)}
    if isinstance(value.data, list):
        return [_plain(one) for one in value.data if isinstance(one, Value)]
    return value.data
