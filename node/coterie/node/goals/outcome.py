"""How the run of a goal ended: counted by code, nothing left out, and made one answer where a reducer can."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import grpc

from coterie.core.graph.flow import Flow
from coterie.core.graph.model import Graph, GraphNode, OnFailure, Reducer
from coterie.core.graph.values import ValueFault
from coterie.core.nouns import Data, Task, TaskId
from coterie.core.runs.reducers import reduced
from coterie.core.runs.run import WORKFLOW
from coterie.core.transitions import TERMINAL
from coterie.node.errors import ApiError
from coterie.node.reads import Found, Reader
from coterie.node.skill_calls import Run, refused
from coterie.node.workflows.runs import graph_left_by

VALUE_CHARS_MAX = 8_000  # of one result, as it is shown to a model
VALUE_BYTES_MAX, VALUES_BYTES_MAX = 4 << 20, 32 << 20  # of results that are read: of one, of all of a run
ANSWER_BYTES_MAX, ROWS_BYTES_MAX, ROWS_MAX, NOTES_MAX = 256 * 1024, 256 * 1024, 1_000, 10
LEDGER_S, LOOK_S = 10.0, 0.05
REDUCERS = frozenset(one.value for one in Reducer)
ON_PARTS = (OnFailure.CONTINUE, OnFailure.SKIP_DEPENDENTS)  # what succeeded counts, whatever failed


async def ended_run(reader: Reader, run: Run, run_id: TaskId, aggregate: str) -> dict[str, Any]:
    """`results` has a row per node. With a reducer, `answer` is what it makes of the last nodes' results."""
    found = await _found(reader, run_id)
    check_its_run(run.task, found.task)
    graph, rows = graph_left_by(found.task)
    given = {step.key: step.result for step in found.steps}
    by_id = {row["id"]: row for row in rows}
    sinks = _sinks(graph)
    first = [*sinks, *(node.node_id for node in graph.nodes)]  # the answer is made of those without followers
    values, unread = await _values(run, {name: given[name] for name in first if name in given})
    results = [_row(node, by_id.get(node.node_id, {}), values, node.node_id in sinks) for node in graph.nodes]
    counts = {"total": len(results), **Counter(row["state"].lower() for row in results)}
    results, notes = _bounded(results)
    notes = [*unread, *notes]
    notes = [*notes[:NOTES_MAX], *([f"and {len(notes) - NOTES_MAX} more"] if len(notes) > NOTES_MAX else [])]
    answer = _bounded_answer(_reduced(aggregate, [values[name] for name in sinks if name in values]))
    if notes and "note" in answer:
        notes.append(answer["note"])
    told: dict[str, Any] = {
        "run": run_id,
        "state": found.task.state.name,
        "error": _error(found.task),
        "on_parts": graph.on_failure in ON_PARTS,
        "counts": counts,
        "results": results,
    }
    return told | answer | ({"note": "; ".join(notes)} if notes else {})


def check_its_run(goal: Task, run: Task) -> None:
    """An id alone proves nothing: somebody may have chosen it before. Raises ApiError TASK_EXISTS."""
    if run.type != WORKFLOW or run.parent_id != goal.task_id or run.tenant != goal.tenant:
        raise refused("TASK_EXISTS", f"task {run.task_id} is not of this goal; submit it under another id")


async def _found(reader: Reader, run_id: TaskId) -> Found:
    """With its steps, which this node's history may get a moment later. Raises ApiError UNAVAILABLE."""
    clock = asyncio.get_running_loop().time
    until = clock() + LEDGER_S
    while True:
        found = await reader.get(run_id, LEDGER_S)
        if found.task.state in TERMINAL and len(found.steps) >= found.task.step_count:
            return found
        if clock() > until:
            text = f"how run {run_id} went is not in this node's history yet"
            raise ApiError(grpc.StatusCode.UNAVAILABLE, "CATCHING_UP", text, retry_after_ms=1_000)
        await asyncio.sleep(LOOK_S)


def _sinks(graph: Graph) -> list[str]:
    """The nodes that nobody stands on: what the run is about."""
    flow = Flow(graph)
    behind = {edge.node for node in graph.nodes for edge in node.depends_on}
    return [name for name in flow.nodes if name not in behind]


