"""The audit log: every node derives the same records, and whoever changes one is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.core.access import Origin, User
from coterie.core.access_commands import NoteCall, SetUser
from coterie.core.audit import START, AuditRecord, Check, seal
from coterie.core.canonical import state_hash
from coterie.core.commands import Called, CancelTask, SetLimit, SignalTask
from coterie.core.nouns import TaskId
from coterie.core.quotas import Limit
from coterie.raft import codec
from coterie.raft.replica import Replica
from tests.core.builders import CoreCluster, RandomLog, submit_command

ANN = Origin("user:ann", "Tasks/SubmitTask", "shop")
OPS = Origin("token:ops", "Limits/SetLimit")


def filled(count: int = 12) -> CoreCluster:
    """A state with that many records."""
    core = CoreCluster()
    for number in range(count):
        core.do(Called(submit_command(f"t{number}", tenant="shop", request_id=f"r{number}"), ANN))
    return core


def checked(records: list[AuditRecord], core: CoreCluster) -> str:
    check = Check()
    for record in records:
        if fault := check.add(record):
            return fault
    return check.end(core.state.meta.audit_count, core.state.meta.audit_head)


def test_a_record_says_who_did_what_to_which_and_what_came_of_it() -> None:
    core = CoreCluster()
    core.do(Called(submit_command("t1", tenant="shop", request_id="r1"), ANN))
    core.do(Called(submit_command("t1", tenant="shop", request_id="r1"), ANN))
    core.do(Called(SignalTask(TaskId("t1"), "go", signal_id="s1"), ANN))
    core.do(Called(CancelTask(TaskId("t9")), ANN))
    core.do(Called(SetLimit(Limit("per-key", key="*", concurrent=1)), OPS))
    core.do(Called(SetUser(User("bob", "shop", ("viewer",))), OPS))
    core.do(Called(NoteCall("node-3", "OK"), OPS))
    said = [(r.principal, r.tenant, r.target, r.request_id, r.code) for r in core.state.noted]
    assert said == [
        ("user:ann", "shop", "t1", "r1", "OK"),
        ("user:ann", "shop", "t1", "r1", "DUPLICATE"),
        ("user:ann", "shop", "t1", "s1", "OK"),
        ("user:ann", "shop", "t9", "", "TASK_NOT_FOUND"),
        ("token:ops", "", "per-key", "", "OK"),
        ("token:ops", "", "bob", "", "OK"),
        ("token:ops", "", "node-3", "", "OK"),
    ]
    assert [r.sequence for r in core.state.noted] == list(range(1, 8))
    assert [r.index for r in core.state.noted] == list(range(1, 8))
    assert core.state.meta.audit_head == core.state.noted[-1].digest


def test_what_nobody_asked_for_leaves_no_record() -> None:
    core = CoreCluster().with_node()
    core.running("t1")
    assert core.state.meta.audit_count == 0 and core.state.noted == []


def test_a_whole_log_is_in_order() -> None:
    core = filled()
    assert checked(list(core.state.noted), core) == ""
    assert checked([], CoreCluster()) == ""


Damage = Callable[[list[AuditRecord]], list[AuditRecord]]
FIELDS = ("index", "at_ms", "principal", "tenant", "method", "target", "request_id", "code", "digest")
DAMAGES: dict[str, tuple[Damage, str]] = {
    "removed": (lambda r: r[:4] + r[5:], "record 5 is missing"),
    "first removed": (lambda r: r[1:], "record 1 is missing"),
    "last removed": (lambda r: r[:-1], "records 12 to 12 are missing at the end"),
    "all removed": (lambda r: [], "records 1 to 12 are missing at the end"),
    "moved": (lambda r: [*r[:3], r[4], r[3], *r[5:]], "record 4 is missing: record 5"),
    "moved with its number": (
        lambda r: [*r[:3], replace(r[4], sequence=4), replace(r[3], sequence=5), *r[5:]],
        "record 4 was changed",
    ),
    "removed and counted anew": (
        lambda r: r[:4] + [replace(one, sequence=one.sequence - 1) for one in r[5:]],
        "record 5 was changed",
    ),
    "one too many": (
        lambda r: [*r, replace(r[-1], sequence=13, digest=seal(r[-1].digest, replace(r[-1], sequence=13)))],
        "record 13 is one too many",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_was_done_to_the_log_is_named(what: str) -> None:
    core = filled()
    damage, fault = DAMAGES[what]
    assert fault in checked(damage(list(core.state.noted)), core)


@pytest.mark.parametrize("field", FIELDS)
def test_a_change_of_any_field_is_found(field: str) -> None:
    core = filled()
    records = list(core.state.noted)
    value: Any = getattr(records[6], field)
    changed: Any = value + 1 if isinstance(value, int) else value[:-1] + (b"?" if field == "digest" else "?")
    records[6] = replace(records[6], **{field: changed})
    assert "record 7 was changed" in checked(records, core)


def test_a_log_that_was_sealed_anew_from_the_change_on_does_not_end_as_agreed() -> None:
    core = filled()
    records, before = list(core.state.noted), START
    records[6] = replace(records[6], principal="user:eve")
    for place, record in enumerate(records):
        before = seal(before, record)
        records[place] = replace(record, digest=before)
    assert "is not the cluster's" in checked(records, core)


@given(st.lists(st.text("a1:,", max_size=4), min_size=6, max_size=6), st.integers(0, 5), st.integers(0, 5))
def test_text_that_moves_from_one_field_to_the_next_changes_the_hash(
    texts: list[Any], one: int, other: int
) -> None:
    names = ("principal", "tenant", "method", "target", "request_id", "code")
    base = replace(AuditRecord(1, 1, 1, *[""] * 6), **dict(zip(names, texts, strict=True)))  # type: ignore[arg-type]
    if one == other or not texts[one]:
        return
    moved: AuditRecord = replace(
        base, **{names[one]: texts[one][:-1], names[other]: texts[other] + texts[one][-1]}
    )
    assert seal(START, moved) != seal(START, base)


def test_every_node_has_the_same_records_also_after_a_snapshot() -> None:
    seen: list[list[AuditRecord]] = [[], []]
    replicas = [Replica(lambda index, events: None, lambda index: None) for _ in seen]
    for replica, records in zip(replicas, seen, strict=True):
        replica.on_noted = records.extend
    log = RandomLog(11)
    for index in range(1, 41):
        commands = [command if n % 2 else Called(command, ANN) for n, command in enumerate(log.take(4))]
        entry = codec.encode_batch(commands)
        if index == 21:  # the second one goes on from an image of the first
            replicas[1].restore(list(replicas[0].freeze()), 20)
        for replica in replicas if index != 20 else replicas[:1]:
            replica.apply(index, 1_000 + index, entry)
    assert state_hash(replicas[0].state) == state_hash(replicas[1].state)
    assert len(seen[0]) == replicas[0].state.meta.audit_count == 80
    assert [record for record in seen[0] if record.index != 20] == seen[1]
    check = Check()
    assert [fault for record in seen[0] if (fault := check.add(record))] == []
    assert check.end(80, replicas[0].state.meta.audit_head) == ""
