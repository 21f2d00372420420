"""map_reduce on real nodes: a thousand documents, some of them bad, and nodes killed on the way."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from coterie.client import InvalidRequest, MapReduceResult, TaskFailed, map_reduce, skip, start_map_reduce
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import client_of, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]

BAD_EVERY = 100


def documents(count: int, witness: Path) -> list[dict[str, Any]]:
    bad = list(range(7, count, BAD_EVERY))
    return [
        {"number": number, "witness": str(witness), **({"broken": bad} if number in bad else {})}
        for number in range(count)
    ]


def mapped(witness: Path) -> list[str]:
    return [line.split()[0] for line in witness.read_text().splitlines()]


async def map_while_nodes_die(nodes: LocalCluster, count: int, witness: Path, timeout_s: float) -> None:
    """Every document is in the sum or in the list, and no completed one was mapped again."""
    bad = len(range(7, count, BAD_EVERY))
    async with client_of(nodes) as client:
        seen: list[float] = []
        began = time.monotonic()
        job = await start_map_reduce(
            client,
            documents(count, witness),
            map="skill:family",
            reduce="add-up",
            on_map_failure=skip(bad),
            window=128,
            map_options={"max_attempts": 1},
            on_progress=lambda progress: seen.append(progress.percent),
        )

        async def far(part: float) -> bool:
            return bool(seen) and max(seen) > part

        for node_id, part in (("node-2", 10.0), ("node-1", 40.0)):
            await until(lambda part=part: far(part), f"{part} percent", timeout_s)  # type: ignore[misc]
            nodes.kill_node(node_id)
            nodes.start_node(node_id)
            await nodes.wait_ready(60.0)
        done = MapReduceResult.of(await job.wait(timeout=timeout_s))
        print(f"{count} documents in {time.monotonic() - began:.1f} s, two nodes killed")
        expected = sum(n * n for n in range(count) if n % BAD_EVERY != 7)
        assert done.value == {"sum": expected, "of": count - bad, "failed": bad}
        assert [failure.document for failure in done.failed] == list(range(7, count, BAD_EVERY))
        assert {failure.code for failure in done.failed} == {"SKILL_FAILED"}
        assert set(mapped(witness)) == {f"{job.id}~m{n}" for n in range(count) if n % BAD_EVERY != 7}
        assert seen == sorted(seen), "progress never goes back"


async def test_a_thousand_documents_with_bad_ones_while_nodes_die(
    fresh: LocalCluster, tmp_path: Path
) -> None:
    await map_while_nodes_die(fresh, 1_000, tmp_path / "seen", 120)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_ten_thousand_documents_with_bad_ones_while_nodes_die(
    fresh: LocalCluster, tmp_path: Path
) -> None:
    await map_while_nodes_die(fresh, 10_000, tmp_path / "seen", 800)


async def test_one_bad_document_too_many_ends_everything(shared: LocalCluster, tmp_path: Path) -> None:
    async with client_of(shared) as client:
        with pytest.raises(TaskFailed) as failed:
            await map_reduce(
                client,
                documents(300, tmp_path / "seen"),
                map="family",
                on_map_failure=skip(2),
                map_options={"max_attempts": 1},
                timeout=60,
            )
        error = failed.value.task.error
        assert error is not None and error.code == "TOO_MANY_FAILED"
        assert "3 of 300 maps failed, 2 may" in error.message
        with pytest.raises(InvalidRequest, match="window"):
            await map_reduce(client, [1], map="echo", window=0)


async def test_results_come_in_order_and_by_key(shared: LocalCluster) -> None:
    async with client_of(shared) as client:
        plain, keyed, nothing = await asyncio.gather(
            map_reduce(client, list(range(30)), map="echo", timeout=60),
            map_reduce(
                client, [{"a": 1}, {"a": 2, "b": 5}], map="echo", reduce="add-up", reducer="keyed", timeout=60
            ),
            map_reduce(client, [], map="echo", timeout=60),
        )
        assert plain == MapReduceResult(list(range(30)), 30)
        assert {key: value["sum"] for key, value in keyed.value.items()} == {"a": 3, "b": 5}
        assert nothing == MapReduceResult([], 0)
