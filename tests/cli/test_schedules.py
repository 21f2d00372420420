"""What `coterie schedule …` prints for people, and what it asks for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from coterie.client.schedules import ScheduleInfo, Timing
from tests.cli.fakes import document
from tests.cli.services import call

AT = datetime(2026, 3, 28, 1, 30, tzinfo=UTC)
DAILY = ScheduleInfo(
    "daily",
    Timing(cron="30 2 * * *", time_zone="Europe/Berlin"),
    "report",
    3,
    next=(AT, AT + timedelta(hours=23, minutes=30)),
    last=AT - timedelta(days=1),
    last_task="daily.1.7",
    fired=5,
    skipped=1,
    missed=2,
)


class FakeJob:
    def __init__(self, task_id: str) -> None:
        self.id = task_id


def test_a_schedule_is_made_with_every_option() -> None:
    options = ["--overlap", "queue", "--misfire", "fire-all", "--catch-up", "2h", "--priority", "high"]
    more = ["--begins", "2026-03-01T00:00", "--ends", "2026-04-01T00:00+02:00", "--timeout", "5m"]
    task = ["--payload", '{"a": 1}', "--key", "k", "--agent", "ann", "--label", "x=y", "--deadline", "1h"]
    words = ["schedule", "add", "daily", "report", "--cron", "30 2 * * *", "--time-zone", "Europe/Berlin"]
    done, schedules = call("schedules", {"apply": DAILY}, *words, *options, *more, *task)
    assert done.exit_code == 0, done.output
    [(_, schedule_id, timing, asked)] = schedules.calls
    assert schedule_id == "daily"
    assert (timing.cron, timing.time_zone, timing.interval) == ("30 2 * * *", "Europe/Berlin", None)
    assert (timing.overlap, timing.misfire, timing.catch_up) == ("queue", "fire-all", 7_200.0)
    assert timing.begins == datetime(2026, 3, 1, tzinfo=UTC), "UTC unless it says otherwise"
    assert timing.ends.utcoffset() == timedelta(hours=2)
    expected: dict[str, Any] = {"type": "report", "payload": {"a": 1}, "priority": "high", "timeout": 300.0}
    expected |= {"deadline": 3_600.0, "key": "k", "agent": "ann", "labels": {"x": "y"}}
    assert asked == {**expected, "validate_only": False}


def test_one_schedule_is_shown_in_its_own_time_zone() -> None:
    done, _ = call("schedules", {"get": DAILY}, "schedule", "show", "daily")
    for said in ("30 2 * * * (Europe/Berlin)", "2026-03-28 02:30:00+01:00", "2026-03-29 03:00:00+02:00"):
        assert said in done.stdout, done.stdout
    assert "5, 1, 2" in done.stdout and "daily.1.7" in done.stdout
    odd = replace(DAILY, timing=Timing(interval=300.0, time_zone="Mars/Base"), next=(AT,))
    shown = call("schedules", {"get": odd}, "schedule", "show", "daily")[0].stdout
    assert "every 300 s" in shown and "2026-03-28 01:30:00+00:00" in shown, "a zone unknown here"
    paused = replace(DAILY, next=(), paused=True, pause_reason="lunch")
    assert "paused lunch" in call("schedules", {"get": paused}, "schedule", "show", "daily")[0].stdout


def test_the_list() -> None:
    done, _ = call("schedules", {"list": [DAILY]}, "schedule", "list")
    assert all(said in done.stdout for said in ("daily", "report", "2026-03-28 02:30:00+01:00"))
    assert call("schedules", {"list": []}, "schedule", "list")[0].stdout == "no schedules\n"


def test_what_is_done_to_one() -> None:
    done, schedules = call("schedules", {"pause": DAILY}, "schedule", "pause", "daily", "--reason", "lunch")
    assert done.exit_code == 0 and schedules.calls == [("pause", "daily", "lunch", {})]
    done, schedules = call("schedules", {"resume": DAILY}, "schedule", "resume", "daily")
    assert done.exit_code == 0 and schedules.calls == [("resume", "daily", {})]
    done, schedules = call(
        "schedules", {"trigger": FakeJob("t7")}, "schedule", "trigger", "daily", "--request-id", "r"
    )
    assert done.stdout == "t7\n" and schedules.calls == [("trigger", "daily", {"request_id": "r"})]
    times = ("--from", "2026-03-01T00:00", "--to", "2026-03-03T00:00")
    jobs = [FakeJob("t1"), FakeJob("t2")]
    done, schedules = call("schedules", {"backfill": jobs}, "schedule", "backfill", "daily", *times)
    assert done.stdout == "t1\nt2\n"
    [(_, _, begin, end, _)] = schedules.calls
    assert end - begin == timedelta(days=2)
    empty, _ = call("schedules", {"backfill": []}, "schedule", "backfill", "daily", *times)
    assert empty.stdout.startswith("no times: ") and "--begins" in empty.stdout
    turned, schedules = call(
        "schedules", {}, "schedule", "backfill", "daily", *times[:2], "--to", "2026-02-01"
    )
    assert turned.exit_code == 2 and "is not after --from 2026-03-01" in turned.stderr and not schedules.calls
    done, schedules = call("schedules", {"remove": None}, "schedule", "rm", "daily", "--json")
    assert document(done)["removed"] == "daily" and schedules.calls == [("remove", "daily", {})]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either --cron or --every"),
        (["--cron", "* * * * *", "--every", "5m"], "either --cron or --every"),
        (["--every", "5m", "--begins", "soon"], "is not a time"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], said: str) -> None:
    done, schedules = call("schedules", {}, "schedule", "add", "s", "echo", *words)
    assert done.exit_code == 2 and said in done.stderr and schedules.calls == []
