"""A table from this machine's own facts: the modules of its Python, for demos that need real data."""

from __future__ import annotations

import ast
import csv
import sysconfig
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

FILES_MAX = 400
FILE_BYTES_MAX = 400_000


@dataclass(frozen=True, slots=True)
class Module:
    """One source file."""

    package: str
    module: str
    bytes: int
    lines: int
    functions: int
    classes: int


def write_modules(path: Path, count: int = FILES_MAX) -> list[Module]:
    """The table as CSV; also its rows."""
    rows = list(_modules(Path(sysconfig.get_paths()["stdlib"]), count))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Module)])
        writer.writerows(astuple(row) for row in rows)
    return rows


def _modules(root: Path, count: int) -> Iterator[Module]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if count == 0 or {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(parts):
            continue
        module = _module(path, parts)
        if module is not None:
            count -= 1
            yield module


def _module(path: Path, parts: tuple[str, ...]) -> Module | None:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            return None
        text = path.read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(text)))
    except (OSError, UnicodeDecodeError, SyntaxError):
        return None
    functions = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)
    classes = sum(isinstance(node, ast.ClassDef) for node in nodes)
    package = parts[0] if len(parts) > 1 else "(top)"
    return Module(package, ".".join(parts), len(text.encode()), text.count("\n"), functions, classes)
