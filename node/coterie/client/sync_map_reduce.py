"""map_reduce for programs without asyncio: the same functions, blocking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coterie.client.map_reduce import MapReduceResult, skip
from coterie.client.map_reduce import start_map_reduce as begin
from coterie.client.sync_cluster import Cluster
from coterie.client.sync_job import Job
from coterie.client.units import Duration

__all__ = ["MapReduceResult", "map_reduce", "skip", "start_map_reduce"]


def map_reduce(
    cluster: Cluster,
    documents: Iterable[Any],
    *,
    map: str,
    reduce: str | None = None,
    timeout: Duration | None = None,
    **options: Any,
) -> MapReduceResult:
    """See `coterie.client.map_reduce.map_reduce`."""
    job = start_map_reduce(cluster, documents, map=map, reduce=reduce, **options)
    return MapReduceResult.of(job.wait(timeout=timeout))


def start_map_reduce(
    cluster: Cluster, documents: Iterable[Any], *, map: str, reduce: str | None = None, **options: Any
) -> Job:
    """See `coterie.client.map_reduce.start_map_reduce`. The documents are drawn in the client's thread."""
    work = begin(cluster._cluster, documents, map=map, reduce=reduce, **options)
    return cluster._wrap(cluster._run(work))
