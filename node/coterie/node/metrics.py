"""What one node counts: plain numbers on the hot path, Prometheus families at a scrape."""

from __future__ import annotations

import bisect
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from coterie.core.nouns import Event, TaskState
from coterie.core.transitions import TERMINAL
from coterie.node.on_loop import LoopSilent

GaugeSource = Callable[[], Mapping[str, float]]
Readings = list[Mapping[str, float]]
Asking = Callable[[Callable[[], Readings]], Readings]

_logger = logging.getLogger("coterie.metrics")
_LABEL_VALUES_MAX = 64
_RPC_SERIES_MAX = 256
_OTHER = "other"
_KEY = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)(?:\{(?P<label>[a-zA-Z_]\w*)="(?P<value>[^"\\\n]*)"\})?')

COMMIT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
FSYNC_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
TASK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
FAILOVER_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

# What the node's own source may report, with the help text; other names are exported too.
GAUGES = {
    "raft_term": "Term of the replicated log.",
    "raft_commit_index": "Highest log index known to be committed.",
    "raft_applied_index": "Highest log index applied to the state.",
    "raft_is_leader": "1 while this node leads.",
    "raft_has_quorum": "1 while this node leads or follows a leader with a majority.",
    "raft_fsync_p99_seconds": "99th percentile of the journal's syncs in the last seconds.",
    "disk_room": "Room on the disk of the log: 0 for all, 1 only for what ends work, 2 for nothing.",
    "disk_free_bytes": "Free on the disk of the log.",
    "message_queue_depth": "Tasks that wait for a node.",
    "running_tasks": "Tasks that run on this node.",
    "capacity": "Tasks that this node may run at a time.",
    "live_tasks": "Tasks in the replicated state that are not finished.",
    "ledger_backlog": "Ledger rows queued and not yet written.",
    "ledger_rows_lost_total": "Ledger rows left out since the start.",
    "ledger_gaps": "Ranges of the log whose ledger rows are missing here.",
    "blob_bytes": "Bytes of the stored blobs.",
    "waiting_calls": "Open calls that wait for a task to finish.",
    "breakers": "Circuit breakers by state.",
    "breaker_open": "1 for each circuit breaker that is not closed.",
    "breakers_opened_total": "How often any circuit breaker of the cluster opened.",
    "dead_letters": "Tasks that were given up and stand in the list of dead letters.",
    "dead_letters_dropped_total": "Dead letters that left the list because it was full.",
    "budget_used_ratio": "Billed and set aside of each budget's limit, in its fullest account.",
    "tls_certificate_expires_seconds": "Unix time at which the certificate of this node ends.",
    "watching_calls": "Open calls that follow the events of a task.",
}


class Histogram:
    """Counts per fixed bucket, and the sum. Upper bounds are in seconds, ascending."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        self._counts[bisect.bisect_left(self._bounds, seconds)] += times
        self._sum += seconds * times

    @property
    def count(self) -> int:
        return sum(self._counts)

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts per upper bound, the last one +Inf; and the sum."""
        total, cumulative = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), list(self._counts), strict=True):
            total += count
            cumulative.append((bound, float(total)))
        return cumulative, self._sum


def _at_once(read: Callable[[], Readings]) -> Readings:
    """Where no loop runs."""
    return read()


