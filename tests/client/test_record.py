"""A client's history: what is written when, and that a lost answer is no answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.client import NotFound, Unavailable
from coterie.client.record import HistoryFile
from coterie.core.nouns import TaskState
from tests.checker.check import judge
from tests.checker.files import load
from tests.checker.history import Kind, Told, View
from tests.client.conftest import client_of
from tests.client.fake import FakeCluster


def recorded_client(fake: FakeCluster, path: Path) -> Any:
    client = client_of(fake)
    client.recorder = HistoryFile(path)
    return client


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_calls_are_recorded_with_their_answers(fake: FakeCluster, tmp_path: Path) -> None:
    client = recorded_client(fake, tmp_path / "h")
    async with client:
        job = await client.submit_task(type="echo", payload=1)
        await job.get()
        await fake.finish(job.id)
        await job.wait()
        with pytest.raises(NotFound):
            await client.job("nobody").get()
    client.recorder.close()
    history = load([tmp_path / "h"])
    assert [call.kind for call in history.calls] == [Kind.SUBMIT, Kind.READ, Kind.READ, Kind.READ]
    submit, first, last, missing = history.calls
    assert (submit.answer, submit.task_id, submit.request_id) == (Told.OK, job.id, job.request_id)
    assert isinstance(first.answer, View) and not first.answer.ended
    assert isinstance(last.answer, View) and last.answer.state is TaskState.SUCCEEDED
    assert missing.answer is Told.MISSING
    assert all(call.invoked <= call.returned for call in history.calls)
    assert judge(history).faults == []


async def test_a_lost_answer_leaves_the_outcome_open(fake: FakeCluster, tmp_path: Path) -> None:
    client = recorded_client(fake, tmp_path / "h")
    async with client:
        job = await client.submit_task(type="echo", payload=1)
        for node in fake.nodes:
            await node.stop()
        with pytest.raises(Unavailable):
            await job.get(timeout=0.3)
    client.recorder.close()
    [_, read] = load([tmp_path / "h"]).calls
    assert read.answer is None
    assert [line for line in lines_of(tmp_path / "h") if line["n"] == 2 and "told" in line] == []


async def test_stale_reads_prove_nothing_and_are_not_recorded(fake: FakeCluster, tmp_path: Path) -> None:
    client = recorded_client(fake, tmp_path / "h")
    async with client:
        job = await client.submit_task(type="echo", payload=1)
        await job.get(stale=True)
    client.recorder.close()
    assert len(load([tmp_path / "h"]).calls) == 1


async def test_without_a_recorder_nothing_is_written(fake: FakeCluster, tmp_path: Path) -> None:
    client = client_of(fake)
    assert client.recorder is None
    async with client:
        await (await client.submit_task(type="echo", payload=1)).get()
    assert files_in(tmp_path) == []


def test_a_line_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    with HistoryFile(tmp_path / "h") as recorder:
        number = recorder.invoked("submit", {"request_id": "r1"})
        recorder.answered(number, {"told": "refused"})
        recorder.invoked("submit", {"request_id": "r2"})
    text = (tmp_path / "h").read_text()
    (tmp_path / "h").write_text(text + '{"at_us": 12, "n": 2, "to')
    [call] = load([tmp_path / "h"]).calls
    assert (call.request_id, call.answer) == ("r2", None)
