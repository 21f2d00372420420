"""The judgement after a run: was anything acknowledged lost, doubled or repeated, and do all nodes agree?"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.client import Cluster, CoterieError
from coterie.raft import journal_format as form
from tests.chaos.field import Field
from tests.chaos.load import STEPS, Record
from tests.chaos.lookout import leaders_by_term
from tests.chaos.report import Report

AGREE_S = 60.0  # for the nodes to catch up; the time they took is in the figures
PAGE = 1_000
AT_ONCE = 32

End = tuple[str, int, str]  # state, attempt, time of the end


@dataclass(frozen=True, slots=True)
class Listed:
    """A task as one node lists it."""

    task_id: str
    request_id: str
    end: End


async def judge(
    field: Field,
    record: Record,
    witness: Path,
    report: Report,
    *,
    since: float | None = None,
    drain_s: float = AGREE_S,
) -> None:
    """Fill the report: lost, doubled and repeated work, and nodes that differ. All nodes must be running.
    since: when the last fault was undone, on the monotonic clock; None: now. drain_s: for what is queued."""
    began = time.monotonic() if since is None else since
    async with field.client() as client:
        left = await _finished(client, drain_s)
        report.figures["terminal_after_s"] = round(time.monotonic() - began, 2)
        report.demand(not left, f"{left} tasks were not finished {drain_s:g} s after the end")
        repeated = await _repeated_steps(client, record, witness)
    report.violations += repeated
    listed = {node_id: await _listed(field, node_id) for node_id in field.node_ids}
    _judge_tasks(record, listed, report)
    hashes = await agreed_hashes(field)
    report.demand(len(set(hashes.values())) == 1, f"the nodes' states differ: {hashes}")
    _judge_terms(field, report)
    report.figures |= {
        "acked": len(record.acks),
        "stepped": len(record.stepped),
        "errors": dict(record.errors),
    }
    report.figures["repeated_steps"] = len(repeated)


async def _finished(client: Cluster, drain_s: float) -> int:
    """Wait until nothing is live. Returns how many tasks are left at the end of patience."""
    deadline = time.monotonic() + drain_s
    while True:
        left = -1
        try:
            left = (await client.get_status(timeout=5)).active_tasks
        except CoterieError:
            if time.monotonic() > deadline:
                raise
        if left == 0 or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.1)


async def _listed(field: Field, node_id: str) -> list[Listed]:
    """Every task, as this node has it after a look at the leader's commit index."""
    async with field.client(node_id) as client:
        return [
            Listed(task.id, task.request_id, (task.state, task.attempt, str(task.end_time)))
            async for task in client.list_tasks(page_size=PAGE)
        ]


def _judge_tasks(record: Record, listed: dict[str, list[Listed]], report: Report) -> None:
    lost = doubled = unlike = failed = 0
    first = {task.task_id: task.end for task in next(iter(listed.values()))}
    for tasks in listed.values():
        ends = {task.task_id: task.end for task in tasks}
        lost += sum(ack.task_id not in ends for ack in record.acks)
        failed += sum(ends.get(ack.task_id, ("SUCCEEDED",))[0] != "SUCCEEDED" for ack in record.acks)
        doubled += len(tasks) - len(ends)
        doubled += sum(count > 1 for count in Counter(task.request_id for task in tasks).values())
        unlike += len(set(ends.items()) ^ set(first.items()))
    doubled += len(record.acks) - len({ack.task_id for ack in record.acks})
    report.figures |= {"lost": lost, "doubled": doubled, "unlike": unlike}
    report.demand(lost == 0, f"{lost} acknowledged tasks are missing on some node")
    report.demand(failed == 0, f"{failed} acknowledged tasks did not succeed")
    report.demand(doubled == 0, f"{doubled} tasks are there twice")
    report.demand(unlike == 0, f"{unlike} ends of tasks differ between nodes")


