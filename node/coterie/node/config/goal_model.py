"""The `goals` section and the `routing_rules` of a cluster's file."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator

from coterie.node.config import goal_settings as settings
from coterie.node.config.goal_settings import GoalSettings
from coterie.node.config.kinds import Section, duration
from coterie.node.goals.patterns import PATTERN_CHARS_MAX, compiled

RULES_MAX: Final = 500
STEPS_MAX: Final = 100
Text = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Aggregate = Literal["llm", "answer", "list", "concat", "merge", "vote", "sum", "count", "min", "max"]


def _pattern(value: str) -> str:
    compiled(value)
    return value


def _none_is_nobody(value: object) -> object:
    return () if value is None else [value] if isinstance(value, str) else value


class RoutingRule(Section):
    """Of agents, skill and workflow at most one; none: the request is planned."""

    name: Text
    pattern: Annotated[StrictStr, Field(min_length=1, max_length=PATTERN_CHARS_MAX), AfterValidator(_pattern)]
    priority: Annotated[StrictInt, Field(ge=-1_000_000, le=1_000_000)] = 0
    agents: Annotated[tuple[Text, ...], BeforeValidator(_none_is_nobody), Field(max_length=64)] = ()
    agent: Text | None = None
    skill: Text | None = None
    workflow: (
        Text | Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=STEPS_MAX)] | None
    ) = None
    input: Any = None
    timeout: Annotated[int, duration("1s", "365d")] | None = None
    on_failure: Literal["abort", "continue", "skip-dependents", "compensate"] | None = None
    aggregate: Aggregate | None = None

    @model_validator(mode="after")
    def _one_target(self) -> RoutingRule:
        given = [name for name in ("agents", "agent", "skill", "workflow") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"names {' and '.join(given)}; give one of agents, skill and workflow")
        if self.input is not None and not self.skill:
            raise ValueError("input is what a skill is given, and the rule names none")
        if self.on_failure and not isinstance(self.workflow, tuple):
            raise ValueError("on_failure is of steps, and the rule has none")
        return self


def _names_are_unlike(rules: tuple[RoutingRule, ...]) -> tuple[RoutingRule, ...]:
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two rules are called {twice[0]!r}; give each a name of its own")
    return rules


RoutingRules = Annotated[
    tuple[RoutingRule, ...], Field(max_length=RULES_MAX), AfterValidator(_names_are_unlike)
]


class Goals(Section):
    """How requests become plans, and who carries them out."""

    model: Annotated[StrictStr, Field(max_length=200)] = ""  # as in ctx.llm; empty: llm.default
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.1  # of intent and plan
    answer_temperature: Annotated[float, Field(ge=0, le=2)] = 0.5
    max_tokens: Annotated[StrictInt, Field(ge=64, le=1_000_000)] = 4_096  # of one answer
    cache_ttl: Annotated[int, duration("0s", "365d")] = 86_400_000  # of intents and plans; 0: never
    selection: Literal["score", "contract-net"] = "contract-net"
    skills: Annotated[tuple[Text, ...], Field(max_length=500)] = ("*",)  # that plans may name: globs
    tasks_max: Annotated[StrictInt, Field(ge=1, le=500)] = 32  # of one plan
    approve: StrictBool = False  # a person looks at every plan first
    aggregate: Aggregate = "llm"  # what becomes of several results


def goals_of(goals: Goals, rules: tuple[RoutingRule, ...]) -> GoalSettings:
    """What the node is told of both."""
    return GoalSettings(
        rules=tuple(_rule_of(rule) for rule in rules),
        model=goals.model,
        temperature=goals.temperature,
        answer_temperature=goals.answer_temperature,
        max_tokens=goals.max_tokens,
        cache_ttl_ms=goals.cache_ttl,
        selection=goals.selection,
        skills=goals.skills,
        tasks_max=goals.tasks_max,
        approve=goals.approve,
        aggregate=goals.aggregate,
    )


def _rule_of(rule: RoutingRule) -> settings.RoutingRule:
    steps = rule.workflow if isinstance(rule.workflow, tuple) else ()
    return settings.RoutingRule(
        name=rule.name,
        pattern=rule.pattern,
        priority=rule.priority,
        agents=(rule.agent,) if rule.agent else rule.agents,
        skill=rule.skill or "",
        workflow=rule.workflow if isinstance(rule.workflow, str) else "",
        steps=json.dumps(steps) if steps else "",
        input="" if rule.input is None else json.dumps(rule.input),
        timeout_ms=rule.timeout or 0,
        on_failure=rule.on_failure or "",
        aggregate=rule.aggregate or "",
    )
