"""Metrics are what happened, in a text that Prometheus reads, at an address that stays up."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from coterie.core.nouns import NO_DATA, Event, RetryPolicy, Task, TaskId, TaskState
from coterie.node import httpd
from coterie.node.httpd import HttpListenError, HttpServer
from coterie.node.metrics import COMMIT_S, Histogram, NodeMetrics

FAR_AHEAD_MS = 4_000_000_000_000  # later than the start of any test


def samples(metrics: NodeMetrics) -> dict[str, float]:
    """Every sample of a scrape, as `name{label="value"}`."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def task(state: TaskState, started_at_ms: int = 0) -> Task:
    return Task(
        task_id=TaskId("t-1"),
        order=1,
        tenant="default",
        type="map",
        payload=NO_DATA,
        priority=2,
        retry=RetryPolicy(),
        created_at_ms=FAR_AHEAD_MS,
        state=state,
        started_at_ms=started_at_ms,
    )


def happened(kind: str, after_ms: int, state: TaskState = TaskState.RUNNING, started_at_ms: int = 0) -> Event:
    return Event(kind, task(state, started_at_ms), index=1, at_ms=FAR_AHEAD_MS + after_ms)


def test_a_fresh_node_exports_every_name_with_a_zero() -> None:
    found = samples(NodeMetrics())
    for name in (
        "tasks_submitted_total",
        'tasks_finished_total{state="SUCCEEDED"}',
        'tasks_finished_total{state="DEAD_LETTERED"}',
        "steps_recorded_total",
        "raft_proposals_total",
        "raft_commit_seconds_count",
        "raft_fsync_seconds_count",
        "task_latency_seconds_count",
        "task_queue_seconds_count",
        "failover_seconds_count",
    ):
        assert found[name] == 0
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert found["process_cpu_seconds_total"] > 0


def test_what_happened_is_counted() -> None:
    metrics = NodeMetrics()
    metrics.task_submitted()
    metrics.task_submitted(4)
    metrics.task_finished("FAILED", latency_ms=700, queue_ms=30)
    metrics.task_finished("SUCCEEDED", latency_ms=20)
    metrics.step_recorded()
    metrics.committed(0.004, 12)
    metrics.fsynced(0.0002)
    metrics.failed_over(1.5)
    metrics.skill_ran("word-count", 40)
    metrics.skill_ran("word-count", 60, "failed")
    metrics.rpc_finished("Tasks.SubmitTask", "OK", 0.003)
    found = samples(metrics)
    assert found["tasks_submitted_total"] == 5
    assert found['tasks_finished_total{state="FAILED"}'] == 1
    assert found["task_latency_seconds_count"] == 2
    assert found["task_latency_seconds_sum"] == pytest.approx(0.72)
    assert found['task_latency_seconds_bucket{le="0.025"}'] == 1
    assert found["task_queue_seconds_count"] == 1
    assert found["raft_proposals_total"] == 12
    assert found['raft_commit_seconds_bucket{le="0.002"}'] == 0
    assert found['raft_commit_seconds_bucket{le="0.005"}'] == 1
    assert found['failover_seconds_bucket{le="2.0"}'] == 1
    ran = 'skill_execution_duration_seconds_count{skill="word-count",status="%s"}'
    assert (found[ran % "ok"], found[ran % "failed"]) == (1, 1)
    assert found['rpc_requests_total{code="OK",method="Tasks.SubmitTask"}'] == 1
    assert found['rpc_request_seconds_count{method="Tasks.SubmitTask"}'] == 1


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="state is 'RUNNING', must be one of SUCCEEDED"):
        NodeMetrics().task_finished("RUNNING", 1)


def test_events_of_the_log_are_counted() -> None:
    metrics = NodeMetrics()
    metrics.applied([happened("submitted", 0, TaskState.PENDING), happened("started", 50)])
    metrics.applied([happened("released", 1_000, TaskState.PENDING)])
    metrics.applied([happened("started", 2_750)])
    finished = happened("succeeded", 3_000, TaskState.SUCCEEDED, started_at_ms=FAR_AHEAD_MS + 2_750)
    metrics.applied([finished])
    found = samples(metrics)
    assert found['tasks_finished_total{state="SUCCEEDED"}'] == 1
    assert found["task_latency_seconds_sum"] == 3.0
    assert found["task_queue_seconds_sum"] == 2.75


def test_a_replay_of_the_log_is_not_counted_again() -> None:
    metrics = NodeMetrics()
    old = Event("succeeded", task(TaskState.SUCCEEDED), index=1, at_ms=1_000)
    metrics.applied([old])
    assert samples(metrics)['tasks_finished_total{state="SUCCEEDED"}'] == 0


@given(st.lists(st.floats(0, 10, allow_nan=False)))
def test_a_histogram_counts_as_its_definition_says(values: list[float]) -> None:
    histogram = Histogram(COMMIT_S)
    for value in values:
        histogram.observe(value)
    buckets, total = histogram.buckets()
    assert [count for _, count in buckets[:-1]] == [
        sum(value <= bound for value in values) for bound in COMMIT_S
    ]
    assert buckets[-1] == ("+Inf", len(values))
    assert total == pytest.approx(sum(values))


