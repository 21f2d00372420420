"""What `submit_task` is given, in any of its forms, as one TaskSpec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coterie.client.models import NodeInfo
from coterie.client.operations import given_node_id
from coterie.client.routes import Route
from coterie.client.rpc_errors import invalid
from coterie.client.spec import SPEC_KEYS, TaskOptions, TaskSpec

Target = str | NodeInfo | Route
Task = TaskSpec | Mapping[str, Any]


class TaskWords(TaskOptions, total=False):
    """The words of a task that stand beside a dict, or in its place."""

    type: str
    payload: Any


def ordered(target: Target | Task | None, task: Task | None, words: TaskWords) -> TaskSpec:
    """The spec of a call; words beside a dict come before what the dict says. Raises InvalidRequest."""
    if isinstance(target, TaskSpec | Mapping):
        if task is not None:
            raise invalid(
                [("target_node", "a task is given twice: write submit_task(node, task) or submit_task(task)")]
            )
        target, task = None, target
    if task is None:
        spec = TaskSpec.of(dict(words))
    else:
        spec = TaskSpec.of(task)
        given = TaskSpec.of({"type": spec.type, **words})
        spec = replace(spec, **{key: getattr(given, key) for key in SPEC_KEYS if key in words})
    return _placed(spec, target)


def _placed(spec: TaskSpec, target: Target | None) -> TaskSpec:
    """A node pins the task; a route advises, so that the task goes on elsewhere when the node is lost."""
    if target is None:
        return spec
    if not isinstance(target, Route):
        return replace(spec, target_node=given_node_id(target))
    if not target.node:
        return spec
    return replace(spec, constraints={**(spec.constraints or {}), "prefer_node": target.node})
