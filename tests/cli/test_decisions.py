"""`coterie approvals …`, `coterie task doubts` and `coterie task resolve`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from coterie.client import FailedPrecondition
from coterie.client.decisions import Approval, Doubt, Vote
from tests.cli.fakes import document, task_info
from tests.cli.services import call

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHA = "ab12" + "0" * 60
ASKED = Approval("a1", "t1", "Send it?", {"to": "ops", "text": "x" * 100}, SHA, 2, "PENDING", AT)
VOTED = Approval(
    "a2", "t2", "Pay?", {"sum": 7}, "cd" * 32, 1, "APPROVED", AT, votes=(Vote("user:ann", True, AT),)
)


def test_what_tasks_ask_is_listed_with_the_call_it_is_about() -> None:
    done, approvals = call("approvals", {"list": [ASKED, VOTED]}, "approvals", "list", "--decided")
    assert done.exit_code == 0
    for said in ("a1", "PENDING", "0/2", "Send it?", SHA[:12], "a2", "APPROVED", "1/1", '{"sum": 7}'):
        assert said in done.stdout, said
    assert "x" * 100 not in done.stdout, "a long call is cut"
    assert approvals.calls == [("list", {"decided": True, "limit": 50})]
    done, _ = call("approvals", {"list": []}, "approvals", "list", "--limit", "5")
    assert done.stdout == "nothing is asked\n"
    done, _ = call("approvals", {"list": [ASKED]}, "approvals", "list", "--json")
    [found] = document(done)["approvals"]
    assert (found["id"], found["call"]["to"], found["call_sha256"]) == ("a1", "ops", SHA)


def test_a_vote_is_for_the_call_that_was_seen() -> None:
    answers = {"list": [ASKED], "approve": VOTED}
    words = ("approvals", "approve", "a1", "--comment", "fine", "--as", "ann", "--call", "ab12")
    done, approvals = call("approvals", answers, *words)
    assert done.exit_code == 0 and "APPROVED" in done.stdout
    assert approvals.calls[1] == ("approve", ASKED, "fine", {"principal": "ann"})
    done, approvals = call("approvals", answers, "approvals", "approve", "a1", "--call", "ff")
    assert done.exit_code == 2 and "look at it again" in done.stderr
    assert [name for name, *_ in approvals.calls] == ["list"], "no vote was cast"


def test_a_person_is_told_that_a_vote_counts_once_and_who_is_missing() -> None:
    by_ann = replace(ASKED, votes=(Vote("user:ann", True, AT),))
    words = ("approvals", "approve", "t1~approval-1")
    asked = replace(ASKED, id="t1~approval-1")
    done, approvals = call("approvals", {"list": [asked], "approve": replace(by_ann, id=asked.id)}, *words)
    assert done.stderr == "coterie: 1 more must approve it\n" and "1/2" in done.stdout
    assert approvals.calls[0] == ("list", {"decided": True, "limit": 1_000, "task": "t1"})
    again = replace(by_ann, id=asked.id)
    done, _ = call("approvals", {"list": [again], "approve": again}, *words)
    assert done.stderr == "coterie: you had voted so before, which counts once; 1 more must approve it\n"
    full = replace(again, verdict="APPROVED", votes=(*again.votes, Vote("user:bob", True, AT)))
    done, _ = call("approvals", {"list": [again], "approve": full}, *words)
    assert done.stderr == "" and "2/2" in done.stdout


def test_a_rejection_and_what_cannot_be_voted_on() -> None:
    done, approvals = call(
        "approvals", {"list": [ASKED], "reject": VOTED}, "approvals", "reject", "a1", "--comment", "no"
    )
    assert done.exit_code == 0
    assert approvals.calls[1] == ("reject", ASKED, "no", {"principal": ""})
    done, _ = call("approvals", {"list": [ASKED]}, "approvals", "reject", "a9")
    assert done.exit_code == 2 and "no live task asks for a9" in done.stderr
    over = FailedPrecondition("approval a1 is decided", reason="ALREADY_DECIDED")
    done, _ = call("approvals", {"list": [ASKED], "approve": over}, "approvals", "approve", "a1", "--json")
    assert done.exit_code == 4 and document(done)["error"]["reason"] == "ALREADY_DECIDED"


def test_steps_in_doubt_are_listed() -> None:
    doubts = [Doubt("t1", "pay", 2, "k-1", AT), Doubt("t2", "mail", 1, "k-2", AT, "DONE", AT, "user:ann")]
    done, effects = call("effects", {"doubts": doubts}, "task", "doubts", "--open", "--limit", "9")
    assert done.exit_code == 0 and effects.calls == [("doubts", {"open_only": True, "limit": 9})]
    for said in ("pay", "k-1", "in doubt", "DONE", "user:ann"):
        assert said in done.stdout, said
    done, _ = call("effects", {"doubts": []}, "task", "doubts")
    assert done.stdout == "nothing is in doubt\n"
    done, _ = call("effects", {"doubts": doubts}, "task", "doubts", "--json")
    assert [one["step"] for one in document(done)["doubts"]] == ["pay", "mail"]


@pytest.mark.parametrize(
    ("words", "method", "arguments"),
    [
        (["--done", '{"id": 7}'], "done", ("t1", "pay", {"id": 7}, "seen")),
        (["--done", "null"], "done", ("t1", "pay", None, "seen")),
        (["--retry"], "retry", ("t1", "pay", "seen")),
        (["--fail"], "fail", ("t1", "pay", "seen")),
    ],
)
def test_a_step_in_doubt_is_decided_about(words: list[str], method: str, arguments: tuple[Any, ...]) -> None:
    more = ["--reason", "seen", "--as", "ann"]
    answers = {method: task_info("t1", "PENDING")}
    done, effects = call("effects", answers, "task", "resolve", "t1", "pay", *words, *more)
    assert done.stdout == "t1: PENDING\n", done.output
    assert effects.calls == [(method, *arguments, {"principal": "ann"})]


@pytest.mark.parametrize("words", [[], ["--retry", "--fail"], ["--done", "1", "--retry"]])
def test_exactly_one_decision_is_taken(words: list[str]) -> None:
    done, effects = call("effects", {}, "task", "resolve", "t1", "pay", *words)
    assert done.exit_code == 2 and "give one of" in done.stderr and effects.calls == []
