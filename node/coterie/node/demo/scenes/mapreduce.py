"""One map_reduce over real files, a few of them bad, while the leader and another node are killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from coterie.client import Job, MapReduceResult, Progress, skip, start_map_reduce
from coterie.node.demo.crowd import steps_once
from coterie.node.demo.documents import Choice, choose_documents, default_sources
from coterie.node.demo.evidence import read_histories
from coterie.node.demo.journal import Journal
from coterie.node.demo.proof import Check
from coterie.node.demo.stage import Scene, Stage
from coterie.node.demo.work import MAP_TYPE, REDUCE_TYPE
from coterie.skills.document_map.handler import words_step
from coterie.skills.document_map.survey import detect_kind

GOOD, BAD_EVERY = 240, 30
WINDOW = 40
TIMEOUT = "150s"


async def play(stage: Stage) -> Sequence[Check]:
    """One task maps and reduces; nobody here waits for single documents."""
    choice = choose_documents(default_sources(), GOOD)
    documents, bad = _with_bad_ones(choice)
    journal = stage.journal
    journal.total, journal.phase, journal.map_started_at = len(documents), "map", time.monotonic()
    seen: list[float] = []
    job = await start_map_reduce(
        stage.cluster,
        documents,
        map=MAP_TYPE,
        reduce=REDUCE_TYPE,
        results_as="documents",
        on_map_failure=skip(len(bad)),
        window=WINDOW,
        on_progress=lambda progress: _note(journal, seen, progress),
    )
    stage.say(f"{len(documents)} documents, {len(bad)} of them bad, are one task: {job.id}")
    async with asyncio.TaskGroup() as group:
        group.create_task(_kill_two(stage))
        result = MapReduceResult.of(await job.wait(timeout=TIMEOUT))
        # Progress is told now and then, and the last of it may never be.
        for number in range(journal.done, journal.total):
            journal.finish(f"m{number}")
    return [
        *_complete(result, choice, bad),
        *await _ran_once(stage, job, len(documents), bad),
        _forward(seen),
    ]


async def _kill_two(stage: Stage) -> None:
    """The leader at one third, another node at two thirds: three of five remain."""
    for part, who in ((1, "which leads"), (2, "which does not lead")):
        await stage.journal.until_done(stage.journal.total * part // 3)
        leader = (await stage.cluster.get_status()).leader
        others = [node_id for node_id in stage.nodes.node_ids if node_id != leader]
        victim = leader if part == 1 else next(node_id for node_id in others if stage.nodes.alive(node_id))
        stage.nodes.kill_node(victim)
        stage.say(f"kill -9 {victim}, {who}, after {stage.journal.done} documents")


def _with_bad_ones(choice: Choice) -> tuple[list[dict[str, Any]], list[int]]:
    """The documents, with one among them every now and then that no map can read; the places of those."""
    documents: list[dict[str, Any]] = []
    bad: list[int] = []
    for number, document in enumerate(choice.documents):
        if number % BAD_EVERY == BAD_EVERY // 2:
            bad.append(len(documents))
            documents.append({"path": f"bad-{number}", "text": number})
        documents.append({"path": document.path, "text": document.text})
    return documents, bad


def _note(journal: Journal, seen: list[float], progress: Progress) -> None:
    """The bar moves with the progress of the one task."""
    if not seen or progress.percent - seen[-1] > 10:
        journal.say(f"{progress.percent:.0f} %: {progress.message}")
    seen.append(progress.percent)
    mapped = progress.message.partition(" of ")[0]
    for number in range(journal.done, int(mapped) if mapped.isdecimal() else journal.total):
        journal.finish(f"m{number}")


def _complete(result: MapReduceResult, choice: Choice, bad: Sequence[int]) -> list[Check]:
    """What was reduced is all of it, and what is missing is named."""
    report: Mapping[str, Any] = result.value["report"]
    listed = [failure.document for failure in result.failed]
    reduced = {row["path"] for row in report["documents"]}
    lost = [document.path for document in choice.documents if document.path not in reduced]
    words = sum(
        words_step(detect_kind(document.path, document.text), document.text)["words"]
        for document in choice.documents
    )
    counted = report["totals"]["words"]
    return [
        Check("documents that are in the report", f"{len(reduced)}", not lost, f"of {len(choice.documents)}"),
        Check(
            "bad documents, each listed with its reason", f"{len(listed)}", listed == bad, f"of {len(bad)}"
        ),
        Check("words in the report", f"{counted:,}", counted == words, f"{words:,} counted here"),
    ]


async def _ran_once(stage: Stage, job: Job, count: int, bad: Sequence[int]) -> list[Check]:
    """Of the maps: each ended once, and no completed step ran again."""
    stage.journal.phase = "read back"
    histories = await read_histories(stage.cluster, [f"{job.id}~m{number}" for number in range(count)])
    good = sum(history.state == "SUCCEEDED" for history in histories)
    ends = sum(history.terminal_events != 1 for history in histories)
    moved = sum(bool(history.resumed) for history in histories)
    killed = sum(not stage.nodes.alive(node_id) for node_id in stage.nodes.node_ids)
    return [
        Check("maps that succeeded", f"{good}", good == count - len(bad), f"of {count}"),
        Check("maps that did not end exactly once", f"{ends}", ends == 0, "terminal events in each history"),
        Check("nodes killed on the way", f"{killed}", killed == 2, f"{moved} maps went on elsewhere"),
        steps_once(histories),
    ]


def _forward(seen: Sequence[float]) -> Check:
    back = sum(later < earlier for earlier, later in pairwise(seen))
    return Check("times that the progress went back", f"{back}", back == 0, f"of {len(seen)} told")


SCENE = Scene(
    title="One map_reduce over real files, some of them bad, while two nodes are killed.",
    play=play,
    unit="documents",
    nodes=5,
    capacity=4,
)
