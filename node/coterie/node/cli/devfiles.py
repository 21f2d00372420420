"""Cluster files of the user's own that `coterie dev` lays upon the one it writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from coterie.node.config import load_config
from coterie.node.config.dev import without_places
from coterie.node.config.findings import ConfigError, KeyPath
from coterie.node.config.read import Tree, read_tree

_ITS_OWN: Final[Mapping[KeyPath, str]] = {
    ("cluster", "nodes"): "--nodes and --port say which there are",
    ("cluster", "discovery"): "all nodes are on this machine, and known",
    ("listen",): "all nodes are on this machine; --port says where",
    ("storage", "dir"): "--dir says where",
    ("security", "tls"): "certificates are made on the fly; --insecure does without",
    ("security", "allow_insecure_loopback"): "--insecure does that",
}


def check_before(files: Sequence[Path], flags: Mapping[KeyPath, str]) -> None:
    """Raises ConfigError with every key of the files that is not for them to say; what is wrong with a file
    itself is found later. `flags`: keys that options of the command say, and the option."""
    if not files:
        return
    tree = read_tree(files, {}, [])
    problems = [_said(tree, path, f"is not for `coterie dev`: {why}") for path, why in _ITS_OWN.items()]
    problems += [
        _said(tree, path, f"{option} says it too; give one of them") for path, option in flags.items()
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise ConfigError(found)


def check_together(config_path: Path, files: Sequence[Path]) -> None:
    """As each node will read them. Raises ConfigError with every problem."""
    if files:
        load_config([config_path, *files], without_places(os.environ))


def _said(tree: Tree, path: KeyPath, text: str) -> str:
    """Nothing where the files do not have the key."""
    value: object = tree.values
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return ""
        value = value[key]
    origin = tree.where(path)
    return f"{origin.written}: {text} ({origin.place})"
