"""The shipped agents: every one can be applied as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.client.agents import read_agent_files
from coterie.node.agents.definition import read_definition, read_registry

AGENTS = Path(__file__).parents[2] / "cluster-config" / "agents"
DIRECTORIES = sorted(path.parent for path in AGENTS.glob("*/config.yaml"))
REGISTRY = read_registry((AGENTS / "agent-registry.yaml").read_text())


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: path.name)
def test_a_shipped_agent_is_complete(directory: Path) -> None:
    files = read_agent_files(directory)
    agent = read_definition(files)
    assert {"config.yaml", "IDENTITY.md", "SOUL.md", "tools-config.json"} <= set(files)
    assert agent.domains and agent.config.skills
    if agent.agent_id in REGISTRY:
        registered = read_definition({**files, "registry.json": json.dumps(REGISTRY[agent.agent_id])})
        assert registered.version == REGISTRY[agent.agent_id]["version"]
        assert set(REGISTRY[agent.agent_id]["domains"]) <= set(registered.domains)


def test_there_are_the_teams() -> None:
    names = {path.name for path in DIRECTORIES}
    assert {"ai-engineer", "product-manager", "architect"} <= names
    assert {"data_collector", "data_analyst", "visualizer", "report_writer"} <= names
    assert len(REGISTRY) == 3
