"""Figures of one source text: radon counts and weighs, pyflakes finds names. Nothing of the source is run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from pyflakes.checker import Checker
from radon.metrics import mi_visit
from radon.raw import analyze
from radon.visitors import ComplexityVisitor

from coterie.skills.python_analysis.structure import docstrings_of, functions_of, imports_of

PROBLEMS_MAX = 200
FUNCTIONS_MAX = 500
BOM = "\ufeff"

Place = tuple[int, int]  # line and column


def measured(path: str, source: str) -> dict[str, Any]:
    """All that is told of a file; `error` alone where it is no Python of this node's version."""
    source = source.removeprefix(BOM)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the parser thinks of escape sequences
            return {"path": path, **_figures(ast.parse(source), source, path)}
    except SyntaxError as error:
        return {"path": path, "error": f"line {error.lineno or 0}: {error.msg}"}
    except (ValueError, RecursionError, MemoryError) as error:
        said = "is nested too deeply" if isinstance(error, RecursionError | MemoryError) else str(error)
        return {"path": path, "error": said}


def _figures(tree: ast.Module, source: str, path: str) -> dict[str, Any]:
    raw = analyze(source)
    functions = _functions(tree)
    return {
        "lines": raw.loc,
        "code": raw.sloc,
        "comments": raw.comments,
        "blank": raw.blank,
        "maintainability": round(mi_visit(source, multi=True), 1),
        "functions": functions[:FUNCTIONS_MAX],
        "functions_count": len(functions),
        "imports": imports_of(tree),
        "problems": _problems(tree, path),
        "docstrings": docstrings_of(tree),
    }


def _functions(tree: ast.Module) -> list[dict[str, Any]]:
    seen = ComplexityVisitor.from_ast(tree)
    complexity = dict(_complexities(seen.functions, seen.classes))
    return [
        {
            "name": name,
            "line": node.lineno,
            "complexity": complexity.get((node.lineno, node.col_offset), 1),
            "length": (node.end_lineno or node.lineno) - node.lineno + 1,
            "parameters": _parameters(node.args),
        }
        for name, node in functions_of(tree)
    ]


def _complexities(functions: Iterable[Any], classes: Iterable[Any]) -> Iterator[tuple[Place, int]]:
    """By where they begin: radon's own ends of functions are not always right."""
    for one in functions:
        yield (one.lineno, one.col_offset), one.complexity
        yield from _complexities(one.closures, ())
    for one in classes:
        yield from _complexities(one.methods, one.inner_classes)


def _parameters(given: ast.arguments) -> int:
    """Without self or cls."""
    names = [one.arg for one in (*given.posonlyargs, *given.args)]
    bound = 1 if names[:1] in (["self"], ["cls"]) else 0
    return len(names) - bound + len(given.kwonlyargs) + bool(given.vararg) + bool(given.kwarg)


def _problems(tree: ast.Module, path: str) -> list[dict[str, Any]]:
    found = sorted(Checker(tree, filename=path).messages, key=lambda one: (one.lineno, one.col))
    return [
        {"line": one.lineno, "kind": type(one).__name__, "text": one.message % one.message_args}
        for one in found[:PROBLEMS_MAX]
    ]