async def _repeated_steps(client: Cluster, record: Record, witness: Path) -> list[str]:
    """A step that ran in a later attempt than the one that completed it, in words."""
    runs = _runs(witness)
    found: list[str] = []
    gate = asyncio.Semaphore(AT_ONCE)

    async def look(task_id: str) -> None:
        async with gate:
            info = await client.job(task_id).get(include_steps=True)
        completed = {step.name: step.attempt for step in info.steps}
        if len(completed) != STEPS:
            found.append(f"{task_id} has {len(completed)} steps, not {STEPS}")
        for step, attempt in runs[task_id]:
            if attempt > completed.get(step, attempt):
                found.append(f"{step} of {task_id} ran again in attempt {attempt}")

    await asyncio.gather(*map(look, record.stepped))
    return found


def _runs(witness: Path) -> dict[str, list[tuple[str, int]]]:
    """Every (step, attempt) a task's handler has run, by task."""
    runs: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for line in witness.read_text().splitlines() if witness.exists() else ():
        task_id, step, attempt, _ = line.split()
        runs[task_id].append((f"step-{step}", int(attempt)))
    return runs


async def agreed_hashes(field: Field, node_ids: Iterable[str] = ()) -> dict[str, str]:
    """The state hash of every node, all at one applied index; at the end of patience as they are."""
    names = list(node_ids) or field.node_ids
    deadline = time.monotonic() + AGREE_S
    while True:
        answers: list[Any] = await asyncio.gather(*(_hash_of(field, name) for name in names))
        if len({answer[0] for answer in answers}) == 1 and answers[0][0] >= 0:
            return {name: digest for name, (_, digest) in zip(names, answers, strict=True)}
        if time.monotonic() > deadline:
            return {name: f"{digest} at {at}" for name, (at, digest) in zip(names, answers, strict=True)}
        await asyncio.sleep(0.2)


async def _hash_of(field: Field, node_id: str) -> tuple[int, str]:
    try:
        async with field.client(node_id, call_s=5.0) as client:
            status = await client.get_status(stale=True, state_hash=True)
            return status.raw.applied_index, status.raw.state_hash
    except CoterieError as error:
        return -1, f"no answer ({error})"


def _judge_terms(field: Field, report: Report) -> None:
    leaders = leaders_by_term(field)
    report.figures |= {"terms": max(leaders, default=0), "leader_changes": max(len(leaders) - 1, 0)}
    for term, names in leaders.items():
        report.demand(len(names) == 1, f"term {term} had several leaders: {sorted(names)}")


def judge_journals(field: Field, report: Report) -> None:
    """After the nodes have been stopped: no node voted twice in a term, and where two logs have an entry of
    the same index and term it is the same entry."""
    votes: dict[tuple[str, int], set[str]] = defaultdict(set)
    entries: dict[tuple[int, int], bytes] = {}
    for node_id in field.node_ids:
        for record in journal_records(field, node_id):
            if isinstance(record, form.VoteRecord) and record.voted_for is not None:
                votes[node_id, record.term].add(record.voted_for)
            if isinstance(record, form.EntryRecord):
                known = entries.setdefault((record.index, record.term), record.command)
                same = known == record.command
                report.demand(same, f"entry {record.index} of term {record.term} differs on {node_id}")
    twice = {key: names for key, names in votes.items() if len(names) > 1}
    report.figures |= {"votes": len(votes), "voted_twice": len(twice), "entries_compared": len(entries)}
    report.demand(not twice, f"votes for two candidates in a term: {twice}")
    report.demand(bool(entries), "no journal held any entry")


def journal_records(field: Field, node_id: str) -> list[form.Record]:
    """Everything in a node's journal."""
    path = field.data_dir(node_id) / "raft" / "raft.journal"
    raw = path.read_bytes()
    *_, salt, start = form.read_header(raw, str(path), form.Identity("coterie-dev", node_id))
    return form.read_blocks(raw, str(path), salt, start)[0]
