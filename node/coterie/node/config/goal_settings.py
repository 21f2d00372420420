"""What a node is told about goals: the routing rules, and how requests that no rule decides are planned."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 24 * 3_600_000
FIT, CONTRACT_NET = "score", "contract-net"


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """What is done with requests that have the pattern in them. Of agents, skill and workflow one is given;
    none: the request is planned."""

    name: str
    pattern: str  # RE2 syntax: found in time that grows with the length of the text alone
    priority: int = 0
    agents: tuple[str, ...] = ()
    skill: str = ""
    workflow: str = ""  # the name of a kept workflow
    steps: str = ""  # JSON: a list of steps, as in a routing rule of a workflow file
    input: str = ""  # JSON with references to goal and context: what the skill is given
    timeout_ms: int = 0
    on_failure: str = ""
    aggregate: str = ""


@dataclass(frozen=True, slots=True)
class GoalSettings:
    """See docs/goals.md. `model`: as in ctx.llm; empty: llm.default."""

    rules: tuple[RoutingRule, ...] = ()
    model: str = ""
    temperature: float = 0.1  # of intent and plan
    answer_temperature: float = 0.5
    max_tokens: int = 4_096
    cache_ttl_ms: int = DAY_MS  # of intents and plans; 0: each is asked for
    selection: str = CONTRACT_NET
    skills: tuple[str, ...] = ("*",)  # those that a plan may name: globs
    tasks_max: int = 32  # of one plan
    approve: bool = False  # a person looks at every plan first
    aggregate: str = "llm"
