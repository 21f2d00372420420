"""`coterie token`, `whoami` and `audit`: what they say where nobody is asked who they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.client.audit import AuditHead
from coterie.client.security import TokenInfo, WhoAmI
from tests.cli.services import call

MADE = TokenInfo("7", "shop", ("submitter",), "", None, None, None, secret="cot_7_x")


@pytest.mark.parametrize(("principal", "open_access"), [("anonymous", True), ("user:admin", False)])
def test_a_token_that_nobody_asks_for_is_told_apart(principal: str, open_access: bool) -> None:
    who = WhoAmI(principal, "*", ("admin",))
    answers = {"create_token": MADE, "whoami": who}
    for words in (("token", "create", "--role", "submitter", "--tenant", "shop"), ("whoami",)):
        done, _ = call("security", answers, *words)
        assert done.exit_code == 0, done.stderr
        assert ("security.auth is off" in done.stderr) is open_access
        assert ("coterie dev --auth" in done.stderr) is open_access


def test_a_token_in_a_file_is_told_with_its_tenant(tmp_path: Path) -> None:
    answers = {"create_token": MADE, "whoami": WhoAmI("user:admin", "*", ("admin",))}
    done, _ = call(
        "security", answers, "token", "create", "--role", "submitter", "--out", str(tmp_path / "t")
    )
    assert done.stdout.rstrip().endswith("--tenant shop")


def test_an_audit_log_without_records_says_why(tmp_path: Path) -> None:
    done, _ = call(
        "audit", {"head": AuditHead(0, ""), "entries": ()}, "audit", "export", "--out", str(tmp_path / "a")
    )
    assert done.exit_code == 0 and "where security.auth is required" in done.stderr
    checked, _ = call("audit", {}, "audit", "verify", str(tmp_path / "a"))
    assert "0 records, all in place\n" in checked.stdout and "security.auth" in checked.stderr
