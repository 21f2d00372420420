"""What `coterie lock`, `kv` and `bus` print for people, and what they ask for."""

from __future__ import annotations

from datetime import timedelta

from coterie.client import FailedPrecondition
from coterie.client.bus import Group, Message, MessageGap, Topic
from coterie.client.keys import KeyChange, KeyEntry
from coterie.client.locks import LockInfo
from tests.cli.fakes import document
from tests.cli.services import call

HELD = LockInfo("stock/42", "owner-1", 7, 12.5, task="t1", waiters=("a", "b"))


def test_locks() -> None:
    done, locks = call("locks", {"list": [HELD]}, "lock", "list", "stock/")
    assert all(said in done.stdout for said in ("stock/42", "t1", "7", "12.5 s", "2"))
    assert locks.calls == [("list", "stock/", {})]
    assert call("locks", {"list": []}, "lock", "list")[0].stdout == "no locks\n"
    done, locks = call("locks", {"acquire": HELD}, "lock", "get", "stock/42", "--ttl", "1m", "--wait", "5s")
    assert done.stdout == "7\n"
    [(_, name, options)] = locks.calls
    assert (name, options["ttl"], options["wait"]) == ("stock/42", 60.0, 5.0)
    done, locks = call("locks", {"release": True}, "lock", "release", "stock/42", "7")
    assert done.stdout == "stock/42 is free\n" and locks.calls == [("release", "stock/42", 7, {})]
    done, _ = call("locks", {"release": False}, "lock", "release", "stock/42", "6")
    assert "was not held by token 6" in done.stdout
    refused = FailedPrecondition("held", reason="LOCK_HELD")
    assert call("locks", {"acquire": refused}, "lock", "get", "x")[0].exit_code == 4


def test_keys() -> None:
    entry = KeyEntry("count", {"n": 1}, 9)
    assert '"n": 1' in call("kv", {"entry": entry}, "kv", "get", "count")[0].stdout
    missing, _ = call("kv", {"entry": None}, "kv", "get", "count")
    assert missing.exit_code == 4 and "count" in missing.stderr
    words = ("kv", "put", "count", "2", "--ttl", "10s", "--expect", "9", "--request-id", "r")
    done, kv = call("kv", {"put": 10}, *words)
    assert done.stdout == "10\n"
    assert kv.calls == [("put", "count", 2, {"ttl": 10.0, "expected_version": 9, "request_id": "r"})]
    done, kv = call("kv", {"delete": True}, "kv", "rm", "count", "--expect", "10")
    assert done.stdout == "count is removed\n" and kv.calls == [("delete", "count", {"expected_version": 10})]
    assert "was not there" in call("kv", {"delete": False}, "kv", "rm", "count")[0].stdout
    done, _ = call("kv", {"list": (entry,)}, "kv", "list", "co")
    assert all(said in done.stdout for said in ("count", "9"))
    assert call("kv", {"list": ()}, "kv", "list")[0].stdout == "no keys\n"


def test_a_watch_prints_each_change_and_ends_when_told() -> None:
    changes = (
        KeyChange("reset", 1),
        KeyChange("put", 2, "a", "one"),
        KeyChange("synced", 2),
        KeyChange("deleted", 3, "a"),
        KeyChange("put", 4, "b", 5),
    )
    done, kv = call("kv", {"watch": changes}, "kv", "watch", "x/", "--count", "2", "--after", "1")
    assert done.stdout == "2 put a one\n3 deleted a\n"
    assert kv.calls == [("watch", "x/", {"after_version": 1})]
    found = document(call("kv", {"watch": changes}, "kv", "watch", "--json")[0])["changes"]
    assert [change["version"] for change in found] == [2, 3, 4], "one document at the end"


def test_topics() -> None:
    message = Message("a.b", 5, 1, {"n": 1})
    words = ("bus", "pub", "a.b", '{"n": 1}', "--header", "k=v", "--request-id", "r")
    done, bus = call("bus", {"publish": 5}, *words)
    assert done.stdout == "5\n"
    assert bus.calls == [("publish", "a.b", {"n": 1}, {"headers": {"k": "v"}, "request_id": "r"})]
    stream = (MessageGap("a.b", 4), message)
    done, bus = call("bus", {"subscribe": stream}, "bus", "sub", "a.>", "--after", "0")
    assert done.stdout.startswith("4 a.b (messages up to here are not kept any more)\n5 a.b {")
    assert bus.calls == [("subscribe", "a.>", {"after": 0})]
    topic = Topic("a.b", 100, 1_000, 60.0, 3, 30, 7)
    group = Group("billing", "a.>", 2, unacked=1, lost=0, dead=4)
    answers = {"topics": [topic], "groups": [group]}
    done, _ = call("bus", answers, "bus", "topics", "a.*")
    assert all(said in done.stdout for said in ("a.b", "60 s", "billing", "a.>", "4"))
    assert call("bus", {"topics": [], "groups": []}, "bus", "topics")[0].stdout == "no topics\n"
    kept = ("--count", "5", "--bytes", "99", "--age", "2h")
    done, bus = call("bus", {"set_topic": topic}, "bus", "keep", "a.b", *kept)
    hours = timedelta(hours=2).total_seconds()
    assert bus.calls == [("set_topic", "a.b", {"kept_count": 5, "kept_bytes": 99, "kept_for": hours})]


def test_the_help_of_every_command_is_there() -> None:
    for group, commands in {
        "lock": ("list", "get", "release"),
        "kv": ("get", "put", "rm", "list", "watch"),
        "bus": ("pub", "sub", "topics", "keep"),
        "schedule": ("add", "list", "show", "pause", "resume", "trigger", "backfill", "rm"),
        "approvals": ("list", "approve", "reject"),
    }.items():
        for command in commands:
            done, _ = call("none", {}, group, command, "--help")
            assert done.exit_code == 0 and done.stdout.startswith("Usage: coterie"), (group, command)
