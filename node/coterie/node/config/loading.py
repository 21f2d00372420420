"""From files to a configuration without errors: read, merged, checked; every problem said at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from coterie.node.config.check import errors, not_yet, notes, refused_values, warnings
from coterie.node.config.findings import ConfigError, Finding, KeyPath
from coterie.node.config.llm_model import ApiKey
from coterie.node.config.model import ClusterConfig
from coterie.node.config.multi_agent import contradictions, fold
from coterie.node.config.read import Tree, read_tree
from coterie.node.config.threshold import fitted


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration without errors, what to think about, the keys that have no effect, and those that this
    version does not act on yet."""

    config: ClusterConfig
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_yet: tuple[str, ...] = ()


def load_config(paths: Sequence[Path], env: Mapping[str, str]) -> LoadedConfig:
    """Read, merge and check. Raises ConfigError with every problem found, one line each."""
    problems: list[str] = []
    tree = read_tree(paths, env, problems)
    config, broken = validated(tree, problems)
    refused = refused_values(tree)
    clashes = list(contradictions(config)) if config else []
    config, remarked = fitted(fold(config)) if config else (None, [])
    findings = [*refused, *clashes, *(errors(config) if config and tree.complete else ())]
    problems += [said(tree, finding) for finding in findings if not _rests_on(finding, broken)]
    if config is None or problems:
        raise ConfigError(dict.fromkeys(problems))
    remarks = [
        tuple(said(tree, finding) for finding in findings)
        for findings in ([*remarked, *warnings(config)], notes(tree), not_yet(tree))
    ]
    return LoadedConfig(config, *remarks)


def validated(tree: Tree, problems: list[str]) -> tuple[ClusterConfig | None, list[KeyPath]]:
    """The typed configuration. When values are wrong, they are reported and left out, so that the checks
    across keys can still speak about the rest; the second answer is where they were."""
    broken: list[KeyPath] = []
    values = tree.values
    for attempt in range(3):
        try:
            return ClusterConfig.model_validate(values), broken
        except ValidationError as error:
            details = error.errors(include_url=False)
        paths = [_tree_path(values, detail["loc"]) for detail in details]
        if attempt == 0:
            problems += [
                said(tree, Finding(path, describe(d))) for path, d in zip(paths, details, strict=True)
            ]
        broken += paths if attempt == 0 else [_list_around(path) for path in paths]
        values = _without(values, broken, ())
    return None, broken


def _tree_path(values: object, location: Iterable[int | str]) -> KeyPath:
    """Where the file has the value: what pydantic adds for the branches of a type is left out."""
    value = values
    path: list[int | str] = []
    for part in location:
        if isinstance(value, dict):
            value = value.get(part)  # or a key that is missing
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        else:
            break
        path.append(part)
    return tuple(path)


def _list_around(path: KeyPath) -> KeyPath:
    """Up to the first list on the way: a place in it cannot be left out without moving the others."""
    place = next((at for at, part in enumerate(path) if isinstance(part, int)), len(path) - 1)
    return path[:place]


def _without(value: object, broken: Sequence[KeyPath], at: KeyPath) -> Any:
    """A copy without the broken values."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if (*at, key) not in broken}
        return {key: _without(inner, broken, (*at, key)) for key, inner in kept.items()}
    if isinstance(value, list):
        return [_without(item, broken, (*at, place)) for place, item in enumerate(value)]
    return value


def _rests_on(finding: Finding, broken: Sequence[KeyPath]) -> bool:
    """Whether the finding speaks of something that was already reported as wrong."""
    return any(
        path[: len(known)] == known or known[: len(path)] == path
        for path in (finding.path, *finding.depends_on)
        for known in broken
    )


def said(tree: Tree, finding: Finding) -> str:
    origin = tree.where(finding.path)
    place = f" ({origin.place})" if origin.place else ""
    return f"{origin.written}: {finding.text}{place}"


_EXPECTED: Mapping[str, str] = {
    "int_type": "expected a whole number",
    "string_type": "expected text; put it in quotes",
    "bool_type": "expected true or false",
    "float_type": "expected a number",
    "path_type": "expected a path",
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "model_attributes_type": "expected keys and values",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "is longer than {max_length} characters",
    "too_long": "has more than {max_length} entries",
}


def describe(detail: ErrorDetails) -> str:
    """One sentence: the value, what is wrong with it, and what to write."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        return "is missing; add it"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"{_shown(value)} is not known; {_choices(value, str(context['expected']))}"
    if context.get("class_name") == ApiKey.__name__:
        return "expected env or file, which say where the secret is; what stands here is not shown"
    expected = _EXPECTED.get(kind)
    if expected is None:
        return f"{_shown(value)}: {detail['msg']}"
    return f"{_shown(value)}: {expected.format(**context)}"


def _choices(value: object, expected: str) -> str:
    names = expected.replace(" or ", ", ").replace("'", "").split(", ")
    near = difflib.get_close_matches(str(value), names, n=1)
    return f"did you mean {near[0]}?" if near else f"write one of {', '.join(names)}"


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
