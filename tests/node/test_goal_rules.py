"""Routing rules of requests: as printed, by priority, ambiguity told, and no pattern that takes long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.node.config import ConfigError
from coterie.node.config.goal_settings import GoalSettings
from coterie.node.config.loading import load_config
from coterie.node.config.replicated import effective
from coterie.node.config.resolve import node_settings
from coterie.node.goals.patterns import compiled
from coterie.node.goals.rules import normalised, revision_of, route

PRINTED = Path(__file__).parent / "fixtures" / "workflows" / "routing-rules.yaml"
SHIPPED = Path(__file__).parents[2] / "cluster-config" / "routing-rules.yaml"
BASE = """
cluster: {nodes: [{id: n1, host: 127.0.0.1, port: 8080}]}
security: {allowInsecureLoopback: true}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(BASE)
    return path


def goals(*paths: Path) -> GoalSettings:
    return node_settings(load_config(paths, {}).config, "n1").goals


def test_the_rules_are_read_as_they_are_printed(base: Path) -> None:
    found = goals(base, PRINTED)
    assert [(rule.name, rule.priority, rule.agents, rule.timeout_ms) for rule in found.rules] == [
        ("ml_model_training", 10, ("agent-ai-001",), 3_600_000),
        ("product_strategy", 8, ("agent-pm-002",), 1_800_000),
        ("system_architecture", 8, ("agent-arch-003",), 2_400_000),
        ("end_to_end_feature_delivery", 15, (), 7_800_000),
        ("default_shared_skills", 1, (), 300_000),
    ]
    assert [step["depends_on"] for step in json.loads(found.rules[3].steps)[1:]] == ["step-1", "step-2"]


def test_the_cluster_agrees_on_them(base: Path) -> None:
    settings = node_settings(load_config([base, PRINTED], {}).config, "n1")
    other = node_settings(load_config([base], {}).config, "n1")
    assert other.goals.rules == ()
    assert effective(other, json.loads(settings.replicated)).goals == settings.goals


@pytest.mark.parametrize(
    ("goal", "chosen", "matched", "ambiguous"),
    [
        ("训练一个模型", "ml_model_training", 2, ()),
        ("用户需求", "product_strategy", 2, ()),
        ("产品架构", "product_strategy", 3, ("product_strategy", "system_architecture")),
        ("从需求到上线", "end_to_end_feature_delivery", 3, ()),
        ("hello\nworld", "default_shared_skills", 1, ()),
        ("", "default_shared_skills", 1, ()),
    ],
)
def test_priority_decides_and_equals_are_told(
    base: Path, goal: str, chosen: str, matched: int, ambiguous: tuple[str, ...]
) -> None:
    routed = route(goals(base, PRINTED).rules, goal)
    assert routed.rule is not None
    assert (routed.rule.name, len(routed.matched), routed.ambiguous) == (chosen, matched, ambiguous)


def test_no_rule_matches(base: Path) -> None:
    assert route((), "anything").rule is None
    rules = goals(base, PRINTED).rules[:1]
    assert route(rules, "anything").rule is None


def test_the_shipped_rules_are_good(base: Path) -> None:
    rules = goals(base, SHIPPED).rules
    assert rules and rules[-1].pattern == ".*"
    assert len(revision_of(rules)) == 16 and revision_of(rules) != revision_of(rules[:-1])


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "(a*)*b", "(a+a+)+b"])
def test_patterns_that_backtracking_never_ends_with_are_done_at_once(pattern: str) -> None:
    """A matcher that backtracks needs 2**16000 steps here, and runs into the time limit of the tests."""
    assert compiled(pattern).search("a" * 16_000 + "!") is None


@pytest.mark.parametrize("pattern", ["(?=x)", r"(a)\1", "(", "[", "a{1000}{1000}", "(?<!y)x"])
def test_what_no_automaton_can_do_is_refused_with_its_reason(
    base: Path, tmp_path: Path, pattern: str
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(json.dumps({"routing_rules": [{"name": "a", "pattern": pattern}]}))
    with pytest.raises(ConfigError, match="RE2 syntax"):
        load_config([base, rules], {})


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"name": "a", "pattern": "x", "agents": ["b"], "skill": "c"}, "agents and skill"),
        ({"name": "a", "pattern": "x", "input": 1}, "names none"),
        ({"name": "a", "pattern": "x", "on_failure": "continue"}, "the rule has none"),
        ({"name": "a", "patern": "x"}, "pattern"),
        ({"name": "a", "pattern": "x", "aggregate": "best"}, "aggregate"),
    ],
)
def test_a_rule_that_says_too_much_is_refused(
    base: Path, tmp_path: Path, rule: dict[str, object], said: str
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(json.dumps({"routing_rules": [rule]}))
    with pytest.raises(ConfigError, match=said):
        load_config([base, rules], {})
    rules.write_text(json.dumps({"routing_rules": [{"name": "a", "pattern": "x"}] * 2}))
    with pytest.raises(ConfigError, match="two rules are called 'a'"):
        load_config([base, rules], {})


def test_requests_are_the_same_where_they_say_the_same() -> None:
    assert normalised("  the cafe\u0301\n") == normalised("the caf\u00e9")
    assert normalised("10\u00b2 m") == "10\u00b2 m", "not 102"
    assert normalised("if a:\n    b") == "if a:\n    b"
    assert normalised("Polish it") != normalised("polish it"), "case can matter"
