"""docs/workflows.md: every example is without problems, and every picture is that of its example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coterie.core.graph.model import NodeType
from coterie.core.graph.plan import mermaid_of
from coterie.node.workflows import Known, load

TEXT = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text(encoding="utf-8")
TYPES = TEXT.split("## Types of nodes")[1].split("\n## ")[0]
SECTIONS = re.split(r"^### ", TYPES, flags=re.M)[1:]
REPORT = "inputs: [topic]\nnodes: {only: {skill: echo, input: '{{ topic }}'}}\noutputs: '{{ only }}'"
KNOWN = Known(code_enabled=True, workflows={"report": REPORT})


def test_every_type_of_node_has_its_section() -> None:
    headings = [name for section in SECTIONS for name in section.splitlines()[0].split(", ")]
    assert sorted(headings) == sorted(kind.value for kind in NodeType)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_the_picture_of_a_type_is_that_of_its_example(section: str) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", section, re.S)
    [picture] = re.findall(r"```mermaid\n(.*?)\n```", section, re.S)
    loaded = load(example, KNOWN)
    assert loaded.problems == ()
    assert mermaid_of(loaded.graph) == picture
    headings = section.splitlines()[0].split(", ")
    assert {node.type.value for node in loaded.graph.nodes} >= set(headings)
