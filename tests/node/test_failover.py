"""Failover is measured from the last word of the lost node, whoever led then, to the next assignment."""

from __future__ import annotations

import pytest

from coterie.core.commands import MarkNode
from coterie.core.nouns import NodeId, NodeStatus
from coterie.node.clock import Clock
from coterie.node.failover import FailoverWatch
from coterie.node.loads import LoadBook
from coterie.node.metrics import NodeMetrics
from coterie.v1 import peer_pb2
from tests.core.builders import CoreCluster, register_command

N1 = NodeId("n1")


class FakeClock(Clock):
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Bench:
    def __init__(self, objective_ms: int = 0) -> None:
        self.clock, self.metrics = FakeClock(), NodeMetrics()
        self.core = CoreCluster().with_node("n1").with_node("n2")
        self.book = LoadBook(self.clock, 1_000)
        self.watch = FailoverWatch(self.clock, self.book.heard_at, self.metrics, objective_ms)

    def report(self, node_id: str = "n1", incarnation: int = 1) -> None:
        self.book.note(peer_pb2.LoadReport(node_id=node_id, incarnation=incarnation))

    def lose(self) -> None:
        self.core.do(MarkNode(N1, 1, NodeStatus.DOWN, "no report"))

    def measured(self) -> tuple[int, float]:
        self.watch.look(self.core.state)
        histogram = self.metrics.failover_seconds
        return histogram.count, round(histogram.buckets()[1], 3)


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.report()
    made.core.running("t1", "n1")
    return made


def test_from_the_last_report_to_the_next_assignment(bench: Bench) -> None:
    bench.clock.now += 1.5
    bench.lose()
    assert bench.measured() == (0, 0.0)
    bench.clock.now += 0.25
    bench.core.assign("t1", "n2")
    assert bench.measured() == (1, 1.75)
    assert bench.measured() == (1, 1.75)


def test_a_restart_counts_from_the_last_report_of_the_earlier_process(bench: Bench) -> None:
    bench.clock.now += 0.5
    bench.report(incarnation=2)
    bench.core.do(register_command("n1", 2))
    bench.core.assign("t1", "n1")
    assert bench.measured() == (1, 0.5)


def test_what_an_earlier_leader_heard_counts_and_what_it_settled_does_not(bench: Bench) -> None:
    ack = peer_pb2.ReportAck(lease=True)
    ack.loads.add(report=peer_pb2.LoadReport(node_id="n1", incarnation=1), age_ms=0)
    bench.clock.now += 1.0
    bench.book.copy_from(ack)
    bench.core.running("t2", "n2")
    bench.core.do(MarkNode(NodeId("n2"), 1, NodeStatus.DOWN, "no report"))
    bench.core.assign("t2", "n1")  # under another leader
    bench.watch.begin(bench.core.state)
    bench.book.begin([N1])
    bench.clock.now += 2.0
    bench.lose()
    bench.core.do(MarkNode(NodeId("n2"), 1, NodeStatus.UP))
    bench.core.assign("t1", "n2")
    assert bench.measured() == (1, 2.0)


def test_what_takes_longer_than_the_objective_is_said(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(objective_ms=1_000)
    bench.report()
    for name in ("t1", "t2"):
        bench.core.running(name, "n1")
    bench.lose()
    for name, seconds in (("t1", 0.9), ("t2", 0.2)):
        bench.clock.now += seconds
        bench.core.assign(name, "n2")
        bench.measured()
    assert bench.metrics.failovers_late == 1
    assert [record.message for record in caplog.records] == ["failover took longer than failoverTime"]
