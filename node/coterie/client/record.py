"""A history of a client's calls: when each was made, when it was answered, and what it was told.

Off unless a recorder is given: `Cluster.recorder = HistoryFile(path)` before the Cluster is opened. A call
without an answer in the history has an unknown outcome: it may have taken effect at any time, or never."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from coterie.client.errors import AlreadyExists, CoterieError, FailedPrecondition, InvalidRequest, NotFound
from coterie.client.models import state_name
from coterie.v1 import tasks_pb2

_TERMINAL = "TASK_TERMINAL"


class Recorder(Protocol):
    """Takes note of calls as they happen, in the client's event loop: it must not block."""

    def invoked(self, call: str, about: Mapping[str, str]) -> int:
        """A call begins; `call` is submit, read or cancel. Returns its number."""

    def answered(self, number: int, answer: Mapping[str, object]) -> None:
        """The call of that number was answered. Calls that got no answer are not heard of again."""


class HistoryFile:
    """A recorder that writes JSON lines: {"n", "at_us", "call", ...} and {"n", "at_us", "told", ...}.

    `at_us` is this machine's monotonic clock, which all processes on it share."""

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed by close
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def invoked(self, call: str, about: Mapping[str, str]) -> int:
        self._number += 1
        self._write({"n": self._number, "call": call, **about})
        return self._number

    def answered(self, number: int, answer: Mapping[str, object]) -> None:
        self._write({"n": number, **answer})

    def close(self) -> None:
        """What is called afterwards raises ValueError."""
        self._file.close()

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps({"at_us": time.monotonic_ns() // 1_000, **line}) + "\n")


async def recorded(
    recorder: Recorder | None, call: str, work: Awaitable[tasks_pb2.Task], **about: str
) -> tasks_pb2.Task:
    """The result of `work`, noted with its times when there is a recorder."""
    if recorder is None:
        return await work
    number = recorder.invoked(call, about)
    try:
        task = await work
    except CoterieError as error:
        told = _refusal(error)
        if told:
            recorder.answered(number, {"told": told})
        raise
    recorder.answered(number, {"told": "ok", **_seen(task)})
    return task


def _refusal(error: CoterieError) -> str:
    """What a refusal proves; empty: the call may have taken effect all the same."""
    if isinstance(error, NotFound):
        return "missing"
    if isinstance(error, FailedPrecondition) and error.reason == _TERMINAL:
        return "terminal"
    return "refused" if isinstance(error, InvalidRequest | AlreadyExists) else ""


def _seen(task: tasks_pb2.Task) -> dict[str, object]:
    blob = task.result.blob.sha256
    return {
        "task_id": task.task_id,
        "request_id": task.request_id,
        "state": state_name(task.state),
        "attempt": task.attempt,
        "cancel_requested": task.cancel_requested,
        "step_count": task.step_count,
        "result": blob or task.result.inline.hex(),
    }
