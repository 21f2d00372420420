"""Every shipped skill is one that could be published, and a model could choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from coterie.skills.registry import MANIFEST_FILE, SHIPPED_DIR, discover, load
from coterie.skills.validation import validate

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
            assert skill.timeout_ms > 0, skill.name
