"""Workflows under a name: revisions, what is refused, limits."""

from __future__ import annotations

import pytest

from coterie.core.commands import Accepted, Command, Outcome, Rejected
from coterie.core.machine import apply
from coterie.core.runs import definitions
from coterie.core.runs.texts import ApplyWorkflow, DeleteWorkflow, WorkflowText
from coterie.core.state import ClusterState, Moment


def code_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Rejected)
    return outcome.code


class Shelf:
    """One cluster; every command has a moment of its own."""

    def __init__(self) -> None:
        self.state, self.index = ClusterState(), 0

    def do(self, command: Command) -> Outcome:
        self.index += 1
        return apply(self.state, command, Moment(self.index, 1_000 * self.index))


def test_a_change_makes_a_revision_and_the_same_text_none() -> None:
    shelf = Shelf()
    assert shelf.do(ApplyWorkflow("t", "daily", "one")) == Accepted()
    assert shelf.do(ApplyWorkflow("t", "daily", "one")) == Accepted(duplicate=True)
    assert shelf.do(ApplyWorkflow("t", "daily", "two", revision=1)) == Accepted()
    assert shelf.state.workflows == {"t/daily": WorkflowText("t", "daily", "two", 2, 3_000)}


def test_who_saw_another_revision_replaces_nothing() -> None:
    shelf = Shelf()
    shelf.do(ApplyWorkflow("t", "daily", "one"))
    assert code_of(shelf.do(ApplyWorkflow("t", "daily", "mine", revision=2))) == "ETAG_MISMATCH"
    assert code_of(shelf.do(ApplyWorkflow("t", "other", "mine", revision=1))) == "ETAG_MISMATCH"
    assert [one.source for one in shelf.state.workflows.values()] == ["one"]


def test_what_is_taken_away_is_gone_for_its_tenant_only() -> None:
    shelf = Shelf()
    for tenant in ("t", "u"):
        shelf.do(ApplyWorkflow(tenant, "daily", "one"))
    assert shelf.do(DeleteWorkflow("t", "daily")) == Accepted()
    assert code_of(shelf.do(DeleteWorkflow("t", "daily"))) == "WORKFLOW_NOT_FOUND"
    assert list(shelf.state.workflows) == ["u/daily"]


@pytest.mark.parametrize(
    ("limit", "value"), [("WORKFLOWS_MAX", 1), ("WORKFLOW_CHARS_MAX", 5), ("ALL_CHARS_MAX", 9)]
)
def test_there_is_room_for_so_many(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    shelf.do(ApplyWorkflow("t", "a", "12345"))
    monkeypatch.setattr(
        definitions, limit, {"WORKFLOWS_MAX": 1, "WORKFLOW_CHARS_MAX": 5, "ALL_CHARS_MAX": 9}[limit]
    )
    text = "123456" if limit == "WORKFLOW_CHARS_MAX" else "12345"
    assert code_of(shelf.do(ApplyWorkflow("t", "b", text))) == "TOO_MANY_WORKFLOWS"
    assert shelf.do(ApplyWorkflow("t", "a", "54321")) == Accepted(), "what is there may be replaced"
