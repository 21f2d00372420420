"""Every table has a limit, and every number a range: what is beyond is refused, and changes nothing."""

from __future__ import annotations

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import Accepted, Command, Rejected
from coterie.core.coordination import bounds, locks, topics
from coterie.core.coordination.commands import (
    AcquireLock,
    ApplySchedule,
    FetchMessages,
    PublishMessage,
    PutKey,
    RenewLock,
    RunSchedule,
    SetGroup,
    SetTopic,
)
from coterie.core.coordination.kv import get
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import SchedulePlan, TaskTemplate
from coterie.core.machine import apply
from coterie.core.nouns import NO_DATA, Data, Label, RetryPolicy
from coterie.core.state import ClusterState, Moment

LONG = "x" * (bounds.NAME_CHARS_MAX + 1)
LATER = Moment(100, 1_100)
EVERY_HOUR = SchedulePlan(interval_ms=3_600_000)


def schedule(
    name: str, plan: SchedulePlan = EVERY_HOUR, payload: Data = NO_DATA, kind: str = "echo"
) -> ApplySchedule:
    return ApplySchedule("t", name, plan, TaskTemplate(kind, payload, 0, RetryPolicy()))


def applied(state: ClusterState, *commands: Command) -> list[object]:
    return [apply(state, command, Moment(at, 1_000 + at)) for at, command in enumerate(commands, 1)]


GOOD: list[Command] = [
    AcquireLock("t", "lock", "a", 1_000),
    AcquireLock("t", "lock", "b", 1_000, 1_000),
    PutKey("t", "k", b"v"),
    SetTopic("t", "topic"),
    SetGroup("t", "group", "topic"),
    schedule("s"),
]
FULL: list[tuple[object, str, int, Command, str]] = [
    (locks, "LOCKS_MAX", 1, AcquireLock("t", "other", "a", 1_000), "TOO_MANY_LOCKS"),
    (locks, "WAITERS_MAX", 1, AcquireLock("t", "lock", "c", 1_000, 1_000), "TOO_MANY_WAITERS"),
    (bounds, "KEYS_MAX", 1, PutKey("t", "k2", b"v"), "KV_FULL"),
    (bounds, "KEYS_BYTES_MAX", 300, PutKey("t", "k2", b"v"), "KV_FULL"),
    (bounds, "ALL_KEYS_MAX", 1, PutKey("other", "k", b"v"), "KV_FULL"),
    (bounds, "ALL_KEYS_BYTES_MAX", 300, PutKey("other", "k", b"v"), "KV_FULL"),
    (bounds, "TOPICS_MAX", 1, SetTopic("t", "topic2"), "TOO_MANY_TOPICS"),
    (bounds, "ALL_TOPICS_MAX", 1, SetTopic("other", "topic"), "TOO_MANY_TOPICS"),
    (bounds, "GROUPS_MAX", 1, SetGroup("t", "group2", "topic"), "TOO_MANY_GROUPS"),
    (bounds, "ALL_GROUPS_MAX", 1, SetGroup("other", "group", "topic"), "TOO_MANY_GROUPS"),
    (bounds, "SCHEDULES_MAX", 1, schedule("s2"), "TOO_MANY_SCHEDULES"),
]
WRONG: list[tuple[Command, str]] = [
    (AcquireLock("t", "l", "a", 0), "BAD_LOCK"),
    (AcquireLock("t", "l", "a", 1_000, bounds.WAITER_MS_MAX + 1), "BAD_LOCK"),
    (SetGroup("t", "g", "topic", ack_wait_ms=0), "BAD_GROUP"),
    (SetGroup("t", "g", "topic", deliveries_max=-1), "BAD_GROUP"),
    (FetchMessages("t", "group", "f", 0), "BAD_FETCH"),
    (FetchMessages("t", "group", "", 1), "BAD_FETCH"),
    (SetTopic("t", "topic", kept_ms=-1), "BAD_TOPIC"),
    (PublishMessage("t", "topic", b"", (Label("a", "b"),) * (topics.HEADERS_MAX + 1)), "BAD_MESSAGE"),
    (PublishMessage("t", "topic", b"", (Label("a", LONG),)), "BAD_MESSAGE"),
    (PublishMessage("t", "topic", b"", publisher=LONG), "BAD_MESSAGE"),
    (schedule("s2", kind=""), "BAD_SCHEDULE"),
    (schedule("s2", SchedulePlan(cron="*" * len(LONG))), "BAD_SCHEDULE"),
    (schedule("s2", payload=Data(bytes(bounds.TEMPLATE_BYTES_MAX + 1))), "BAD_SCHEDULE"),
    (RunSchedule("t", "s", ""), "BAD_SCHEDULE"),
    (RunSchedule("t", "s", "r", (1,) * (bounds.NOMINALS_MAX + 1)), "BAD_SCHEDULE"),
]


def refused(state: ClusterState, command: Command, code: str) -> None:
    apply(state, RenewLock("t", "no such lock", 1), LATER)  # the clock of the state moves all the same
    before = state_hash(state)
    outcome = apply(state, command, LATER)
    assert isinstance(outcome, Rejected) and outcome.code == code, outcome
    assert state_hash(state) == before


def furnished() -> ClusterState:
    state = ClusterState()
    assert all(isinstance(outcome, Accepted) for outcome in applied(state, *GOOD))
    return state


@pytest.mark.parametrize(
    ("where", "name", "limit", "command", "code"), FULL, ids=lambda value: str(value)[:40]
)
def test_a_full_table_refuses_more(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, limit: int, command: Command, code: str
) -> None:
    state = furnished()
    monkeypatch.setattr(where, name, limit)
    refused(state, command, code)
    monkeypatch.undo()
    assert isinstance(apply(state, command, Moment(101, 1_101)), Accepted), "only the limit was in the way"


@pytest.mark.parametrize(("command", "code"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_out_of_range_is_refused(command: Command, code: str) -> None:
    refused(furnished(), command, code)


def test_a_lock_is_not_renewed_for_longer_than_any_lease() -> None:
    state = furnished()
    token = next(iter(state.locks.values())).token
    refused(state, RenewLock("t", "lock", token, bounds.LEASE_MS_MAX + 1), "BAD_LOCK")


def test_an_earlier_attempt_does_not_take_back_its_later_ones_lock() -> None:
    state = furnished()
    assert isinstance(applied(state, AcquireLock("t", "l", "task", 1_000, attempt=2))[0], Accepted)
    refused(state, AcquireLock("t", "l", "task", 1_000, attempt=1), "FENCED")


def test_a_key_is_read_until_its_time_is_over() -> None:
    state = ClusterState()
    applied(state, PutKey("t", "k", b"v", ttl_ms=10))
    until = state.kv[name_key("t", "k")].expires_at_ms
    assert get(state, "t", "k", until - 1) is not None
    assert get(state, "t", "k", until) is None
    assert get(state, "t", "other", 0) is None


def test_the_oldest_message_of_all_leaves_first(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ClusterState()
    applied(state, PublishMessage("t", "a", b"1"), PublishMessage("t", "b", b"2"))
    monkeypatch.setattr(bounds, "MESSAGES_MAX", 2)
    applied(state, PublishMessage("t", "b", b"3"))
    assert [message.body for message in state.messages.values()] == [b"2", b"3"]


def test_a_message_that_is_published_again_is_the_same_one() -> None:
    state = ClusterState()
    again = PublishMessage("t", "a", b"1", request_id="r", digest=b"d")
    first, second = applied(state, again, again)
    assert isinstance(first, Accepted) and isinstance(second, Accepted)
    assert first.number == second.number
    assert len(state.messages) == 1
