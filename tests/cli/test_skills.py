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
