"""What a run reads of the revision it is pinned to: the keys of the files that the loop goes by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.core.agentbook import AgentRevision, ApplyAgent
from coterie.core.nouns import Data, TaskId
from coterie.node.agents.calls import AgentCalls
from coterie.node.agents.files import pack, revision_of
from coterie.node.errors import ApiError
from coterie.node.skillhost import SkillInfo
from tests.core.builders import CoreCluster, register_command, submit_command
from tests.node.test_agent_calls import Attempt
from tests.node.test_agent_keys import BINDING, ELSEWHERE, LOADED, LOOP


async def loaded(config: dict[str, Any], **registry: Any) -> dict[str, Any]:
    """What a run of that agent reads on a node that has skill x."""
    files = {"config.yaml": yaml.safe_dump({"id": "a", **config})}
    if registry:
        files["registry.json"] = json.dumps({"id": "a", **registry})
    core, bundle = CoreCluster(), pack(files)
    core.do(register_command())
    core.do(ApplyAgent("a", AgentRevision(revision_of(bundle), "", Data(bundle))))
    core.do(submit_command("run", type="agent", agent="a"))
    skill = SkillInfo("x", "1", "does x", 0, "none")
    calls = AgentCalls(lambda: {"x": skill}, lambda provider, name: f"{provider}/{name}", {})
    return await calls.load(Attempt(core, TaskId("run")), {"revision": revision_of(bundle)})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", LOADED)
async def test_a_key_reaches_the_loop(key: str) -> None:
    config, name, value = LOADED[key]
    assert (await loaded(config))[name] == value


@pytest.mark.parametrize("key", LOOP)
async def test_a_key_of_the_loop_reaches_it(key: str) -> None:
    given = {"model": {"max_tokens": 100}, "loop": {key: LOOP[key]}}
    assert (await loaded(given))["loop"][key] == LOOP[key]


@pytest.mark.parametrize("key", BINDING)
async def test_a_key_of_a_binding_reaches_the_call(key: str) -> None:
    bound, name, value = BINDING[key]
    [tool] = (await loaded({"skills": [bound]}))["tools"]
    assert tool[name] == value


async def test_a_paused_agent_takes_no_runs() -> None:
    with pytest.raises(ApiError) as refused:
        await loaded({}, status="paused")
    assert refused.value.reason == "AGENT_PAUSED"
    assert (await loaded({}, status="active"))["id"] == "a"


def test_the_tests_named_elsewhere_exist() -> None:
    root = Path(__file__).parents[2]
    assert all((root / name).exists() for name in ELSEWHERE.values())
