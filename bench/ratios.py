"""Figures of one run set against each other: the cluster, its engine alone, and etcd."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bench.figures import Figure, Section

NAME = "ratios"


@dataclass(frozen=True, slots=True)
class Ratio:
    """`figure` divided by the first of `yardsticks` that was measured."""

    key: str
    title: str
    figure: str
    yardsticks: tuple[str, ...]


ENGINE, ETCD = "raft_engine", "etcd"
RATIOS = (
    *(
        Ratio(
            f"engine_etcd_{outstanding}",
            f"engine commits/s : etcd puts/s, {outstanding} outstanding",
            f"{ENGINE}.{outstanding}.per_s",
            (f"{ETCD}.h2load_{outstanding}.per_s", f"{ETCD}.python_{outstanding}.per_s"),
        )
        for outstanding in (1, 64, 512)
    ),
    Ratio(
        "engine_etcd_p50",
        "engine p50 : etcd p50, 1 outstanding",
        f"{ENGINE}.1.p50",
        (f"{ETCD}.h2load_1.p50", f"{ETCD}.python_1.p50"),
    ),
    Ratio(
        "tasks_engine",
        "tasks/s : engine commits/s, 64 outstanding",
        "throughput.one_client.per_s",
        (f"{ENGINE}.64.per_s",),
    ),
    Ratio(
        "tasks_etcd",
        "tasks/s : etcd puts/s (Python client), 64 outstanding",
        "throughput.one_client.per_s",
        (f"{ETCD}.python_64.per_s",),
    ),
    Ratio(
        "latency_engine",
        "task p50 : engine p50, one at a time",
        "latency.any.p50",
        (f"{ENGINE}.1.p50",),
    ),
    Ratio(
        "latency_etcd",
        "task p50 : etcd put p50 (Python client), one at a time",
        "latency.any.p50",
        (f"{ETCD}.python_1.p50",),
    ),
    Ratio(
        "ack_etcd",
        "submit ack p50 : etcd put p50 (Python client), one at a time",
        "latency.any.ack_p50",
        (f"{ETCD}.python_1.p50",),
    ),
)


def ratios(sections: Iterable[Section]) -> Section:
    """Every ratio whose two figures were measured in this run, from their medians."""
    figures = {figure.key: figure for section in sections for figure in section.figures}
    compared = Section(NAME, "Ratios of the medians of this run")
    for ratio in RATIOS:
        yardstick = next((figures[key] for key in ratio.yardsticks if key in figures), None)
        value = _divided(figures.get(ratio.figure), yardstick)
        if value is not None:
            compared.add(ratio.key, ratio.title, "x", [value])
    if not compared.figures:
        compared.skipped = "this run did not measure both sides of any ratio"
        return compared
    compared.notes.append(
        "A task is at least three commits (submitted, assigned, finished) and a run in a child process; "
        "etcd's put is one commit. The engine's commits are proposed inside the leader's process, etcd's "
        "puts come over gRPC."
    )
    return compared


def _divided(figure: Figure | None, yardstick: Figure | None) -> float | None:
    if figure is None or yardstick is None:
        return None
    quotient = figure.median / yardstick.median if yardstick.median else math.nan
    return None if math.isnan(quotient) else quotient
