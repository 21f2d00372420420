"""Documents of the replicated configuration: read, checked, merged, and what a node makes of one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from coterie.node.config import resolve
from coterie.node.config.check import errors, refused_values
from coterie.node.config.document import Document, flat, is_replicated
from coterie.node.config.findings import ConfigError, KeyPath
from coterie.node.config.goal_model import goals_of
from coterie.node.config.loading import said, validated
from coterie.node.config.model import ClusterConfig
from coterie.node.config.multi_agent import contradictions, fold
from coterie.node.config.read import Tree, read_text, read_tree
from coterie.node.config.settings import NodeSettings

_NAME: Final = "document"
_PLACE: Final = re.compile(rf" \({_NAME}:\d+\)$")  # in a text that nobody keeps


def in_full(document: Mapping[str, Any]) -> Document:
    """Every replicated key with the value it has under that document. Raises ConfigError."""
    return flat(config_of(document).model_dump(mode="json"))


def config_of(document: Mapping[str, Any]) -> ClusterConfig:
    """Raises ConfigError with everything that is wrong."""
    nested: dict[str, Any] = {}
    for key, value in document.items():
        *sections, last = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return read(json.dumps(nested))


def read(text: str) -> ClusterConfig:
    """A part of a cluster file, of replicated keys only. Raises ConfigError with everything that is wrong."""
    problems: list[str] = []
    tree = read_text(text, _NAME, problems)
    problems += [
        f"{tree.where(path).written}: is of each node's own file, and takes effect when the node starts"
        for path in leaves(tree)
        if not is_replicated(path)
    ]
    config, _ = validated(tree, problems)
    findings = refused_values(tree)
    if config is not None:
        findings += contradictions(config)
        config = fold(config)
        findings += [finding for finding in errors(config) if is_replicated(finding.path)]
    problems += [said(tree, finding) for finding in findings]
    if config is None or problems:
        raise ConfigError(dict.fromkeys(_PLACE.sub("", problem) for problem in problems))
    return config


def merged(base: Mapping[str, Any], given: Mapping[str, Any], reset: Iterable[str]) -> Document:
    """`base` with what is given, and without what is to have its default again. Raises ConfigError."""
    found = {**base, **given}
    problems = []
    for key in reset:
        below = [known for known in found if known == key or known.startswith(f"{key}.")]
        if not below:
            problems.append(f"{key}: has its default already; nothing to reset")
        for known in below:
            found.pop(known)
    if problems:
        raise ConfigError(problems)
    return dict(sorted(found.items()))


def split(paths: list[Path]) -> tuple[str, tuple[str, ...]]:
    """Of files: what the cluster agrees on, as text, and the keys that are of each node's own. Raises
    ConfigError."""
    problems: list[str] = []
    tree = read_tree(paths, {}, problems)  # the environment is of one machine
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    others = tuple(sorted({tree.where(path).written for path in leaves(tree) if not is_replicated(path)}))
    return json.dumps(_only(tree.values, ())), others


def effective(settings: NodeSettings, document: Mapping[str, Any]) -> NodeSettings:
    """The settings of a node of a cluster that has agreed on the document. Raises ConfigError."""
    config = config_of(document)
    queue, limits, adaptive = config.distribution.task_queue, config.limits, config.distribution.adaptive
    return replace(
        settings,
        routing=resolve.routing_of(config),
        goals=goals_of(config.goals, config.routing_rules),
        max_running=queue.max_running or 0,
        rebalance=replace(
            settings.rebalance,
            rebalance_interval_ms=adaptive.rebalance_interval,
            rebalance_threshold=adaptive.threshold,
        ),
        breaker=resolve.breaker_of(config),
        max_pending=queue.max_pending,
        retry=resolve.retry_of(config),
        default_attempt_timeout_ms=queue.attempt_timeout,
        queue=resolve.queue_of(config),
        health=replace(settings.health, flap_memory_ms=config.fault_tolerance.health_check.flap_memory),
        limits=replace(
            settings.limits,
            live_bytes_max=limits.live_bytes_max,
            task_bytes_max=limits.task_bytes_max,
            steps_per_task_max=limits.steps_per_task_max,
        ),
        replicated=json.dumps(dict(sorted(document.items()))),
    )


def leaves(tree: Tree) -> list[KeyPath]:
    """The keys that were written and hold a value; of a list, the list."""
    found: list[KeyPath] = []
    _walk(tree.values, (), found)
    return found


def _walk(value: object, at: KeyPath, found: list[KeyPath]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _walk(inner, (*at, key), found)
    elif at:
        found.append(at)


def _only(values: dict[str, object], at: KeyPath) -> dict[str, object]:
    kept: dict[str, object] = {}
    for key, value in values.items():
        path = (*at, key)
        if is_replicated(path):
            kept[key] = value
        elif isinstance(value, dict) and (inner := _only(value, path)):
            kept[key] = inner
    return kept
