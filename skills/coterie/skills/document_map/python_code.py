"""Metrics of Python source by its syntax tree: functions, complexity, nesting, docstrings, imports."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

FUNCTIONS_MAX = 6
IMPORTS_MAX = 80
NAME_CHARS_MAX = 80
# Of the syntax tree; the parser has its own, higher limit, but our walk recurses too.
DEPTH_MAX = 300

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_DOCUMENTABLE = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.With, ast.AsyncWith, ast.Match, ast.TryStar)
# Each adds one way through the code (McCabe: A Complexity Measure, 1976), boolean operators one per operator.
_DECISIONS = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.IfExp,
    ast.Assert,
    ast.comprehension,
    ast.match_case,
)


@dataclass(slots=True)
class FunctionMetrics:
    """One function; `complexity` is McCabe's number, `nesting` the depth of its blocks."""

    name: str
    line: int
    lines: int
    arguments: int
    complexity: int = 1
    nesting: int = 0
    documented: bool = False

    def as_row(self) -> dict[str, Any]:
        """The row of a result."""
        return {
            "name": self.name[:NAME_CHARS_MAX],
            "line": self.line,
            "lines": self.lines,
            "complexity": self.complexity,
            "nesting": self.nesting,
        }


@dataclass(slots=True)
class CodeMetrics:
    """What one walk over the tree collects."""

    functions: list[FunctionMetrics] = field(default_factory=list)
    classes: int = 0
    documentable: int = 1
    documented: int = 0
    imports: set[str] = field(default_factory=set)
    too_deep: bool = False


def module_name(path: str) -> str:
    """Dotted name of a module by its path: "asyncio/events.py" is asyncio.events."""
    parts = list(PurePosixPath(path.removesuffix(".py")).parts)
    if parts and parts[-1] == "__init__":
        parts.pop()
    return ".".join(part for part in parts if part not in ("/", "..", "."))


def parse(text: str) -> ast.Module | None:
    """The syntax tree; None when the text is no Python of this version."""
    try:
        # Old code has invalid escapes and the like; they are its authors' business.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def docstrings(text: str) -> list[str]:
    """All docstrings of a source, outer before inner; empty when it does not parse."""
    tree = parse(text)
    nodes = ast.walk(tree) if tree is not None else ()
    found = (ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, _DOCUMENTABLE))
    return [docstring for docstring in found if docstring]


def measure_code(path: str, text: str) -> dict[str, Any]:
    """The metrics of one source file; {"parsed": False} when it is no Python of this version."""
    tree = parse(text)
    if tree is None:
        return {"parsed": False}
    metrics = walk(tree, path)
    functions = metrics.functions
    by_length = sorted(functions, key=lambda f: (-f.lines, f.name, f.line))
    by_complexity = sorted(functions, key=lambda f: (-f.complexity, f.name, f.line))
    return {
        "parsed": True,
        "module": module_name(path),
        "functions": len(functions),
        "classes": metrics.classes,
        "function_lines": sum(f.lines for f in functions),
        "complexity_total": sum(f.complexity for f in functions),
        "complexity_max": by_complexity[0].complexity if functions else 0,
        "nesting_max": max((f.nesting for f in functions), default=0),
        "arguments_max": max((f.arguments for f in functions), default=0),
        "documentable": metrics.documentable,
        "documented": metrics.documented,
        "docstring_coverage": round(metrics.documented / metrics.documentable, 3),
        "longest": [f.as_row() for f in by_length[:FUNCTIONS_MAX]],
        "most_complex": [f.as_row() for f in by_complexity[:FUNCTIONS_MAX]],
        "imports": sorted(metrics.imports)[:IMPORTS_MAX],
        "too_deep": metrics.too_deep,
    }


def walk(tree: ast.Module, path: str) -> CodeMetrics:
    """One pass over a module."""
    metrics = CodeMetrics()
    _note_docstring(tree, metrics)
    _Walker(metrics, path).children(tree, _Place(None, "", 0, 0))
    return metrics


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk is: in which function, under which dotted name, how deep in blocks and in the tree."""

    function: FunctionMetrics | None
    name: str
    blocks: int
    depth: int


class _Walker:
    def __init__(self, metrics: CodeMetrics, path: str) -> None:
        self._metrics = metrics
        package = module_name(path).split(".")
        self._package = package if path.endswith("__init__.py") else package[:-1]

    def children(self, node: ast.AST, place: _Place) -> None:
        for child in ast.iter_child_nodes(node):
            self._visit(child, place)

    def _visit(self, node: ast.AST, place: _Place) -> None:
        if place.depth > DEPTH_MAX:
            self._metrics.too_deep = True
        elif isinstance(node, _Function):
            self._function(node, place)
        elif isinstance(node, ast.ClassDef):
            self._metrics.classes += 1
            _note_docstring(node, self._metrics)
            self.children(node, _Place(place.function, _joined(place.name, node.name), 0, place.depth + 1))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node)
        else:
            self._other(node, place)

    def _other(self, node: ast.AST, place: _Place) -> None:
        blocks = place.blocks + self._count(node, place)
        inner = _Place(place.function, place.name, blocks, place.depth + 1)
        if isinstance(node, ast.If) and _is_elif(node):
            # The tree nests an `elif` in the branch before it; a reader does not.
            for child in (node.test, *node.body):
                self._visit(child, inner)
            self._visit(node.orelse[0], _Place(place.function, place.name, place.blocks, place.depth + 1))
        else:
            self.children(node, inner)

    def _function(self, node: _Function, place: _Place) -> None:
        arguments = node.args
        found = FunctionMetrics(
            name=_joined(place.name, node.name),
            line=node.lineno,
            lines=(node.end_lineno or node.lineno) - node.lineno + 1,
            arguments=len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs),
            documented=_note_docstring(node, self._metrics),
        )
        self._metrics.functions.append(found)
        self.children(node, _Place(found, found.name, 0, place.depth + 1))

    def _count(self, node: ast.AST, place: _Place) -> int:
        """Count what `node` adds to its function. Returns how many blocks deeper its children are."""
        function = place.function
        if function is None:
            return 0
        if isinstance(node, _DECISIONS):
            function.complexity += 1
        elif isinstance(node, ast.BoolOp):
            function.complexity += len(node.values) - 1
        if isinstance(node, ast.comprehension):
            function.complexity += len(node.ifs)
        if not isinstance(node, _BLOCKS):
            return 0
        function.nesting = max(function.nesting, place.blocks + 1)
        return 1

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            self._metrics.imports.update(alias.name for alias in node.names)
            return
        parent = self._package[: len(self._package) - node.level + 1] if node.level else []
        base = ".".join([*parent, *([node.module] if node.module else [])])
        if node.level and not node.module:
            # `from . import events` names a module beside this one.
            self._metrics.imports.update(_joined(base, alias.name) for alias in node.names)
        elif base:
            self._metrics.imports.add(base)


def _is_elif(node: ast.If) -> bool:
    branch = node.orelse
    return len(branch) == 1 and isinstance(branch[0], ast.If) and branch[0].col_offset == node.col_offset


def _note_docstring(node: ast.Module | ast.ClassDef | _Function, metrics: CodeMetrics) -> bool:
    if not isinstance(node, ast.Module):
        metrics.documentable += 1
    documented = bool(ast.get_docstring(node, clean=False))
    metrics.documented += documented
    return documented


def _joined(outer: str, inner: str) -> str:
    return f"{outer}.{inner}" if outer else inner
