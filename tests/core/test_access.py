"""Tokens, users, and what a caller of one tenant may not touch."""

from __future__ import annotations

import pytest

from coterie.core.access import EVERY_TENANT, Origin, Token, User
from coterie.core.access_commands import CreateToken, DeleteUser, NoteCall, RevokeToken, SetUser
from coterie.core.access_rules import TOKENS_MAX
from coterie.core.commands import (
    Accepted,
    Called,
    CancelTask,
    Command,
    PauseTask,
    PurgeDeadLetters,
    Rejected,
    ReplayTask,
    RetryTask,
    SignalTask,
)
from coterie.core.nouns import TaskId
from tests.core.builders import CoreCluster, submit_command

DIGEST = bytes(32)
ANN = Origin("user:ann", "Tasks/CancelTask", "a")


def token(token_id: str = "k1", **changes: object) -> Token:
    values: dict[str, object] = {"digest": DIGEST, "tenant": "a", "roles": ("submitter",)}
    return Token(token_id, **{**values, **changes})  # type: ignore[arg-type]


def test_a_token_has_the_times_of_the_log() -> None:
    core = CoreCluster()
    assert core.do(CreateToken(token(created_at_ms=7, revoked_at_ms=7), 500)) == Accepted()
    made = core.state.tokens["k1"]
    assert (made.created_at_ms, made.expires_at_ms, made.revoked_at_ms) == (core.now_ms, core.now_ms + 500, 0)
    assert not made.ended(core.now_ms + 499)
    assert made.ended(core.now_ms + 500)


def test_the_same_token_again_changes_nothing_and_another_secret_is_refused() -> None:
    core = CoreCluster()
    core.do(CreateToken(token()))
    assert core.do(CreateToken(token())) == Accepted(duplicate=True)
    refused = core.do(CreateToken(token(digest=bytes([1] * 32))))
    assert isinstance(refused, Rejected) and refused.code == "TOKEN_EXISTS"


@pytest.mark.parametrize(
    "changes",
    [
        {"roles": ()},
        {"roles": ("root",)},
        {"roles": ("runner",)},
        {"roles": ("admin",)},  # of one tenant
        {"roles": ("operator", "viewer")},
        {"tenant": ""},
        {"digest": b"short"},
        {"token_id": ""},
    ],
    ids=str,
)
def test_a_grant_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    refused = CoreCluster().do(CreateToken(token(**changes)))  # type: ignore[arg-type]
    assert isinstance(refused, Rejected) and refused.code == "BAD_GRANT"


def test_a_revoked_token_stays_revoked() -> None:
    core = CoreCluster()
    core.do(CreateToken(token()))
    assert core.do(RevokeToken("k1")) == Accepted()
    at_ms = core.state.tokens["k1"].revoked_at_ms
    assert core.do(RevokeToken("k1")) == Accepted(duplicate=True)
    core.do(CreateToken(token()))
    assert core.state.tokens["k1"].revoked_at_ms == at_ms > 0
    assert core.do(RevokeToken("k2")) == Rejected("TOKEN_NOT_FOUND", "no token k2")


def test_tokens_that_have_ended_make_room_and_others_do_not() -> None:
    core = CoreCluster()
    for number in range(TOKENS_MAX):
        core.do(CreateToken(token(f"k{number}")))
    refused = core.do(CreateToken(token("more")))
    assert isinstance(refused, Rejected) and refused.code == "TOO_MANY_TOKENS"
    core.do(RevokeToken("k7"))
    assert core.do(CreateToken(token("more"))) == Accepted()
    assert "k7" not in core.state.tokens and len(core.state.tokens) == TOKENS_MAX


def test_users_are_set_and_taken_away() -> None:
    core = CoreCluster()
    ann = User("ann", "a", ("viewer",))
    assert core.do(SetUser(ann)) == Accepted()
    assert core.do(SetUser(ann)) == Accepted(duplicate=True)
    assert core.do(SetUser(User("bob", EVERY_TENANT, ("operator",)))) == Accepted()
    assert core.do(DeleteUser("ann")) == Accepted()
    assert core.do(DeleteUser("ann")) == Rejected("USER_NOT_FOUND", "no user ann")
    assert list(core.state.users) == ["bob"]


@pytest.mark.parametrize(
    "command",
    [
        CancelTask(TaskId("t1")),
        PauseTask(TaskId("t1")),
        SignalTask(TaskId("t1"), "go"),
        RetryTask(TaskId("t1")),
        ReplayTask(TaskId("t1"), TaskId("t2")),
    ],
    ids=lambda one: type(one).__name__,
)
def test_another_tenants_task_is_not_there(command: Command) -> None:
    core = CoreCluster()
    core.do(submit_command("t1", tenant="b"))
    before = core.task("t1")
    theirs = core.do(Called(command, ANN))
    assert theirs == Rejected("TASK_NOT_FOUND", "no live task t1")
    assert core.task("t1") == before
    everyones = core.do(Called(command, Origin("token:x", "Tasks/X")))
    assert not isinstance(everyones, Rejected) or everyones.code != "TASK_NOT_FOUND"


def test_a_caller_cannot_name_another_tenant() -> None:
    core = CoreCluster()
    for command in (submit_command("t1", tenant="b"), PurgeDeadLetters("b")):
        refused = core.do(Called(command, ANN))
        assert isinstance(refused, Rejected) and refused.code == "TENANT_DENIED"
    assert not core.state.tasks
    assert core.do(Called(submit_command("t1", tenant="a"), ANN)) == Accepted(TaskId("t1"))


def test_a_parent_of_another_tenant_is_refused_in_the_words_for_one_that_is_not_there() -> None:
    core = CoreCluster()
    core.do(submit_command("theirs", tenant="b"))
    told = [
        core.do(Called(submit_command("t1", tenant="a", parent_id=TaskId(name)), ANN))
        for name in ("theirs", "nobodys")
    ]
    assert all(isinstance(one, Rejected) and one.code == "PARENT_ENDED" for one in told)
    assert {one.reason.replace("theirs", "nobodys") for one in told if isinstance(one, Rejected)} == {
        told[1].reason if isinstance(told[1], Rejected) else ""
    }


def test_a_call_within_a_call_is_refused() -> None:
    refused = CoreCluster().do(Called(Called(NoteCall("x", "OK"), ANN), ANN))
    assert isinstance(refused, Rejected) and refused.code == "UNKNOWN_COMMAND"
