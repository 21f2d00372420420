"""Locks, keys, topics and schedules."""

from __future__ import annotations

from coterie.core.commands import FinishTask
from coterie.core.coordination.commands import (
    AckMessages,
    AcquireLock,
    ApplySchedule,
    DeleteGroup,
    DeleteKey,
    DeleteSchedule,
    DeleteTopic,
    FetchMessages,
    FireSchedule,
    PauseSchedule,
    PublishMessage,
    PutKey,
    ReleaseLock,
    RenewLock,
    RunSchedule,
    SeekGroup,
    SetGroup,
    SetTopic,
)
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import FireKind, Misfire, Overlap, SchedulePlan, TaskTemplate
from coterie.core.nouns import Data, Label, TaskId
from tests.core.builders import submit_command
from tests.core.story.stage import Stage
from tests.core.story.tasks import CONSTRAINTS, RETRY

T = "acme"
TEMPLATE = TaskTemplate(
    type="echo",
    payload=Data(b"tick"),
    priority=4,
    retry=RETRY,
    attempt_timeout_ms=21_000,
    deadline_after_ms=9_000_000,
    labels=(Label("from", "a schedule"),),
    constraints=CONSTRAINTS,
    key="customer-8",
    agent="scribe",
)


def lock(stage: Stage) -> None:
    """A lock that a task holds, for which another task waits; one that was let go."""
    for name in ("holder", "waiter"):
        stage.do(submit_command(name, tenant=T))
        task_id, attempt = stage.start(name)
        stage.do(AcquireLock(T, "the door", name, 3_000_000, 500_000, task_id, attempt))
    held = next(iter(stage.state.locks.values()))
    stage.do(RenewLock(T, "the door", held.token, 3_600_000))
    token = stage.number(AcquireLock(T, "the gate", "ann", 5_000))
    stage.do(ReleaseLock(T, "the gate", token, "ann"))


def keep(stage: Stage) -> None:
    """Keys that were put, changed, deleted and that expired."""
    version = stage.number(PutKey(T, "colour", b"red", 0, request_id="put-1", digest=b"digest of put"))
    stage.do(PutKey(T, "colour", b"blue", version, ttl_ms=7_000_000))
    version = stage.number(PutKey(T, "shape", b"round"))
    stage.do(DeleteKey(T, "shape", version, "delete-1", b"digest of delete"))
    stage.do(PutKey(T, "brief", b"soon gone", ttl_ms=5))
    stage.pass_ms(10)
    stage.do(PutKey(T, "after", b"the brief one is gone by now"))


def talk(stage: Stage) -> None:
    """Topics, and groups with messages that were given out, lost, refused and given up."""
    stage.do(SetTopic(T, "news", kept_count=4, kept_bytes=90_000, kept_ms=7_000_000))
    stage.do(SetGroup(T, "readers", "news", 0, ack_wait_ms=10, deliveries_max=2))
    headers = (Label("language", "en"),)
    for number in range(5):
        said = (f"request {number}", b"digest of news")
        stage.do(PublishMessage(T, "news", f"news {number}".encode(), headers, "ann", *said))
    stage.do(SetGroup(T, "others", ">", start=1))
    stage.do(FetchMessages(T, "others", "fetch-1", 2))
    stage.do(SeekGroup(T, "others", 3))
    for number in range(3):
        stage.do(FetchMessages(T, "readers", f"fetch-{number}", 3))
        stage.pass_ms(20)
    stage.do(FetchMessages(T, "readers", "fetch-x", 4))
    open_now = stage.state.groups[name_key(T, "readers")].unacked
    stage.do(AckMessages(T, "readers", (open_now[0].position,), refused=True, delay_ms=400_000))
    for _ in range(4):
        stage.do(PublishMessage(T, "news", b"one more, and the oldest goes"))
    stage.do(FetchMessages(T, "readers", "fetch-y", 2))


def schedule(stage: Stage) -> None:
    """One by the clock that queues its runs, one by an interval that is paused."""
    now_ms = stage.state.meta.clock_ms
    cron = SchedulePlan(
        cron="*/5 * * * *",
        time_zone="Europe/Berlin",
        begins_at_ms=now_ms - 50,
        ends_at_ms=now_ms + 90_000_000,
        overlap=Overlap.QUEUE,
        misfire=Misfire.FIRE_ALL,
        catch_up_ms=7_200_000,
    )
    version = stage.number(ApplySchedule(T, "often", cron, TEMPLATE, expected_version=0))
    stage.pass_ms(4_000)
    for nominal_ms in (now_ms + 1_000, now_ms + 2_000):
        stage.do(FireSchedule(T, "often", version, nominal_ms, FireKind.TICK, missed=2))
    stage.do(FireSchedule(T, "often", version, now_ms + 3_000, FireKind.PASS, missed=1))
    stage.do(RunSchedule(T, "often", "backfill", (now_ms - 900, now_ms - 800)))
    every = SchedulePlan(interval_ms=600_000, overlap=Overlap.SKIP)
    version = stage.number(ApplySchedule(T, "rarely", every, TEMPLATE))
    stage.do(RunSchedule(T, "rarely", "by hand"))
    stage.pass_ms(10)
    stage.do(FireSchedule(T, "rarely", version, stage.state.meta.clock_ms))
    stage.do(PauseSchedule(T, "rarely", True, "not over the holidays"))


def let_go(stage: Stage) -> None:
    """The holder ends, and the lock is the waiter's; the rest is deleted."""
    task = stage.task("holder")
    stage.do(FinishTask(TaskId("holder"), task.attempt, Data(b"let go")))
    stage.do(DeleteKey(T, "colour"))
    stage.do(DeleteGroup(T, "others"))
    stage.do(DeleteTopic(T, "news"))
    stage.do(PauseSchedule(T, "rarely", False))
    stage.do(DeleteSchedule(T, "often"))
