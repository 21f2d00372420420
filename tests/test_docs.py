"""The documents stay true where a machine can tell."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest

import coterie.client
import coterie.client.sync
from coterie.core.nouns import TaskState
from coterie.core.transitions import TERMINAL, mermaid
from coterie.node.cli import failures
from coterie.node.metrics import GAUGES, NodeMetrics

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text() for path in PAGES} | {
    module.__name__: module.__doc__ or "" for module in (coterie.client, coterie.client.sync)
}
PYTHON = re.compile(r"^( *)```python\n(.*?)^ *```$", re.M | re.S)
PROGRAMS = [
    (f"{name} {number}", textwrap.dedent(found[2]))
    for name, text in TEXTS.items()
    for number, found in enumerate(PYTHON.finditer(text), 1)
]


def test_the_picture_of_a_task_is_drawn_from_the_table() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    shown = text.split("<!-- transitions -->")[1].split("<!-- /transitions -->")[0].strip()
    assert shown == f"```mermaid\n{mermaid()}\n```"


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_files_and_targets_named_in_the_documents_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {target for target in re.findall(r"`make ([a-z]+)", text)} <= targets
    folders = {
        "core": "consensus/coterie/core",
        "raft": "consensus/coterie/raft",
        "node": "node/coterie/node",
    }
    folders["client"] = "node/coterie/client"
    for room, path in re.findall(r"`(core|raft|node|client)/([a-z_]+\.py)", text):
        assert (ROOT / folders[room] / path).exists(), f"{name} speaks of {room}/{path}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_what_a_document_names_as_its_proof_exists(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for name in re.findall(r"`(tests/[a-z0-9_/]+\.py)", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def event_types() -> set[str]:
    """Every type of event that the state machine writes as it stands, and those it makes of names."""
    found = {state.name.lower() for state in (*TERMINAL, TaskState.WAITING, TaskState.PAUSED)}
    found |= {"call_approved", "call_rejected", "released", "emitted", "restored"}
    for path in sorted((ROOT / "consensus/coterie/core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                place = {"change_task": 4, "Event": 0}.get(node.func.id, len(node.args))
                given = node.args[place : place + 1]
                found |= {str(a.value) for a in given if isinstance(a, ast.Constant)}
    return found


def test_every_type_of_event_is_in_the_catalogue_and_no_other() -> None:
    rows = [line.split("|")[1] for line in (ROOT / "docs/events.md").read_text().splitlines() if "|" in line]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told == event_types()


@pytest.mark.parametrize(("name", "text"), PROGRAMS, ids=[name for name, _ in PROGRAMS])
def test_a_program_on_a_page_compiles_and_imports_what_there_is(name: str, text: str) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    tree = compile(text, name, "exec", flags=flags)
    assert isinstance(tree, ast.Module)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("coterie.")]
    for node in ours:
        module = importlib.import_module(node.module or "")
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
    if any((node.module or "").startswith("coterie.client") for node in ours):
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        known = {alias.name for node in ours for alias in node.names}
        assert used & set(coterie.client.__all__) <= known, "used, and not imported"


def test_there_are_programs_on_the_pages() -> None:
    assert len(PROGRAMS) > 15


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_command_calls_with_the_directory_of_a_node(path: Path) -> None:
    """A node's directory has no certificate of a user."""
    (nodes,) = re.findall(r"tls: \{dir: (/[^}\s]+)", TEXTS["README.md"])
    assert nodes not in re.findall(r"--tls-dir (\S+)", path.read_text())


def test_every_metric_is_in_the_table() -> None:
    table = TEXTS["operations.md"].split("\n## Metrics\n")[1].split("\n## ")[0]
    told = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    families = {family.name + "_total" * (family.type == "counter") for family in NodeMetrics().families()}
    assert families | set(GAUGES) <= told


def test_every_exit_code_is_in_the_table() -> None:
    table = TEXTS["tasks.md"].split("\n## From scripts\n")[1].split("\n## ")[0]
    codes = {code for name, code in vars(failures).items() if name.startswith("EXIT_")}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)} == {0, *codes}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_what_is_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        name, _, anchor = target.partition("#")
        if "://" in target or not name.endswith((".md", "")):
            continue
        page = (path.parent / name) if name else path
        assert page.exists(), f"{path.name} leads to {target}"
        if anchor and page.suffix == ".md":
            assert anchor in anchors(page.read_text()), f"{path.name} leads to {target}"


def anchors(text: str) -> set[str]:
    """As they are made of headings, and those that are written out."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))
