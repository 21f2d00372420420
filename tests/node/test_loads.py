"""Leases and the book of load reports, on a clock of our own."""

from __future__ import annotations

from coterie.core.nouns import NodeId
from coterie.node.clock import Clock
from coterie.node.loads import Lease, LoadBook
from coterie.v1 import peer_pb2


class FakeClock(Clock):
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def make_lease(clock: FakeClock) -> tuple[Lease, list[int]]:
    extended: list[int] = []
    return Lease(clock, 700, extended.append), extended


def test_a_lease_counts_from_the_sending_of_what_was_answered() -> None:
    clock = FakeClock()
    lease, extended = make_lease(clock)
    assert not lease.valid
    clock.now = 100.5  # the answer took half a second
    lease.extend_from(100.0)
    assert extended == [200]
    assert lease.valid
    clock.now = 100.71
    assert not lease.valid


def test_a_new_leader_whom_nobody_has_answered_has_no_lease() -> None:
    """A leader's evidence of a majority is minus infinity until the first answer."""
    lease, extended = make_lease(FakeClock())
    lease.extend_from(float("-inf"))
    assert not lease.valid and not extended


def test_answers_drained_after_a_pause_extend_nothing() -> None:
    clock = FakeClock()
    lease, extended = make_lease(clock)
    lease.extend_from(100.0)
    clock.now = 105.0
    lease.extend_from(101.0)
    assert not lease.valid and len(extended) == 1


def test_an_older_answer_never_shortens_a_lease() -> None:
    clock = FakeClock()
    lease, extended = make_lease(clock)
    lease.extend_from(100.0)
    lease.extend_from(99.9)
    clock.now = 100.69
    assert lease.valid and len(extended) == 1


def test_a_lease_that_had_run_out_begins_a_new_period() -> None:
    clock = FakeClock()
    lease, _ = make_lease(clock)
    lease.extend_from(100.0)
    clock.now = 100.69
    lease.extend_from(100.69)
    assert lease.period == 1
    clock.now = 101.39
    lease.extend_from(101.39)
    assert lease.period == 2


def report(node_id: str) -> peer_pb2.LoadReport:
    return peer_pb2.LoadReport(node_id=node_id, incarnation=1)


def test_a_new_leadership_gives_every_node_the_full_grace() -> None:
    clock = FakeClock()
    book = LoadBook(clock, 1_200)
    book.note(report("n1"))
    clock.now += 5
    book.begin([NodeId("n1"), NodeId("n2")])
    assert {load.age_ms for load in book.loads().values()} == {0}
    assert book.age_ms(NodeId("n1")) == -1, "what an earlier leadership heard does not count"


def test_reports_in_a_row_are_counted_until_one_is_late() -> None:
    clock = FakeClock()
    book = LoadBook(clock, 1_200)
    for _ in range(3):
        book.note(report("n1"))
        clock.now += 0.2
    assert book.fresh() == {"n1": 3}
    clock.now += 2
    book.note(report("n1"))
    assert book.fresh() == {"n1": 1}


def test_followers_copy_what_the_leader_knows() -> None:
    clock = FakeClock()
    book = LoadBook(clock, 1_200)
    ack = peer_pb2.ReportAck(lease=True)
    ack.loads.add(report=peer_pb2.LoadReport(node_id="n2", running=3), age_ms=150)
    book.copy_from(ack)
    assert book.age_ms(NodeId("n2")) == 150
    assert book.loads()[NodeId("n2")].running == 3
