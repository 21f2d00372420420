"""Every shipped skill is one that could be published, and a model could choose."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from coterie.node.schemas import faults_by_text
from coterie.skills.registry import MANIFEST_FILE, SHIPPED_DIR, discover, load
from coterie.skills.shipped_settings import NAMES, model_of
from coterie.skills.validation import validate
from tests.cli.fakes import FakeCluster, run
from tests.skills.shipped.support import refusal

FOLDERS = sorted(path.parent for path in SHIPPED_DIR.glob(f"*/{MANIFEST_FILE}"))
TOOLS = {
    "communication",
    "data-analysis",
    "file-management",
    "k8s-deploy",
    "object-storage",
    "python-analysis",
    "summarize",
    "translate",
    "web-fetch",
    "web-search",
}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_is_without_fault(folder: Path) -> None:
    report = validate(folder.name, files(folder))
    assert (report.faults, report.described.effects != "") == ((), True)


def test_each_says_what_it_takes_and_when_to_use_it() -> None:
    sources, problems = discover([SHIPPED_DIR])
    assert problems == []
    assert {source.name for source in sources} >= TOOLS
    for source in sources:
        for skill in load(source) if source.name in TOOLS else ():
            assert "Use " in skill.description and len(skill.description) > 60, skill.name
            schema = json.loads(skill.input)
            Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object" and schema["additionalProperties"] is False, skill.name
            assert (skill.timeout_ms or 0) > 0, skill.name


def test_settings_are_checked_with_the_classes_that_the_skills_read_them_with() -> None:
    read: dict[str, str] = {}
    for folder in FOLDERS:
        for path in folder.glob("*.py"):
            read |= dict(re.findall(r'settings_of\(ctx, "([\w-]+)", (\w+)\)', path.read_text()))
    assert read and read == {name: getattr(model_of(name), "__name__", "") for name in NAMES}
    assert model_of("echo") is None


ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "shipped-skills.md").read_text()
HEAVY = (
    "polars",
    "matplotlib",
    "numpy",
    "boto3",
    "botocore",
    "kubernetes",
    "radon",
    "pyflakes",
    "lark_oapi",
    "mcp",
)
ALL_SKILLS = f"""
import sys
from coterie.skills.registry import SHIPPED_DIR, discover, load
from coterie.skills.shipped_settings import NAMES, model_of
assert all(load(source) for source in discover([SHIPPED_DIR])[0]) and all(map(model_of, NAMES))
print([name for name in {HEAVY!r} if name in sys.modules])
"""
SOURCES = {source.name: source for source in discover([SHIPPED_DIR])[0]}


def test_the_command_finds_no_fault_in_what_is_shipped_and_shown() -> None:
    shown = [
        path.parent for name in ("cluster-config", "node") for path in (ROOT / name).rglob(MANIFEST_FILE)
    ]
    assert len(shown) >= 2
    result = run(FakeCluster(), "skills", "validate", *map(str, [*FOLDERS, *shown]))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("is sound") == len(FOLDERS) + len(shown)


def test_no_library_of_an_extra_is_imported_before_a_task_needs_it() -> None:
    """By a process that has them all."""
    done = subprocess.run([sys.executable, "-c", ALL_SKILLS], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def rows() -> dict[str, list[str]]:
    """The table of all skills: by name the other columns."""
    table = PAGE.partition("| skill | what for |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {name: rest for name, *rest in cells}


def test_the_table_of_shipped_skills_names_them_all() -> None:
    assert sorted(rows()) == list(rows()) == sorted(SOURCES)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_table_says_what_the_skill_says(name: str) -> None:
    _, takes, needs, extra, effects, _ = rows()[name]
    [skill] = load(SOURCES[name])
    schema = json.loads(skill.input or "{}")
    told = set(re.findall(r"`(\w+)`", takes))
    assert set(schema.get("required", ())) <= told <= set(schema.get("properties", ()))
    assert effects == skill.effects
    model = model_of(name)
    required = (
        {field.alias or "" for field in model.model_fields.values() if field.is_required()}
        if model
        else set()
    )
    assert set(re.findall(r"`(\w+)`", needs)) == required
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = (
        {re.split(r"[>=<]", one)[0] for one in extras[extra.partition("[")[2].partition("]")[0]]}
        if extra
        else set()
    )
    modules = set(validate(SOURCES[name].folder.name, files(SOURCES[name].folder)).described.requires)
    assert modules <= brought and bool(modules) == extra.startswith("`pip")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_in_the_section_of_its_skill(name: str) -> None:
    sections = re.split(r"^## ", PAGE, flags=re.M)[1:]
    [section] = [one for one in sections if name in one.partition("\n")[0].split(", ")]
    model = model_of(name)
    assert model is not None
    schema = model.model_json_schema()
    keys = {key for part in (schema, *schema.get("$defs", {}).values()) for key in part.get("properties", {})}
    assert {key for key in keys if not re.search(rf"\b{key}\b", section)} == set()


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"echo"}))
async def test_a_field_that_the_skill_does_not_know_is_refused_by_its_name(name: str) -> None:
    [skill] = load(SOURCES[name])
    given = {"no_such_field": 1}
    wrong = faults_by_text(skill.input, json.dumps(given).encode())
    said = [text for _, text in wrong] if skill.input else [(await refusal(name, given)).message]
    assert any("no_such_field" in text for text in said), said
