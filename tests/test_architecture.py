"""The house rules, executable: who may import whom, what nobody may call, and how big things may grow."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("proto", "consensus", "node", "skills")
LINES_PER_FILE_MAX = 400
LINES_PER_FUNCTION_MAX = 50

STDLIB = frozenset(sys.stdlib_module_names) | {"_typeshed"}  # _typeshed exists for type checkers only
CORE = frozenset(
    {"__future__", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib", "heapq"}
)
CORE |= {"itertools", "json", "math", "operator", "re", "struct", "typing", "networkx"}
ANYTHING = frozenset({"*"})

# Package -> what it may import besides itself, by the longest dotted prefix that is named here.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "coterie.v1": frozenset(),  # what is not generated there
    "coterie.core": CORE,
    "coterie.raft": STDLIB
    | {
        "coterie.core",
        "coterie.v1.log_pb2",
        "coterie.v1.raft_pb2",
        "google.protobuf",
        "pysyncobj",
        "pydantic",
    },
    "coterie.skills": STDLIB | {"pydantic", "yaml"},
    "coterie.client": STDLIB | {"coterie.v1", "grpc", "google.rpc", "google.protobuf"},
    "coterie.node": ANYTHING,
}
# Inside functions only: the base install does not bring them, and the message says what to install.
MAY_IMPORT_LATE: dict[str, frozenset[str]] = {"coterie.client": frozenset({"yaml", "dns"})}
# Modules of shipped skills that are imported when they are first needed, and what an extra brings for them.
EXTRAS: dict[str, frozenset[str]] = {
    "coterie.skills.data_analysis.answering": frozenset({"polars"}),
    "coterie.skills.data_analysis.tables": frozenset({"polars"}),
    "coterie.skills.data_analysis.charts": frozenset({"polars", "matplotlib"}),
    "coterie.skills.communication.lark": frozenset({"lark_oapi", "requests"}),
    "coterie.skills.object_storage.store": frozenset({"boto3", "botocore"}),
    "coterie.skills.k8s_deploy.cluster": frozenset({"kubernetes", "urllib3"}),
    "coterie.skills.python_analysis.measuring": frozenset({"radon", "pyflakes"}),
}
# Foreign library -> the only module or package that may import it.
OWNERS = {"pysyncobj": "coterie.raft", "openai": "coterie.node.llm"}
NEVER_IMPORTED = frozenset({"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"})
NEVER_CALLED = frozenset({"eval", "exec", "compile", "__import__"})
# Who may look at os.environ: configuration, the entry points that hand it on, and a skill's own process.
ENVIRONMENT_READERS = (
    "coterie.node.config",
    "coterie.node.cli",
    "coterie.node.main",
    "coterie.node.demo",
    "coterie.node.localcluster",
    "coterie.node.skillhost.zygote",
    "coterie.client.settings",
    "coterie.skills",
)


def product_files() -> list[Path]:
    files = [path for room in ROOMS for path in (ROOT / room / "coterie").rglob("*.py")]
    return sorted(path for path in files if "_pb2" not in path.name)


def python_files() -> list[Path]:
    others = [path for folder in ("tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    return sorted([*product_files(), *others])


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts[1:])
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def violations(source: str, module: str) -> list[str]:
    """What breaks the law in a module of the product, one line each."""
    tree = ast.parse(source)
    late = {id(node) for function in functions(tree) for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [
                f"line {node.lineno}: {reason}"
                for reason in _import_faults(node, module, late=id(node) in late)
            ]
        found += [f"line {getattr(node, 'lineno', 0)}: {reason}" for reason in _use_faults(node, module)]
    return found


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _import_faults(node: ast.Import | ast.ImportFrom, module: str, *, late: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif node.level:
        yield "relative import"
        return
    else:  # `from coterie.v1 import log_pb2` imports a module: its whole name is what counts
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    package = ".".join(module.split(".")[:2])
    allowed = (
        MAY_IMPORT[package]
        | EXTRAS.get(module, frozenset())
        | (MAY_IMPORT_LATE.get(package, frozenset()) if late else frozenset())
    )
    for name in names:
        top = name.split(".")[0]
        if top in NEVER_IMPORTED:
            yield f"nobody imports {top}"
        elif top in OWNERS and not _within(module, OWNERS[top]):
            yield f"{top} belongs to {OWNERS[top]}"
        elif (
            not _within(name, package) and allowed != ANYTHING and not any(_within(name, a) for a in allowed)
        ):
            yield f"{package} must not import {name}"


def _use_faults(node: ast.AST, module: str) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NEVER_CALLED:
        yield f"nobody calls {node.func.id}"
    if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}:
        of_os = isinstance(node.value, ast.Name) and node.value.id == "os"
        if of_os and not any(module == reader or module.startswith(reader) for reader in ENVIRONMENT_READERS):
            yield "the environment is read by coterie.node.config"


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", product_files(), ids=_relative)
def test_a_module_keeps_the_law(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), module_name(path)) == []


@pytest.mark.parametrize("path", python_files(), ids=_relative)
def test_a_file_and_its_functions_stay_small(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LINES_PER_FILE_MAX
    long = {
        function.name: lines
        for function in functions(ast.parse(source))
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > LINES_PER_FUNCTION_MAX
    }
    assert long == {}


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("coterie.core.a", "import time", "coterie.core must not import time"),
        ("coterie.core.a", "from os import path", "coterie.core must not import os.path"),
        ("coterie.core.a", "def f():\n    import random", "coterie.core must not import random"),
        ("coterie.core.a", "from coterie.v1 import log_pb2", "must not import coterie.v1.log_pb2"),
        ("coterie.core.a", "from coterie.raft import codec", "must not import coterie.raft.codec"),
        ("coterie.core.a", "from . import nouns", "relative import"),
        ("coterie.raft.a", "from coterie.v1 import tasks_pb2", "must not import coterie.v1.tasks_pb2"),
        ("coterie.raft.a", "import coterie.node.app", "must not import coterie.node.app"),
        ("coterie.raft.a", "import grpc", "coterie.raft must not import grpc"),
        ("coterie.raft.a", "import os\nx = os.environ", "the environment is read by"),
        ("coterie.node.a", "from pysyncobj import SyncObj", "pysyncobj belongs to coterie.raft"),
        ("coterie.node.a", "def f():\n    import openai", "openai belongs to coterie.node.llm"),
        ("coterie.node.a", "import pickle", "nobody imports pickle"),
        ("coterie.node.a", "x = eval('1')", "nobody calls eval"),
        ("coterie.node.a", "import os\nx = os.getenv('A')", "the environment is read by"),
        ("coterie.skills.a", "from coterie.core import nouns", "must not import coterie.core.nouns"),
        ("coterie.client.a", "from coterie.core import nouns", "must not import coterie.core.nouns"),
        ("coterie.client.a", "import yaml", "coterie.client must not import yaml"),
        ("coterie.client.a", "import googleapis", "coterie.client must not import googleapis"),
    ],
)
def test_the_law_finds_a_planted_fault(module: str, source: str, fault: str) -> None:
    assert any(fault in found for found in violations(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("coterie.core.a", "from collections.abc import Mapping\nfrom coterie.core import nouns"),
        ("coterie.raft.a", "from pysyncobj import SyncObj\nfrom coterie.v1 import raft_pb2\nimport os"),
        ("coterie.client.a", "def f():\n    import yaml\nfrom coterie.v1 import tasks_pb2\nimport grpc"),
        ("coterie.node.llm", "import openai"),
        ("coterie.node.config.read", "import os\nx = os.environ"),
        ("coterie.skills.a", "import asyncio\nimport pydantic\nimport re\nre.compile('x')"),
    ],
)
def test_the_law_lets_the_lawful_pass(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_every_source_root_holds_only_the_namespace() -> None:
    for room in ROOMS:
        names = {path.name for path in (ROOT / room).iterdir() if path.name != "__pycache__"}
        assert names == {"coterie"}, f"{room}/ is a source root: {names}"
        assert not (ROOT / room / "coterie" / "__init__.py").exists(), "coterie is a namespace (PEP 420)"
