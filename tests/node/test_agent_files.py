"""The files of an agent: what they mean, and everything that is wrong with them at once."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml

from coterie.core.commands import DeleteLimit, SetLimit
from coterie.core.llm.commands import DeleteLlmBudget, SetLlmBudget
from coterie.node.agents.calls import allowed
from coterie.node.agents.definition import Definition, read_definition, read_registry, skill_name
from coterie.node.agents.files import AgentProblems, pack, revision_of, unpack
from coterie.node.agents.limits import limits_of
from coterie.node.agents.pledge import ineffective
from coterie.skills.agent.plan import tool_name
from tests.core.builders import CoreCluster

CONFIG: dict[str, Any] = {
    "id": "agent-ai-001",
    "name": "Engineer",
    "description": "Trains models.",
    "model": {
        "provider": "anthropic",
        "name": "large",
        "version": "latest",
        "temperature": 0.3,
        "max_tokens": 8_000,
        "thinking": "moderate",
    },
    "permissions": [
        {"gpu_access": True, "max_allocation": 2},
        {"file_access": True, "paths": ["/workspace/models"]},
        {"network_access": True, "allowed_endpoints": ["*.example.org"]},
    ],
    "skills": [
        {
            "skill_id": "shared/web-search",
            "version": "latest",
            "timeout": 30,
            "retry_policy": {"max_retries": 3, "backoff": "exponential"},
        }
    ],
    "memory": {"type": "persistent", "ttl": 2_592_000},
    "rate_limits": {"requests_per_minute": 100, "tokens_per_day": 1_000_000, "concurrent_sessions": 10},
    "monitoring": {"enabled": True, "metrics_enabled": True, "tracing_enabled": True, "log_level": "INFO"},
}
IDENTITY = """# Engineer

