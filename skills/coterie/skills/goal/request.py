"""What a goal is given."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from coterie.skills.shipped import Input

GOAL_CHARS_MAX = 16_000
Aggregate = Literal["llm", "answer", "list", "concat", "merge", "vote", "sum", "count", "min", "max"]


class Ask(Input):
    """See SKILL.md."""

    goal: str = Field(default="", max_length=GOAL_CHARS_MAX)
    workflow: str = ""
    context: JsonValue = None
    inputs: dict[str, JsonValue] = Field(default_factory=dict)
    rule: str = Field(default="", max_length=200)
    aggregate: Aggregate | None = None
    approve: bool | None = None
    plan_only: bool = False

    @model_validator(mode="before")
    @classmethod
    def _text_is_a_goal(cls, given: Any) -> Any:
        return {"goal": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_of_two(self) -> Ask:
        if bool(self.goal.strip()) == bool(self.workflow.strip()):
            raise ValueError("goal, workflow: give one of them")
        return self
