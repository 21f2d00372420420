"""Locks, keys and groups against models that are too simple to be wrong, and what the models leave out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.core.commands import Accepted, AdvanceClock, CancelTask, Command, FinishTask, Outcome, Rejected
from coterie.core.coordination import kv, topics
from coterie.core.coordination.bounds import KEYS_MAX, UNACKED_MAX, VALUE_BYTES_MAX
from coterie.core.coordination.commands import (
    AckMessages,
    AcquireLock,
    DeleteKey,
    FetchMessages,
    PublishMessage,
    PutKey,
    ReleaseLock,
    RenewLock,
    SetGroup,
    SetTopic,
)
from coterie.core.coordination.look_ups import name_key
from coterie.core.nouns import NO_DATA, Label, TaskId
from tests.core.builders import CoreCluster

OWNERS = ("ann", "bob", "cem")


def do(cluster: CoreCluster, command: Command) -> Any:
    outcome: Outcome = cluster.do(command)
    return outcome


def refused(outcome: Outcome, code: str) -> Rejected:
    assert isinstance(outcome, Rejected), outcome
    assert outcome.code == code
    return outcome


class LockModel:
    """One lock: a holder with an end, and a queue of (owner, until, ttl)."""

    def __init__(self) -> None:
        self.holder: tuple[str, int, int] | None = None  # owner, end, token
        self.queue: list[tuple[str, int, int]] = []
        self.tokens = 0

    def pass_time(self, now: int) -> None:
        """Ends and leavings in the order of their times; an entry of the log sees them all at its own."""
        if self.holder is not None and self.holder[1] <= now:
            self.holder = None
            self.grant(now)
        self.queue = [one for one in self.queue if one[1] > now]

    def grant(self, now: int) -> None:
        self.queue = [one for one in self.queue if one[1] > now]
        if self.queue:
            owner, _, ttl = self.queue.pop(0)
            self.tokens += 1
            self.holder = (owner, now + ttl, self.tokens)

    def acquire(self, owner: str, ttl: int, wait: int, now: int) -> int | None:
        """The token; 0 in the queue; None refused."""
        if self.holder is None:
            self.tokens += 1
            self.holder = (owner, now + ttl, self.tokens)
        if self.holder[0] == owner:
            return self.holder[2]
        place = next((n for n, one in enumerate(self.queue) if one[0] == owner), None)
        if wait == 0:
            if place is not None:
                del self.queue[place]
            return None
        entry = (owner, now + wait, ttl)
        if place is None:
            self.queue.append(entry)
        else:
            self.queue[place] = entry
        return 0


lock_steps = st.lists(
    st.tuples(
        st.sampled_from(("acquire", "release", "renew", "leave")),
        st.sampled_from(OWNERS),
        st.sampled_from((5, 20)),
        st.sampled_from((0, 10, 40)),
        st.integers(0, 15),
    ),
    max_size=40,
)


@given(lock_steps)
@settings(max_examples=300, deadline=None)
def test_a_lock_behaves_as_its_model(steps: list[tuple[str, str, int, int, int]]) -> None:
    cluster, model = CoreCluster(), LockModel()
    for what, owner, ttl, wait, pause in steps:
        cluster.now_ms += pause
        now = cluster.now_ms + 1
        model.pass_time(now)
        token = model.holder[2] if model.holder else 0
        if what == "acquire":
            outcome = do(cluster, AcquireLock("t", "l", owner, ttl, wait))
            expected = model.acquire(owner, ttl, wait, now)
            got = outcome.number if isinstance(outcome, Accepted) else None
            assert got == expected
        elif what == "release":
            do(cluster, ReleaseLock("t", "l", token or 999))
            if model.holder:
                model.holder = None
                model.grant(now)
        elif what == "renew":
            outcome = do(cluster, RenewLock("t", "l", token or 999, ttl))
            assert isinstance(outcome, Accepted) == (model.holder is not None)
            if model.holder:
                model.holder = (model.holder[0], now + ttl, token)
        else:
            do(cluster, ReleaseLock("t", "l", 0, owner))
            model.queue = [one for one in model.queue if one[0] != owner]
            if model.holder and model.holder[0] == owner:
                model.holder = None
                model.grant(now)
        lock = cluster.state.locks.get(name_key("t", "l"))
        shown = (lock.owner, lock.expires_at_ms, lock.token) if lock else None
        assert shown == model.holder
        assert [one.owner for one in lock.waiters] == [one[0] for one in model.queue] if lock else True


def test_a_later_attempt_of_the_task_gets_a_new_token_and_the_end_of_the_task_lets_go() -> None:
    cluster = CoreCluster().with_node()
    task = cluster.running("t1")
    first = do(cluster, AcquireLock("default", "l", "task:t1", 1_000, 0, task.task_id, 1)).number
    waits = do(cluster, AcquireLock("default", "l", "ann", 1_000, 10_000))
    assert (first, waits.number) == (1, 0)
    refused(do(cluster, AcquireLock("default", "l", "task:t1", 1_000, 0, task.task_id, 2)), "FENCED")
    refused(do(cluster, AcquireLock("acme", "l", "task:t1", 1_000, 0, task.task_id, 1)), "BAD_LOCK")
    cluster.do(CancelTask(TaskId("t9")))
    other = cluster.running("t2")
    do(cluster, AcquireLock("default", "l", "task:t2", 1_000, 10_000, other.task_id, 1))
    cluster.do(FinishTask(task.task_id, 1, NO_DATA))
    lock = cluster.state.locks["default\0l"]
    assert (lock.owner, lock.token) == ("ann", 2), "who waits longest is next"
    cluster.do(FinishTask(other.task_id, 1, NO_DATA))
    assert cluster.state.locks["default\0l"].waiters == ()
    refused(do(cluster, RenewLock("default", "l", first)), "FENCED")
    assert not cluster.state.coordination.task_locks


def test_an_attempt_that_was_given_up_is_fenced_off_its_lock() -> None:
    cluster = CoreCluster().with_node()
    cluster.running("t1")
    do(cluster, AcquireLock("default", "l", "task:t1", 60_000, 0, TaskId("t1"), 1))
    cluster.with_node("n1", incarnation=2)  # its process started anew
    cluster.assign("t1", "n1")
    again = do(cluster, AcquireLock("default", "l", "task:t1", 60_000, 0, TaskId("t1"), 2))
    assert (again.number, again.duplicate) == (2, False)
    refused(do(cluster, RenewLock("default", "l", 1)), "FENCED")
    refused(do(cluster, AcquireLock("default", "l", "task:t1", 60_000, 0, TaskId("t1"), 1)), "FENCED")


# --- keys

key_steps = st.lists(
    st.tuples(
        st.sampled_from(("put", "cas", "create", "delete", "again")),
        st.sampled_from(("k/a", "k/b", "x")),
        st.integers(0, 3),
        st.sampled_from((0, 0, 8)),
        st.integers(0, 6),
    ),
    max_size=40,
)


@given(key_steps, st.integers(0, 30))
@settings(max_examples=300, deadline=None)
def test_keys_behave_as_a_dict_with_versions(
    steps: list[tuple[str, str, int, int, int]], watched_from: int
) -> None:
    cluster = CoreCluster()
    model: dict[str, tuple[bytes, int, int]] = {}  # value, version, end
    follower: dict[str, bytes] = {}
    seen = 0
    for number, (what, key, value, ttl, pause) in enumerate(steps):
        cluster.now_ms += pause
        now = cluster.now_ms + 1
        model = {name: one for name, one in model.items() if not one[2] or one[2] > now}
        known = model.get(key, (b"", 0, 0))[1]
        body = b"%d" % value
        if what == "delete":
            outcome = do(cluster, DeleteKey("t", key))
            assert outcome.duplicate == (key not in model)
            model.pop(key, None)
        else:
            expected = {"put": -1, "cas": known or 77, "create": 0, "again": -1}[what]
            command = PutKey("t", key, body, expected, ttl, f"r{number}", b"d")
            outcome = do(cluster, command)
            if expected in (-1, known):
                model[key] = (body, outcome.number, now + ttl if ttl else 0)
            else:
                refused(outcome, "VERSION_MISMATCH")
            if what == "again":
                same = do(cluster, command)
                assert (same.number, same.duplicate) == (outcome.number, True), "done twice"
                now += 1
                model = {name: one for name, one in model.items() if not one[2] or one[2] > now}
        state = cluster.state
        assert {entry.key: (entry.value, entry.version) for entry in state.kv.values()} == {
            name: one[:2] for name, one in model.items()
        }
        assert list(state.coordination.keys_from("t", "k/")) == sorted(k for k in model if k.startswith("k/"))
        if number % 3 == watched_from % 3:
            seen = _follow(cluster, follower, seen)
    _follow(cluster, follower, seen)
    assert follower == {name: one[0] for name, one in model.items()}, "a watcher that resumed differs"


def _follow(cluster: CoreCluster, follower: dict[str, bytes], seen: int) -> int:
    found, gone = kv.changes(cluster.state, "t", "", seen)
    for tombstone in gone:
        follower.pop(tombstone.key, None)
    follower.update({entry.key: entry.value for entry in found})
    return cluster.state.meta.kv_version


def test_keys_and_values_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = CoreCluster()
    refused(do(cluster, PutKey("t", "k", bytes(VALUE_BYTES_MAX + 1))), "BAD_KEY")
    refused(do(cluster, PutKey("t", "k" * 600, b"")), "BAD_NAME")
    assert KEYS_MAX > 2
    monkeypatch.setattr("coterie.core.coordination.bounds.KEYS_MAX", 2)
    monkeypatch.setattr("coterie.core.coordination.bounds.TOMBSTONES_MAX", 2)
    assert all(isinstance(do(cluster, PutKey("t", k, b"1")), Accepted) for k in "ab")
    refused(do(cluster, PutKey("t", "c", b"1")), "KV_FULL")
    assert isinstance(do(cluster, PutKey("u", "c", b"1")), Accepted), "tenants have their own room"
    for key in ("a", "b", "c"):
        do(cluster, DeleteKey("t", key))
        do(cluster, PutKey("t", key, b"1"))
        do(cluster, DeleteKey("t", key))
    assert len(cluster.state.tombstones) == 2 and cluster.state.meta.kv_forgotten > 0


def test_a_request_id_with_another_body_is_refused() -> None:
    cluster = CoreCluster()
    do(cluster, PutKey("t", "k", b"1", -1, 0, "r", b"one"))
    refused(do(cluster, PutKey("t", "k", b"2", -1, 0, "r", b"two")), "REQUEST_ID_REUSED")
    cluster.now_ms += 1_000_000
    assert do(cluster, PutKey("t", "k", b"3", -1, 0, "s", b"x")).number == 2
    assert list(cluster.state.answers) == ["t/key/s"], "what is a quarter of an hour old is forgotten"


# --- topics and groups


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a", "a", True),
        ("a", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a.b", True),
        ("*.b", "a.b", True),
        ("*.b.*", "a.b.c", True),
        (">", "$dead.g", False),
        ("*.g", "$dead.g", False),
        ("$dead.*", "$dead.g", True),
        ("a.+", "a.b", True),
        ("+.b.#", "a.b", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "a.b", True),
        ("#", "$dead.g", False),
    ],
)
def test_patterns(pattern: str, topic: str, expected: bool) -> None:
    assert topics.matches(pattern, topic) is expected


group_steps = st.lists(
    st.tuples(
        st.sampled_from(("publish", "publish", "fetch", "fetch", "ack", "refuse")),
        st.sampled_from(("a.x", "a.y", "b")),
        st.integers(1, 3),
        st.integers(0, 12),
    ),
    max_size=50,
)


@given(group_steps)
@settings(max_examples=300, deadline=None)
def test_a_group_gets_every_message_until_it_is_acknowledged(steps: list[tuple[str, str, int, int]]) -> None:
    cluster = CoreCluster()
    do(cluster, SetGroup("t", "g", "a.*", 0, 10))
    waiting: list[int] = []  # published and never given out
    out: dict[int, int] = {}  # position -> when it may be given out again
    for number, (what, topic, count, pause) in enumerate(steps):
        cluster.now_ms += pause
        now = cluster.now_ms + 1
        if what == "publish":
            position = do(cluster, PublishMessage("t", topic, b"x")).number
            if topic != "b":
                waiting.append(position)
        elif what == "fetch":
            do(cluster, FetchMessages("t", "g", f"f{number}", count))
            late = sorted(position for position, until in out.items() if until <= now)[:count]
            fresh = waiting[: count - len(late)]
            del waiting[: len(fresh)]
            out.update({position: now + 10 for position in [*late, *fresh]})
            given_now = [d.position for d in _group(cluster).unacked if d.fetch_id == f"f{number}"]
            assert given_now == sorted([*late, *fresh])
        elif out:
            some = tuple(sorted(out)[:count])
            do(cluster, AckMessages("t", "g", some, what == "refuse"))
            for position in some:
                if what == "ack":
                    del out[position]
                else:
                    out[position] = now
        assert {one.position: one.until_ms for one in _group(cluster).unacked} == out


def _group(cluster: CoreCluster) -> Any:
    return cluster.state.groups["t\0g"]


def test_a_fetch_that_is_repeated_gets_the_same_and_a_group_holds_so_many_at_once() -> None:
    cluster = CoreCluster()
    do(cluster, SetGroup("t", "g", ">", 0, 60_000))
    for _ in range(UNACKED_MAX + 5):
        do(cluster, PublishMessage("t", "a", b"x"))
    cluster.do(SetTopic("t", "a", 10_000))
    first = do(cluster, FetchMessages("t", "g", "same", 3))
    assert do(cluster, FetchMessages("t", "g", "same", 3)) == Accepted(duplicate=True, number=first.number)
    refused(do(cluster, FetchMessages("t", "nobody", "f", 1)), "GROUP_NOT_FOUND")
    for number in range(10):
        do(cluster, FetchMessages("t", "g", f"f{number}", 256))
    assert len(_group(cluster).unacked) <= UNACKED_MAX


def test_what_was_given_out_too_often_goes_to_the_dead_and_what_is_not_kept_is_counted() -> None:
    cluster = CoreCluster()
    do(cluster, SetGroup("t", "g", ">", 0, 5, 2))
    do(cluster, PublishMessage("t", "a", b"bad", (Label("k", "v"),), "me"))
    for number in range(3):
        do(cluster, FetchMessages("t", "g", f"f{number}", 1))
        cluster.now_ms += 10
    [dead] = topics.read(cluster.state, "t", "$dead.g", 0, 9)
    assert (dead.body, _group(cluster).dead, _group(cluster).unacked) == (b"bad", 1, ())
    do(cluster, SetTopic("t", "a", 1))
    do(cluster, PublishMessage("t", "a", b"1"))
    do(cluster, FetchMessages("t", "g", "x", 1))
    do(cluster, PublishMessage("t", "a", b"2"))
    do(cluster, FetchMessages("t", "g", "y", 1))
    assert _group(cluster).lost == 1
    assert [topic.name for topic in topics.forgotten(cluster.state, "t", "a", 1)] == ["a"]


def test_messages_leave_by_count_bytes_and_age() -> None:
    cluster = CoreCluster()
    do(cluster, SetTopic("t", "a", 3, topics.ROOM_BYTES, 50))
    for number in range(5):
        do(cluster, PublishMessage("t", "a", b"%d" % number))
    assert [m.body for m in topics.read(cluster.state, "t", "a", 0, 9)] == [b"2", b"3", b"4"]
    for _ in range(2):
        do(cluster, PublishMessage("t", "a", bytes(60_000)))
    assert [len(m.body) for m in topics.read(cluster.state, "t", "a", 0, 9)] == [60_000]
    cluster.now_ms += 100
    do(cluster, AdvanceClock(0))
    assert topics.read(cluster.state, "t", "a", 0, 9) == [] and not cluster.state.messages
    assert do(cluster, PublishMessage("t", "a", b"")).number == 8, "positions are never used again"
    refused(do(cluster, SetTopic("t", "a", 0, 10)), "BAD_TOPIC")
    refused(do(cluster, PublishMessage("t", "a", bytes(70_000))), "BAD_MESSAGE")


def test_letting_go_twice_is_letting_go() -> None:
    """A holder whose first answer was lost with its node asks again: the lock was not lost."""
    cluster = CoreCluster()
    taken = do(cluster, AcquireLock("t", "l", "ann", 1_000, 0))
    assert isinstance(taken, Accepted)
    first = do(cluster, ReleaseLock("t", "l", taken.number))
    again = do(cluster, ReleaseLock("t", "l", taken.number))
    assert first == again == Accepted()
    late = do(cluster, AcquireLock("t", "l", "bob", 1_000, 0))
    assert isinstance(late, Accepted) and late.number > taken.number
    assert do(cluster, ReleaseLock("t", "l", taken.number)) == Accepted()
    assert cluster.state.locks[name_key("t", "l")].owner == "bob", "and frees nobody else's"
    cluster.now_ms += 2_000
    gone = do(cluster, ReleaseLock("t", "l", late.number))
    assert isinstance(gone, Accepted) and gone.duplicate, "a lease that ran out was lost"
