"""Who may do what, and what was done on whose behalf."""

from __future__ import annotations

from coterie.core.access import Origin, Token, User
from coterie.core.access_commands import CreateToken, DeleteUser, NoteCall, RevokeToken, SetUser
from coterie.core.commands import Called
from tests.core.builders import submit_command
from tests.core.story.stage import Stage

ANN = Origin("ann", "SubmitTask", "acme")


def grant(stage: Stage) -> None:
    """Tokens, one of them revoked, and users; calls of which the audit log speaks."""
    # The times of a token come from the log, whatever the command says.
    times = {"created_at_ms": 1, "expires_at_ms": 2, "revoked_at_ms": 3}
    for name in ("token-1", "token-2"):
        token = Token(
            name, name.encode().ljust(32, b"."), "acme", ("submitter", "viewer"), "for tests", **times
        )
        stage.do(CreateToken(token, expires_after_ms=9_000_000))
    stage.do(RevokeToken("token-2"))
    for name in ("ann", "bob"):
        stage.do(SetUser(User(name, "*", ("operator",))))
    stage.do(Called(submit_command("called", tenant="acme", request_id="called-1"), ANN))
    stage.refused(Called(submit_command("denied", tenant="other"), ANN), "TENANT_DENIED")
    stage.do(Called(NoteCall("n3", "OK"), Origin("operator", "RemoveMember")))
    stage.do(NoteCall("n2", "NOT_FOUND"))


def revoke(stage: Stage) -> None:
    stage.do(Called(RevokeToken("token-1"), Origin("ann", "RevokeToken")))
    stage.do(DeleteUser("bob"))