class NodeMetrics:
    """What a node counts. Methods are called on the event loop, `render` in other threads."""

    def __init__(self) -> None:
        self.tasks_submitted = 0
        self.steps_recorded = 0
        self.proposals = 0
        self.scrape_errors = 0
        self.failovers_late = 0
        self.tasks_finished: dict[str, int] = {state.name: 0 for state in sorted(TERMINAL)}
        self.commit_seconds = Histogram(COMMIT_S)
        self.fsync_seconds = Histogram(FSYNC_S)
        self.task_latency = Histogram(TASK_S)
        self.task_queue = Histogram(TASK_S)
        self.failover_seconds = Histogram(FAILOVER_S)
        self._skills: dict[tuple[str, str], Histogram] = {}
        self._rpcs: dict[tuple[str, str], int] = {}
        self._rpc_seconds: dict[str, Histogram] = {}
        self._sources: list[GaugeSource] = []
        self._beside: list[GaugeSource] = []
        self._family_sources: list[Callable[[], Iterable[Metric]]] = []
        self.on_loop: Asking = _at_once  # has the gauges read where they change
        self._started_at_ms = int(time.time() * 1000)
        self._registry = CollectorRegistry()
        self._registry.register(_Exposition(self))
        ProcessCollector(registry=self._registry)

    def bind(self, source: GaugeSource) -> None:
        """Ask `source` for gauges at every scrape, on the event loop. A key is a metric name, or
        `name{label="value"}`; names that end in `_total` are exported as counters."""
        self._sources.append(source)

    def bind_beside(self, source: GaugeSource) -> None:
        """The same in the thread of the scrape: it must not go through what the loop changes."""
        self._beside.append(source)

    def bind_families(self, source: Callable[[], Iterable[Metric]]) -> None:
        """Ask `source` for whole families at every scrape, in the thread of the scrape."""
        self._family_sources.append(source)

    def render(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)

    # -- what happened -----------------------------------------------------------------------------------

    def task_submitted(self, count: int = 1) -> None:
        self.tasks_submitted += count

    def task_finished(self, state: str, latency_ms: float, queue_ms: float | None = None) -> None:
        """A task reached `state`, `latency_ms` after its submission; it had waited `queue_ms` for a start."""
        if state not in self.tasks_finished:
            raise ValueError(f"state is {state!r}, must be one of {', '.join(self.tasks_finished)}")
        self.tasks_finished[state] += 1
        self.task_latency.observe(latency_ms / 1000)
        if queue_ms is not None:
            self.task_queue.observe(queue_ms / 1000)

    def step_recorded(self, count: int = 1) -> None:
        self.steps_recorded += count

    def committed(self, seconds: float, commands: int = 1) -> None:
        """A log entry with that many commands was committed, `seconds` after it was proposed."""
        self.proposals += commands
        self.commit_seconds.observe(seconds)

    def fsynced(self, seconds: float) -> None:
        self.fsync_seconds.observe(seconds)

    def failed_over(self, seconds: float, late: bool = False) -> None:
        """A task is on another node, `seconds` after the last good report of the one that was lost; `late`:
        the objective was missed."""
        self.failover_seconds.observe(seconds)
        self.failovers_late += late

    def skill_ran(self, skill: str, took_ms: float, status: str = "ok") -> None:
        """One attempt in a child process took `took_ms`."""
        key = (skill, status)
        if key not in self._skills and len(self._skills) >= _LABEL_VALUES_MAX:
            key = (_OTHER, _OTHER)
        self._skills.setdefault(key, Histogram(TASK_S)).observe(took_ms / 1000)

    def rpc_finished(self, method: str, code: str, seconds: float) -> None:
        """A call of `method` (`Tasks.SubmitTask`) ended with the status `code`."""
        key = (method, code)
        if key not in self._rpcs and len(self._rpcs) >= _RPC_SERIES_MAX:
            key = (_OTHER, _OTHER)
        self._rpcs[key] = self._rpcs.get(key, 0) + 1
        if method not in self._rpc_seconds and len(self._rpc_seconds) >= _LABEL_VALUES_MAX:
            method = _OTHER
        self._rpc_seconds.setdefault(method, Histogram(COMMIT_S)).observe(seconds)

    def applied(self, events: Iterable[Event]) -> None:
        """Events of an applied entry. What happened before this process began is a replay and not counted."""
        for event in events:
            if event.at_ms < self._started_at_ms:
                continue
            if event.task.state in TERMINAL:
                self._finish(event)

    def _finish(self, event: Event) -> None:
        task = event.task
        queue_ms = task.started_at_ms - task.created_at_ms if task.started_at_ms else None
        self.task_finished(TaskState(task.state).name, event.at_ms - task.created_at_ms, queue_ms)

    # -- at a scrape -------------------------------------------------------------------------------------

    def families(self) -> Iterator[Metric]:
        """Everything as Prometheus families."""
        yield _counter("tasks_submitted", "Tasks accepted by this node from clients.", self.tasks_submitted)
        yield _counter(
            "steps_recorded", "Steps of tasks on this node that were recorded.", self.steps_recorded
        )
        yield _counter("raft_proposals", "Commands of this node that were committed.", self.proposals)
        finished = CounterMetricFamily(
            "tasks_finished",
            "Tasks of the whole cluster finished, as applied by this node.",
            labels=["state"],
        )
        for state, count in self.tasks_finished.items():
            finished.add_metric([state], count)
        yield finished
        yield from self._histograms()
        yield from self._rpc_families()
        yield from self._gauges()
        for source in self._family_sources:
            yield from source()
        yield _counter("failovers_late", "Failovers that took longer than failoverTime.", self.failovers_late)
        yield _counter("scrape_errors", "Gauge sources that failed at a scrape.", self.scrape_errors)

    def _histograms(self) -> Iterator[Metric]:
        plain = (
            ("raft_commit_seconds", "From proposing an entry to its commit.", self.commit_seconds),
            ("raft_fsync_seconds", "One sync of the journal.", self.fsync_seconds),
            ("task_latency_seconds", "From submission to the terminal state.", self.task_latency),
            ("task_queue_seconds", "From submission to the last start.", self.task_queue),
            (
                "failover_seconds",
                "From a lost node's last report to the next assignment of its task (on the leader).",
                self.failover_seconds,
            ),
        )
        for name, text, histogram in plain:
            yield _histogram(name, text, [], [((), histogram)])
        yield _histogram(
            "skill_execution_duration_seconds",
            "One attempt of a skill on this node.",
            ["skill", "status"],
            list(self._skills.items()),
        )

    def _rpc_families(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("rpc_requests", "Calls answered by this node.", labels=["method", "code"])
        for labels, count in list(self._rpcs.items()):
            calls.add_metric(labels, count)
        yield calls
        seconds = [((method,), histogram) for method, histogram in list(self._rpc_seconds.items())]
        yield _histogram("rpc_request_seconds", "Time to answer a call.", ["method"], seconds)

    def _gauges(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for found in [*self._ask_on_loop(), *map(self._ask, self._beside)]:
            for key, value in found.items():
                match = _KEY.fullmatch(key)
                if match is None:
                    self.scrape_errors += 1
                    continue
                name, labels = match["name"], [match["label"]] if match["label"] else []
                family = families.setdefault(name, _gauge_family(name, labels))
                family.add_metric([match["value"]] if labels else [], float(value))
        yield from families.values()

    def _ask_on_loop(self) -> Readings:
        """All in one turn of the loop, and in one wait for it."""
        try:
            return self.on_loop(lambda: [self._ask(source) for source in self._sources])
        except LoopSilent as error:
            self.scrape_errors += 1
            _logger.warning("no gauges for a scrape", extra={"error": str(error)})
            return []

    def _ask(self, source: GaugeSource) -> Mapping[str, float]:
        try:
            return source()
        except Exception as error:
            self.scrape_errors += 1
            _logger.warning("metrics source failed", extra={"error": str(error)}, exc_info=True)
            return {}


class _Exposition(Collector):
    def __init__(self, metrics: NodeMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _histogram(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Histogram]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in rows:
        buckets, total = histogram.buckets()
        family.add_metric(values, buckets, total)
    return family


def _gauge_family(name: str, labels: Sequence[str]) -> CounterMetricFamily | GaugeMetricFamily:
    text = GAUGES.get(name, "Reported by the node.")
    if name.endswith("_total"):
        return CounterMetricFamily(name, text, labels=labels)
    return GaugeMetricFamily(name, text, labels=labels)
