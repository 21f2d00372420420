"""Histories as clients record them (see coterie.client.record), made one for the checker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coterie.core.nouns import TaskState
from tests.checker.history import Call, History, Kind, Told, View

_REFUSALS = {"missing": Told.MISSING, "terminal": Told.TERMINAL}


def load(paths: Iterable[Path]) -> History:
    """The calls of all files. Workers are not recorded: the history is open."""
    history = History(closed=False)
    for path in paths:
        history.calls += _calls(path)
    return history


def _calls(path: Path) -> list[Call]:
    calls: dict[int, Call] = {}
    refused: set[int] = set()
    lines = path.read_text("utf-8").splitlines(keepends=True)
    for text in lines:
        if not text.endswith("\n"):
            break  # the client was killed while it wrote
        line = json.loads(text)
        number = line["n"]
        if "call" in line:
            about = {name: line[name] for name in ("task_id", "request_id") if name in line}
            calls[number] = Call(Kind(line["call"]), line["at_us"], **about)
        elif line["told"] == "refused":
            refused.add(number)
        else:
            _answer(calls[number], line)
    return [call for number, call in calls.items() if number not in refused]


def _answer(call: Call, line: Mapping[str, Any]) -> None:
    if line["told"] != "ok":
        call.answered(line["at_us"], _REFUSALS[line["told"]])
    elif call.kind is Kind.READ:
        call.answered(line["at_us"], view_of(line))
    else:
        call.task_id = line["task_id"]
        call.answered(line["at_us"], Told.OK)


def view_of(line: Mapping[str, Any]) -> View:
    return View(
        state=TaskState[line["state"]],
        attempt=line["attempt"],
        cancel_requested=line["cancel_requested"],
        step_count=line["step_count"],
        result=line["result"].encode(),
        request_id=line["request_id"],
    )