def test_gauges_are_asked_at_each_scrape_and_labels_are_kept() -> None:
    metrics = NodeMetrics()
    values = {"raft_term": 1.0, "raft_is_leader": True, 'queue_depth{queue="high"}': 3.0}
    metrics.bind(lambda: values)
    metrics.bind(lambda: {'queue_depth{queue="low"}': 4.0, "odd_total": 7.0})
    found = samples(metrics)
    assert (found["raft_term"], found["raft_is_leader"]) == (1, 1)
    assert (found['queue_depth{queue="high"}'], found['queue_depth{queue="low"}']) == (3, 4)
    assert found["odd_total"] == 7
    values["raft_term"] = 2
    assert samples(metrics)["raft_term"] == 2


def test_a_source_that_fails_or_misspells_costs_only_itself() -> None:
    metrics = NodeMetrics()

    def broken() -> dict[str, float]:
        raise RuntimeError("not yet")

    metrics.bind(broken)
    metrics.bind(lambda: {"not a name": 1.0, 'x{y="\n"}': 2.0, "raft_term": 5.0})
    found = samples(metrics)
    assert found["raft_term"] == 5
    assert found["scrape_errors_total"] == 3


def test_labels_from_outside_do_not_grow_without_bound() -> None:
    metrics = NodeMetrics()
    for number in range(1_000):
        metrics.skill_ran(f"skill-{number}", 1)
        metrics.rpc_finished(f"Method{number}", "OK", 0.1)
    found = samples(metrics)
    assert sum(name.startswith("skill_execution_duration_seconds_count") for name in found) <= 65
    assert sum(name.startswith("rpc_requests_total") for name in found) <= 257
    other = found['skill_execution_duration_seconds_count{skill="other",status="other"}']
    assert other == 1_000 - 64
    assert sum(v for name, v in found.items() if name.startswith("rpc_requests_total")) == 1_000


def test_a_scrape_while_everything_counts_is_consistent() -> None:
    metrics, stop = NodeMetrics(), threading.Event()

    def count() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            metrics.skill_ran(f"skill-{number % 40}", number % 90)
            metrics.rpc_finished(f"Method{number % 40}", "OK", 0.001)
            metrics.task_finished("SUCCEEDED", 5)

    counting = threading.Thread(target=count)
    counting.start()
    try:
        for _ in range(5):
            found = samples(metrics)
            assert found['task_latency_seconds_bucket{le="+Inf"}'] == found["task_latency_seconds_count"]
    finally:
        stop.set()
        counting.join()


# -- the HTTP server --------------------------------------------------------------------------------------


@contextmanager
def serving(ready: Callable[[], tuple[bool, str]] = lambda: (True, "")) -> Iterator[HttpServer]:
    server = HttpServer("127.0.0.1", 0, NodeMetrics(), ready)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def fetch(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, content type and body."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()


def test_the_three_paths_and_nothing_else() -> None:
    with serving() as server:
        status, content_type, text = fetch(server, "/metrics")
        assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert "tasks_submitted" in {family.name for family in text_string_to_metric_families(text)}
        assert fetch(server, "/healthz")[::2] == (200, "ok\n")
        assert fetch(server, "/readyz?verbose=1")[::2] == (200, "ready\n")
        assert fetch(server, "/healthz", "HEAD")[::2] == (200, "")
        assert fetch(server, "/")[0] == 404
        assert fetch(server, "/metrics/../../etc/passwd")[0] == 404
        assert fetch(server, "/metrics", "POST")[0] == 501


def test_readiness_is_what_the_node_says() -> None:
    answers = [(False, "no leader with a majority is known"), (True, "0 entries behind")]
    with serving(lambda: answers.pop(0)) as server:
        assert fetch(server, "/readyz")[::2] == (503, "no leader with a majority is known\n")
        assert fetch(server, "/readyz")[::2] == (200, "0 entries behind\n")
        status, _, text = fetch(server, "/readyz")
        assert (status, text) == (503, "IndexError: pop from empty list\n")
        assert fetch(server, "/healthz")[0] == 200


def test_a_port_in_use_is_named_with_the_remedy() -> None:
    with serving() as server:
        second = HttpServer("127.0.0.1", server.port, NodeMetrics(), lambda: (True, ""))
        words = f"listen.http: 127.0.0.1:{server.port} is in use by another process; stop that or choose"
        with pytest.raises(HttpListenError, match=words):
            second.start()
        second.stop()
        assert fetch(server, "/healthz")[0] == 200


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 99_999)])
def test_an_address_that_cannot_be_is_refused(host: str, port: int) -> None:
    with pytest.raises(HttpListenError, match=f"listen.http: {host}:{port} "):
        HttpServer(host, port, NodeMetrics(), lambda: (True, "")).start()


def test_the_port_is_free_after_a_stop() -> None:
    with serving() as server:
        port = server.port
    again = HttpServer("127.0.0.1", port, NodeMetrics(), lambda: (True, ""))
    again.start()
    assert fetch(again, "/healthz")[0] == 200
    again.stop()
    again.stop()


def test_connections_beyond_the_bound_are_closed_and_silent_ones_are_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(httpd, "_CONNECTION_SECONDS_MAX", 1.0)
    with serving() as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(httpd._CONNECTIONS_MAX)]
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as refused:
            assert refused.recv(10) == b""
        for connection in silent:
            connection.settimeout(30)
            assert connection.recv(10) == b""
            connection.close()
        assert fetch(server, "/healthz")[0] == 200


def test_noise_instead_of_a_request_harms_nobody() -> None:
    with serving() as server:
        for noise in (
            b"\x16\x03\x01\x02\x00\x01",
            b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
        ):
            with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as connection:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(100)
                assert answer == b"" or b"400" in answer or b"414" in answer
        assert fetch(server, "/healthz")[0] == 200
