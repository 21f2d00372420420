"""Language model calls of the core's test cluster."""

from __future__ import annotations

from typing import Any

from coterie.core.commands import Outcome, ReleaseTask
from coterie.core.llm.commands import BeginLlmCall, SettleLlmCall
from coterie.core.llm.nouns import LlmVerdict
from coterie.core.nouns import Data, TaskId
from tests.core.builders import CoreCluster

ANSWER = Data(b'{"text":"hi"}')


def begin(cluster: CoreCluster, task_id: str = "t1", **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "task_id": TaskId(task_id),
        "attempt": cluster.task(task_id).attempt,
        "key": "llm",
        "number": 1,
        "provider": "main",
        "model": "m",
        "request_hash": "h",
        "tokens": 100,
        "micro_usd": 50,
    }
    return cluster.do(BeginLlmCall(**{**values, **changes}))


def settle(cluster: CoreCluster, task_id: str = "t1", **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "task_id": TaskId(task_id),
        "attempt": cluster.task(task_id).attempt,
        "key": "llm",
        "number": 1,
        "verdict": LlmVerdict.DONE,
        "result": ANSWER,
        "tokens_in": 10,
        "tokens_out": 5,
        "micro_usd": 7,
    }
    return cluster.do(SettleLlmCall(**{**values, **changes}))


def lose(cluster: CoreCluster, task_id: str = "t1") -> None:
    """The node that held the task is gone; another attempt begins."""
    cluster.do(ReleaseTask(TaskId(task_id), cluster.task(task_id).attempt, "its node is gone", lost=True))
    cluster.assign(task_id)