- Name: AI engineer
- **ID**: agent-ai-001
- Tier: Premium
- Version: 2.1.0
- Avatar: https://...
"""


def files(changes: dict[str, Any] | None = None, /, **more: str) -> dict[str, str]:
    config = {"agent": {**CONFIG, **(changes or {})}}
    return {"config.yaml": yaml.safe_dump(config), **{k.replace("__", "."): v for k, v in more.items()}}


def read(changes: dict[str, Any] | None = None, /, **more: str) -> Definition:
    return read_definition(files(changes, **more))


def test_every_key_of_the_published_form_is_read() -> None:
    agent = read(IDENTITY__md=IDENTITY, SOUL__md="# Who I Am\nPractical.")
    config = agent.config
    assert (agent.agent_id, agent.name, agent.version) == ("agent-ai-001", "AI engineer", "2.1.0")
    assert (config.model.thinking, config.model.temperature, config.model.max_tokens) == (
        "medium",
        0.3,
        8_000,
    )
    permissions = config.permissions
    assert permissions.gpu_access and permissions.max_allocation == 2
    assert permissions.paths == ("/workspace/models",) and permissions.allowed_endpoints == ("*.example.org",)
    assert config.skills[0].timeout == 30_000 and config.skills[0].retry_policy is not None
    assert config.memory.ttl == 30 * 24 * 3_600_000
    assert agent.identity["tier"] == "Premium" and "avatar" not in agent.identity
    assert agent.concurrent == 10
    prompt = agent.system_prompt()
    assert prompt.startswith("You are AI engineer. Trains models.") and "Practical." in prompt
    assert any("tracing_enabled" in note for note in ineffective(agent))


def test_permissions_may_be_a_plain_map() -> None:
    plain = {"gpu_access": True, "max_allocation": 2}
    assert (
        read({"permissions": plain}).config.permissions == read({"permissions": [plain]}).config.permissions
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modle": {}}, "config.yaml: agent.modle: unknown key; did you mean model?"),
        ({"model": {"temperature": 3}}, "agent.model.temperature: "),
        (
            {"model": {"thinking": "hard"}},
            "agent.model.thinking: 'hard' is no effort; write none, low",
        ),
        ({"id": "no spaces"}, "agent.id: "),
        ({"skills": [{"skill_id": "a"}, {"skill_id": "a"}]}, "a is bound twice"),
        ({"permissions": {"paths": ["/x"]}}, "without file_access"),
        ({"permissions": {"allowed_endpoints": ["x"]}}, "without network_access"),
        ({"permissions": [{"paths": ["/x"]}, {"paths": ["/y"]}]}, "paths is given twice"),
        (
            {"memory": {"storage": {"backend": "postgresql"}}},
            "postgresql is not supported: memory is",
        ),
        ({"rate_limits": {"tokens_per_day": 0}}, "agent.rate_limits.tokens_per_day"),
        ({"loop": {"max_steps": 0}}, "agent.loop.max_steps"),
        ({"loop": {"window": 5_000}}, "agent.loop.window: 5000 tokens leave no room beside an answer"),
        ({"loop": {"handoff": "writer"}}, "agent.loop.handoff: a list is expected (it is 'writer')"),
        ({"memory": 5}, "agent.memory: a mapping is expected (it is 5)"),
        ({"permissions": {"gpu_access": "maybe"}}, "gpu_access: true or false is expected (it is 'maybe')"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(AgentProblems) as refused:
        read(changes)
    assert said in str(refused.value)


def test_everything_wrong_is_said_at_once() -> None:
    bad = {"model": {"temperature": 9}, "loop": {"max_steps": 0}}
    with pytest.raises(AgentProblems) as refused:
        read(bad, tools_config__json="x", **{"tools-config__json": '{"deny": 1}', "SOUL__md": "x" * 20_001})
    assert len(refused.value.problems) >= 4


def refused(**given: str) -> list[str]:
    """What is said of such files."""
    with pytest.raises(AgentProblems) as caught:
        read_definition(
            {"config.yaml": "id: a", **{name.replace("__", "."): text for name, text in given.items()}}
        )
    return caught.value.problems


BOMB = "id: a\nx0: &x0 [a, a]\n" + "".join(f"x{i + 1}: &x{i + 1} [*x{i}, *x{i}]\n" for i in range(16))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id: a\nname: [" + "[]," * 7_000 + "]", "21014 characters, at most 20000"),
        (BOMB + "name: *x16", "more than 20000 values"),
        ("id: a\nname: &n [*n]", "n is within itself"),
        ("id: a\nname: " + "[" * 5_000, "or 30 levels"),
        ("id: a\nname: 2020-99-99", "not YAML: month must be"),
        ("id: a\nname: !!timestamp soon", "does not fit its tag"),
        ("id: a\nmemory: {ttl: .inf}", "inf is no number of seconds"),
        ("id: a\nrate_limits: {usd_per_day: .inf}", "usd_per_day: input should be less"),
    ],
)
def test_what_stands_for_much_or_for_nothing_is_refused_in_few_words(text: str, said: str) -> None:
    [problem] = refused(config__yaml=text)
    assert said in problem and len(problem) < 300


def test_a_value_is_shown_as_far_as_it_helps() -> None:
    long = refused(config__yaml="id: a\nname: [" + "[x]," * 2_000 + "]")
    assert len(long) == 1 and len(long[0]) < 300
    many = refused(config__yaml="id: a\nskills: [" + "1," * 5_000 + "]")
    assert many[0].endswith("skills.0: a mapping is expected (it is 1)")
    assert len(many) == 101 and many[-1] == "agent: and 4900 problems more"


def test_what_is_no_json_is_a_problem_of_the_files() -> None:
    assert "not JSON" in refused(**{"tools-config__json": "[" * 20_000})[0]
    assert "not JSON" in refused(registry__json="{")[0]


def test_lines_of_an_identity_are_read_in_time_that_grows_with_their_length() -> None:
    def taken(line: str) -> float:
        began = time.process_time()
        read_definition({"config.yaml": "id: a", "IDENTITY.md": line})
        return time.process_time() - began

    usual = max(taken(IDENTITY.replace("agent-ai-001", "a")) for _ in range(5))
    for line in (
        "- " + " " * 10_000,
        "- a: b" + " " * 10_000 + "c",
        "-" + " *" * 5_000,
        "- a" + " " * 10_000,
    ):
        assert taken(line) < 100 * usual


@pytest.mark.parametrize(
    "line", ["- Name: x y", "* **Name**: x y", "- ** Name ** : x y  ", "  -Name:x y", "- **Name** :x y"]
)
def test_a_label_may_be_written_in_several_ways(line: str) -> None:
    assert read(IDENTITY__md=line).identity == {"name": "x y"}


def test_an_identity_of_somebody_else_is_refused() -> None:
    with pytest.raises(AgentProblems, match=r"IDENTITY.md: ID: agent-pm-002 is not agent.id agent-ai-001"):
        read(IDENTITY__md="- ID: agent-pm-002")


def test_servers_are_set_up_by_operators() -> None:
    """Whoever may apply an agent may not thereby start programs on the nodes."""
    tools = {"mcpServers": {"files": {"command": "sh", "args": ["-c", "id"]}}}
    with pytest.raises(AgentProblems, match=r"args, command: operators set servers up, in mcp.servers"):
        read(**{"tools-config__json": json.dumps(tools)})
    agent = read(**{"tools-config__json": '{"mcpServers": {"files": {"allow": ["read_*"]}}}'})
    assert agent.tools.mcp_servers["files"].allow == ("read_*",)
    agent = read(**{"tools-config__json": '{"mcpServers": ["files", "tickets"]}'})
    assert {name: one.allow for name, one in agent.tools.mcp_servers.items()} == {
        "files": ("*",),
        "tickets": ("*",),
    }
    with pytest.raises(AgentProblems, match="mcpServers"):
        read(**{"tools-config__json": '{"mcpServers": "files"}'})


def test_deny_wins_over_allow() -> None:
    tools = {"allow": ["web-*", "k8s-deploy"], "deny": ["*-deploy"]}
    agent = read(**{"tools-config__json": json.dumps(tools)})
    assert [allowed(name, agent) for name in ("web-fetch", "k8s-deploy", "other")] == [True, False, False]


def test_a_bound_skill_may_come_from_a_folder() -> None:
    assert skill_name("shared/web-search", {"web-search"}) == "web-search"
    assert skill_name("shared/web-search", {"shared/web-search", "web-search"}) == "shared/web-search"
    assert tool_name("shared/web search") == "shared_web_search"


def test_equal_files_are_one_revision() -> None:
    one, other = pack({"b": "ä", "a": "x"}), pack({"a": "x", "b": "ä"})
    assert one == other and revision_of(one) == revision_of(other)
    assert unpack(one) == {"a": "x", "b": "ä"}
    with pytest.raises(ValueError, match="JSON object of texts"):
        unpack(b"[1]")


def test_rate_limits_are_limits_of_the_cluster_and_go_when_they_are_no_longer_asked_for() -> None:
    core = CoreCluster()
    commands = limits_of(read(), core.state)
    limit = next(one.limit for one in commands if isinstance(one, SetLimit))
    assert (limit.agent, limit.type, limit.concurrent) == ("agent-ai-001", "agent", 10)
    budgets = [one.budget for one in commands if isinstance(one, SetLlmBudget)]
    assert [(one.requests, one.tokens, one.window_ms) for one in budgets] == [
        (100, 0, 60_000),
        (0, 1_000_000, 86_400_000),
    ]
    for command in commands:
        core.do(command)
    gone = limits_of(read({"rate_limits": {}}), core.state)
    assert [type(one) for one in gone] == [DeleteLimit, DeleteLlmBudget, DeleteLlmBudget]


REGISTRY = """
agents:
  - id: agent-ai-001
    name: Engineer
    status: active
    version: 2.1.0
    replicas: 3
    domains: [machine-learning]
    slo: {availability: 99.9%, response_time_p99: 5000ms, throughput: 100req/min}
    resources: {requests: {cpu: 2, memory: 4Gi}, limits: {cpu: 4, memory: 8Gi}}
    autoscaling: {enabled: true, min_replicas: 1, max_replicas: 10, target_cpu_utilization: 70%}
"""


def test_a_registry_says_how_many_runs_there_may_be() -> None:
    entry = read_registry(REGISTRY)["agent-ai-001"]
    agent = read(**{"registry__json": json.dumps(entry)})
    assert agent.concurrent == 3 and agent.domains == ("machine-learning",)
    with pytest.raises(AgentProblems, match=r"agents\[0\].*replicas"):
        read_registry("agents: [{id: a, replicas: 0}]")
    with pytest.raises(AgentProblems, match="a list is expected"):
        read_registry("agents: 3")
