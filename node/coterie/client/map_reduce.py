"""map_reduce: one skill over many documents, another over the results, as one task inside the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from coterie.client.cluster import Cluster
from coterie.client.job import Job
from coterie.client.rpc_errors import invalid
from coterie.client.units import Duration

SKILL = "map-reduce"
DOCUMENTS_MAX = 19_000
WINDOW = 64
WINDOW_MAX = 1_000
BATCH_BYTES = 1024 * 1024  # documents travel in blobs of about this size
_PREFIX = "skill:"

Reducer = Literal["list", "keyed", "tree"]


@dataclass(frozen=True, slots=True)
class Skip:
    """Leave out maps that fail, at most so many, or such a part of the documents."""

    max: int = 0
    percent: float | None = None

    def of(self, count: int) -> int:
        """How many of `count` may fail."""
        return self.max if self.percent is None else int(count * Fraction(str(self.percent)) / 100)


def skip(max: int | None = None, *, percent: float | None = None) -> Skip:
    """For `on_map_failure`: up to `max` failed maps, or up to `percent` of all, are left out and listed; one
    more ends everything."""
    if (max is None) == (percent is None):
        raise invalid([("on_map_failure", "skip: give either a number of documents or percent=")])
    if percent is not None:
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
            raise invalid([("on_map_failure", f"skip(percent={percent!r}): give a number from 0 to 100")])
        return Skip(percent=percent)
    if isinstance(max, bool) or not isinstance(max, int) or max < 0:
        raise invalid([("on_map_failure", f"skip({max!r}): give a whole number from 0 on")])
    return Skip(max)


@dataclass(frozen=True, slots=True)
class FailedMap:
    """A document without a result: its place, its task, and why."""

    document: int
    task: str
    state: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class MapReduceResult:
    """What came of it. `value`: of the reduction; without one, the results in the order of the documents.
    `failed` lists every document that is not in it."""

    value: Any
    documents: int
    failed: tuple[FailedMap, ...] = ()

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> MapReduceResult:
        """From the result of the task, as `job.wait()` gives it."""
        failed = tuple(FailedMap(**each) for each in result["failed"])
        return cls(result["result"], result["documents"], failed)


async def map_reduce(
    cluster: Cluster,
    documents: Iterable[Any],
    *,
    map: str,
    reduce: str | None = None,
    timeout: Duration | None = None,
    **options: Any,
) -> MapReduceResult:
    """Start it and wait for it; `options` are those of `start_map_reduce`, `timeout` bounds the waiting.

    Raises InvalidRequest, TaskFailed (too many maps failed, or a reduction), WaitTimeout, as `Job.wait`."""
    job = await start_map_reduce(cluster, documents, map=map, reduce=reduce, **options)
    return MapReduceResult.of(await job.wait(timeout=timeout))


async def start_map_reduce(
    cluster: Cluster,
    documents: Iterable[Any],
    *,
    map: str,
    reduce: str | None = None,
    reducer: Reducer = "list",
    on_map_failure: str | Skip = "fail",
    window: int = WINDOW,
    **options: Any,
) -> Job:
    """One task that maps every document (any JSON value) and reduces the results; its Job.

    `map` and `reduce` name skills. At most `window` children are open at once. `reducer`: "list" gives one
    reduction all results in order, "keyed" one for every key of what maps return, "tree" reduces by steps.
    `on_map_failure`: "fail", skip(n), or "dead-letter". Further options: map_options and reduce_options
    (those of submitting), reduce_input and results_as (what a reduction gets besides, and how its list is
    called), fan_in (of the tree), and those of submitting the whole: on_progress, request_id, labels …

    Raises InvalidRequest, QueueFull, Unavailable."""
    given = {
        "map": _skill("map", map),
        "reduce": _skill("reduce", reduce) if reduce is not None else "",
        "reducer": reducer,
        "window": _window(window),
        "on_map_failure": _failure_policy(on_map_failure),
        **{name: options.pop(name) for name in _INPUT_OPTIONS if name in options},
    }
    given["batches"] = batches = await _batches(cluster, documents)
    if isinstance(on_map_failure, Skip):
        given["failures_max"] = on_map_failure.of(sum(batch["count"] for batch in batches))
    return await cluster.submit_task(type=SKILL, payload=given, **options)


_INPUT_OPTIONS = ("map_options", "reduce_options", "reduce_input", "results_as", "fan_in")


def _skill(field: str, name: str) -> str:
    if not isinstance(name, str) or not name.removeprefix(_PREFIX):
        raise invalid([(field, f"{name!r} is no skill: give its name")])
    return name.removeprefix(_PREFIX)


def _window(window: int) -> int:
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= WINDOW_MAX:
        raise invalid([("window", f"{window!r} is not a whole number from 1 to {WINDOW_MAX}")])
    return window


def _failure_policy(policy: str | Skip) -> str:
    if isinstance(policy, Skip):
        return "skip"
    if policy not in ("fail", "dead-letter"):
        raise invalid([("on_map_failure", f"{policy!r} is none of 'fail', skip(n), 'dead-letter'")])
    return policy


async def _batches(cluster: Cluster, documents: Iterable[Any]) -> list[dict[str, Any]]:
    """The documents, one JSON text a line, in blobs on a majority of nodes."""
    batches: list[dict[str, Any]] = []
    lines: list[bytes] = []
    size = 0
    for number, document in enumerate(documents):
        line = _line(number, document)
        if number >= DOCUMENTS_MAX:
            text = f"more than {DOCUMENTS_MAX}: put several into one document, or call it more often"
            raise invalid([("documents", text)])
        if lines and size + len(line) > BATCH_BYTES:
            batches.append(await _put(cluster, lines))
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        batches.append(await _put(cluster, lines))
    return batches


def _line(number: int, document: Any) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid([(f"documents[{number}]", f"is not a JSON value ({error})")]) from error


async def _put(cluster: Cluster, lines: list[bytes]) -> dict[str, Any]:
    ref = await cluster._open.blobs.put(b"\n".join(lines))
    named = {"sha256": ref.sha256, "size_bytes": ref.size_bytes, "ticket": ref.ticket}
    return {**named, "count": len(lines)}
