"""`coterie token`, `whoami` and `audit`: what they say where nobody is asked who they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.client import Unavailable
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


def test_no_token_is_made_whose_secret_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answers = {"create_token": MADE, "whoami": WhoAmI("user:admin", "*", ("admin",))}
    words = ("token", "create", "--role", "submitter", "--out", str(tmp_path / "file" / "t"))
    done, asked = call("security", answers, *words)
    assert (done.exit_code, asked.calls) == (2, []) and "cannot be made" in done.stderr


def test_nothing_is_asked_once_the_secret_is_told(tmp_path: Path) -> None:
    answers: dict[str, object] = {"create_token": MADE, "whoami": Unavailable("no node answered")}
    words = ("token", "create", "--role", "submitter", "--out", str(tmp_path / "t"))
    done, asked = call("security", answers, *words)
    assert done.exit_code == 3 and [name for name, *_ in asked.calls] == ["whoami"]
    assert list(tmp_path.iterdir()) == []
    answers["whoami"] = WhoAmI("user:admin", "*", ("admin",))
    done, _ = call("security", answers, *words)
    assert done.exit_code == 0 and (tmp_path / "t").read_text() == "cot_7_x\n"
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600


AGREED = {"count": 0, "digest": "00"}
RECORD = {
    **{name: "" for name in ("principal", "tenant", "method", "target", "request_id", "code")},
    **{"sequence": 1, "index": 1, "at_ms": 1, "digest": "00"},
}


@pytest.mark.parametrize(
    ("content", "exit_code", "word"),
    [
        (b"\xff\xfe\n", 2, "line 1 is no JSON"),
        (b"[" * 100_000, 2, "line 1 is no JSON"),
        (
            json.dumps({**RECORD, "target": 5}).encode() + b'\n{"head": {"count": 1, "digest": ""}}',
            2,
            "line 1",
        ),
        (
            json.dumps({**RECORD, "index": "1"}).encode() + b'\n{"head": {"count": 1, "digest": ""}}',
            2,
            "line 1",
        ),
        (b'{"head": {}}', 1, "last line"),
        (b'{"head": {"count": "many", "digest": "00"}}', 1, "last line"),
        (b'{"head": {"count": 0, "digest": "no hex"}}', 1, "last line"),
        (b"", 1, "last line"),
    ],
)
def test_an_audit_file_that_is_none_is_told_in_one_line(
    tmp_path: Path, content: bytes, exit_code: int, word: str
) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(content)
    done, _ = call("audit", {}, "audit", "verify", str(path))
    assert (done.exit_code, len(done.stderr.splitlines())) == (exit_code, 1) and word in done.stderr


def test_an_export_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    lost = Unavailable("no node answered")
    answers: dict[str, object] = {"head": AuditHead(1, ""), "entries": (lost,)}
    done, _ = call("audit", answers, "audit", "export", "--out", str(tmp_path / "a"))
    assert done.exit_code == 3 and list(tmp_path.iterdir()) == []


def test_an_audit_log_without_records_says_why(tmp_path: Path) -> None:
    done, _ = call(
        "audit", {"head": AuditHead(0, ""), "entries": ()}, "audit", "export", "--out", str(tmp_path / "a")
    )
    assert done.exit_code == 0 and "where security.auth is required" in done.stderr
    checked, _ = call("audit", {}, "audit", "verify", str(tmp_path / "a"))
    assert "0 records, all in place\n" in checked.stdout and "security.auth" in checked.stderr


@pytest.mark.parametrize("endpoints", ["h1:1", "h1:1,h2:1"])
def test_nodes_whose_audit_log_was_not_checked_are_named(endpoints: str) -> None:
    answers = {"head": AuditHead(0, "00"), "entries": ()}
    done, _ = call("audit", answers, "audit", "verify", "--endpoint", endpoints, "--insecure")
    assert done.exit_code == 0 and "not checked: node-1; name every node with --endpoint" in done.stderr
    done, _ = call("audit", answers, "audit", "verify", "--endpoint", endpoints, "--insecure", "--json")
    assert json.loads(done.stdout)["not_checked"] == ["node-1"]
