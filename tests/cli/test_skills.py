"""`coterie skills approve`, `validate`: what they tell a person, and what they leave as it is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from coterie.client.skills import PublishedSkill, SkillPolicy, SkillRevision
from tests.cli.fakes import FakeCluster, run
from tests.cli.services import call


def revision(name: str, version: str) -> SkillRevision:
    return SkillRevision(name, version, "APPROVED", 1, {}, datetime.now(UTC), "ann", "ann")


@pytest.mark.parametrize("name", ["2.0.0", "bb"])
def test_the_approval_of_a_canary_leaves_it_its_share(name: str) -> None:
    both = (revision("aa11", "1.0.0"), revision("bb22", "2.0.0"))
    skill = PublishedSkill("wc", both, "aa11", "", "bb22", 30, SkillPolicy())
    done, skills = call("skills", {"approve": skill, "route": skill}, "skills", "approve", "wc", name)
    assert [method for method, *_ in skills.calls] == ["approve"]
    assert f"{name} keeps its 30% of the new tasks; `coterie skills canary wc {name} 100`" in done.stderr
    done, skills = call("skills", {"approve": skill, "route": skill}, "skills", "approve", "wc", "1.0.0")
    assert [method for method, *_ in skills.calls] == ["approve", "route"] and not done.stderr


def test_every_fault_of_the_resources_is_told(tmp_path: Path) -> None:
    (tmp_path / "wc").mkdir()
    text = """---
name: wc
description: Counts words. Use when words are to be counted.
metadata:
  coterie: '{"resources": {"cpu": -1, "memory": "lots", "gpus": 1}}'
---
# wc
"""
    (tmp_path / "wc" / "SKILL.md").write_text(text)
    result = run(FakeCluster(), "skills", "validate", str(tmp_path / "wc"))
    assert result.exit_code == 2
    for said in (
        "cpu: -1 is not",
        "memory: 'lots' is not a size; write bytes",
        "'gpus': unknown key; known: cpu",
    ):
        assert said in result.stderr, result.stderr


def validated(folder: Path, front_matter: str) -> str:
    """What `validate` says is wrong with a skill of that front matter."""
    folder.mkdir()
    (folder / "run.py").write_text("async def run(ctx, input):\n    return 1\n")
    (folder / "SKILL.md").write_text(f"---\n{front_matter}---\n# It\n")
    result = run(FakeCluster(), "skills", "validate", str(folder))
    assert result.exit_code == 2, result.stdout
    return result.stderr


def test_schemas_that_are_none_are_found_before_a_cluster_is_asked(tmp_path: Path) -> None:
    said = validated(
        tmp_path / "wc",
        """name: wc
description: Counts words.
metadata:
  coterie: '{"handler": "run.py:run", "input": {"type": "objekt"}, "output": {"pattern": "x"}}'
""",
    )
    assert "metadata.coterie.input: is no JSON schema: 'objekt' is not valid" in said
    assert "metadata.coterie.output: uses pattern, which only the skill itself can check" in said


def test_what_only_lenient_readers_understand_is_a_fault(tmp_path: Path) -> None:
    said = validated(tmp_path / "wc", "name: wc\ndescription: Use when: words are counted\n")
    assert "SKILL.md: the front matter is not YAML" in said and "put quotes around the value" in said


def test_a_version_that_is_a_number_is_a_fault_because_its_last_zero_goes(tmp_path: Path) -> None:
    said = validated(tmp_path / "wc", "name: wc\ndescription: Counts.\nmetadata:\n  version: 1.10\n")
    assert """metadata.version: is read as the number 1.1; write it in quotes, as in "1.1.0\"""" in said
