"""Modules do not import each other in a circle, not even for types: each can be read with its foundations."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import networkx as nx

from tests.test_architecture import module_name, product_files

# How the nodes of a run begin and end is one recursion: a node that ends begins others, which may end too.
RECURSION = frozenset(
    f"coterie.core.runs.{name}" for name in ("endings", "instant", "parts", "rounds", "tasks", "walk")
)
# A run keeps look-ups about itself, made from itself when they are first needed.
LOOK_UPS = frozenset(f"coterie.core.runs.{name}" for name in ("book", "joins", "outline", "run"))


def circles(sources: Mapping[str, str]) -> list[frozenset[str]]:
    """Sets of modules that reach each other by imports."""
    graph = nx.DiGraph(
        (module, name)
        for module, source in sources.items()
        for name in _imported(ast.parse(source), frozenset(sources))
        if name != module
    )
    return [frozenset(each) for each in nx.strongly_connected_components(graph) if len(each) > 1]


def _imported(tree: ast.AST, modules: frozenset[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
        else:
            continue
        for whole, package in names:
            yield from [name for name in (whole, package) if name in modules][:1]


def test_no_modules_import_each_other() -> None:
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in product_files()}
    found = [sorted(each) for each in circles(sources) if each not in (RECURSION, LOOK_UPS)]
    assert found == []


def test_a_circle_is_found_also_where_only_types_make_it() -> None:
    sources = {
        "a": "import b",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from c import C",
        "c": "def f():\n    from a import A",
        "d": "import a",
    }
    assert circles(sources) == [frozenset("abc")]
