"""`coterie submit --goal`: what belongs to a goal, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.node.cli.failures import CommandFailed
from coterie.node.cli.goal import goal_of

PLAIN: dict[str, Any] = {"context": None, "rule": "", "aggregate": "", "approve": None, "plan_only": False}


def options(**given: Any) -> dict[str, Any]:
    return {"goal": None, "payload": None, "agent": "", "priority": "normal", **PLAIN, **given}


def test_a_task_is_no_goal_and_keeps_its_options() -> None:
    rest = options()
    assert goal_of(rest, "echo") is None
    assert rest == {"payload": None, "agent": "", "priority": "normal"}


def test_a_goal_is_a_text_or_a_file_with_a_context(tmp_path: Path) -> None:
    assert goal_of(options(goal="do it"), None) == {**PLAIN, "goal": "do it"}
    (tmp_path / "goal.txt").write_text("do {{ this }}", encoding="utf-8")
    found = goal_of(options(goal=f"@{tmp_path}/goal.txt", context='{"a": 1}', approve=True), None)
    assert found == {**PLAIN, "goal": "do {{ this }}", "context": {"a": 1}, "approve": True}
    plain = goal_of(options(goal="x", context="no JSON"), None)
    assert plain is not None and plain["context"] == "no JSON"


@pytest.mark.parametrize(
    ("given", "type_", "said"),
    [
        ({}, None, "name a skill"),
        ({"goal": "x"}, "echo", "leave echo out"),
        ({"goal": "x", "payload": "1"}, None, "--context"),
        ({"goal": "x", "agent": "a"}, None, "not for goals"),
        ({"rule": "r"}, "echo", "give --goal"),
        ({"approve": True}, "echo", "give --goal"),
        ({"plan_only": True}, "echo", "give --goal"),
    ],
)
def test_what_does_not_belong_together_is_refused(given: Any, type_: str | None, said: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        goal_of(options(**given), type_)
    assert said in str(refused.value) + str(getattr(refused.value, "failure", ""))