def _row(node: GraphNode, row: dict[str, Any], values: dict[str, Any], last: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"task": node.node_id, "state": row.get("state", "SKIPPED"), "last": last}
    told["by"] = ", ".join(node.agents) or node.task_type or node.type.value
    if row.get("code"):
        told |= {"code": row["code"], "message": row.get("message", "")}
    if node.node_id in values:
        told["result"], told["cut"] = _clipped(values[node.node_id])
    return told


def _clipped(value: Any) -> tuple[Any, bool]:
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(said) <= VALUE_CHARS_MAX:
        return value, False
    return f"{said[:VALUE_CHARS_MAX]} [… {len(said) - VALUE_CHARS_MAX} characters left out]", True


def _bounded(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows in at most about ROWS_BYTES_MAX, and what was left out; those without a result stay first."""
    notes = []
    if len(rows) > ROWS_MAX:
        notes.append(f"{len(rows) - ROWS_MAX} of {len(rows)} rows are left out")
        places = sorted(range(len(rows)), key=lambda place: (rows[place]["state"] == "SUCCEEDED", place))
        rows = [rows[place] for place in sorted(places[:ROWS_MAX])]
    share = ROWS_BYTES_MAX // max(1, len(rows))
    for row in rows:
        if "message" in row:
            row["message"] = _head(str(row["message"]), max(100, share // 4))
        if len(said := _said(row.get("result")).encode("utf-8", "replace")) > share:
            row["result"], row["cut"] = f"{_head(_text(row['result']), share)} [… cut]", True
            notes.append(f"{row['task']}: {len(said)} bytes, cut")
    return rows, notes[:NOTES_MAX]


def _bounded_answer(told: dict[str, Any]) -> dict[str, Any]:
    """What is too large to be carried is not lost: it stands in the steps of the run."""
    size = len(_said(told.get("answer")).encode("utf-8", "replace"))
    if size <= ANSWER_BYTES_MAX:
        return told
    text = (
        f"the answer takes {size} bytes, the limit is {ANSWER_BYTES_MAX}: cut; the run's tasks have all of it"
    )
    note = "; ".join(one for one in (told.get("note"), text) if one)
    return {"answer": f"{_head(_text(told['answer']), ANSWER_BYTES_MAX)} [… cut]", "note": note}


def _said(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _said(value)


def _head(text: str, bytes_max: int) -> str:
    """So much of it that its JSON takes at most about `bytes_max` bytes."""
    taken = text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")
    while len(_said(taken).encode("utf-8", "replace")) > bytes_max + 2:
        taken = taken[: len(taken) * 3 // 4]
    return taken


async def _values(run: Run, given: dict[str, Data]) -> tuple[dict[str, Any], list[str]]:
    """What the nodes gave, and what was left unread: all at once may be more than this node has memory."""
    values: dict[str, Any] = {}
    unread, left = [], VALUES_BYTES_MAX
    for name, data in given.items():
        size = data.size_bytes if data.sha256 else len(data.inline)
        if size > min(VALUE_BYTES_MAX, left):
            values[name] = {"bytes": size}
            unread.append(f"{name}: {size} bytes, not read; the run's tasks have all of it")
        else:
            left -= size
            values[name] = _value(await run.load(data) if data.sha256 else data.inline)
            await asyncio.sleep(0)  # a value takes its time to be read
    return values, unread


def _value(content: bytes) -> Any:
    """What a node gave; of an agent's run, its answer."""
    try:
        value = json.loads(content) if content else None
    except (ValueError, RecursionError):
        return {"bytes": len(content)}
    if isinstance(value, dict) and {"answer", "agent", "finish"} <= value.keys():
        return value["data"] if value.get("data") is not None else value["answer"]
    return value


def _reduced(aggregate: str, values: list[Any]) -> dict[str, Any]:
    if aggregate not in REDUCERS:
        return {"answer": values[0]} if len(values) == 1 else {}
    try:
        return {"answer": reduced(Reducer(aggregate), values)}
    except ValueFault as fault:
        return {"answer": values, "note": f"{aggregate} is not possible: {fault.text}; this is the list"}


def _error(task: Task) -> dict[str, str] | None:
    if task.error is None:
        return None
    return {"code": task.error.code, "message": task.error.message}
