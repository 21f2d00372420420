"""What the syntax tree alone says: imports and docstrings."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import Any

Definition = ast.FunctionDef | ast.AsyncFunctionDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def imports_of(tree: ast.Module) -> dict[str, list[str]]:
    """The modules that are imported anywhere in it: of the standard library, of others, and relative ones."""
    found: dict[str, set[str]] = {"standard": set(), "other": set(), "relative": set()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[_origin(alias.name)].add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            found["relative" if node.level else _origin(name)].add(name)
    return {origin: sorted(names) for origin, names in found.items()}


def docstrings_of(tree: ast.Module) -> dict[str, Any]:
    """How many of the module and its public classes, functions and methods have one; those that have none."""
    public = [("module", 1, ast.get_docstring(tree)), *_public(tree, "")]
    missing = [{"name": name, "line": line} for name, line, text in public if not text]
    return {"public": len(public), "documented": len(public) - len(missing), "missing": missing}


def functions_of(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """All functions, in their order, with the names of what they are in."""
    for inner in ast.iter_child_nodes(node):
        if not isinstance(inner, _DEFINITIONS):
            yield from functions_of(inner, prefix)
            continue
        if not isinstance(inner, ast.ClassDef):
            yield f"{prefix}{inner.name}", inner
        yield from functions_of(inner, f"{prefix}{inner.name}.")


def _public(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, str | None]]:
    """What is inside of functions is nobody's to see."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, _DEFINITIONS):
            if inner.name.startswith("_"):
                continue
            yield f"{prefix}{inner.name}", inner.lineno, ast.get_docstring(inner)
            if isinstance(inner, ast.ClassDef):
                yield from _public(inner, f"{prefix}{inner.name}.")
        elif isinstance(inner, ast.If | ast.Try | ast.With):
            yield from _public(inner, prefix)


def _origin(name: str) -> str:
    return "standard" if name.partition(".")[0] in sys.stdlib_module_names else "other"
